//! Dense SIFT descriptors as an encoder that needs no weights.

mod encoder;
pub mod kornia;
mod opencv;

pub use encoder::{Sift, SiftConfig, SiftVariant};
