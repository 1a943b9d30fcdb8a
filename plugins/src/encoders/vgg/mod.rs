//! VGG's convolutions as an encoder.

mod encoder;
mod network;

pub use encoder::{Vgg, VggConfig, VggSize, layout};
pub use network::{Layer, VggFeatures};
