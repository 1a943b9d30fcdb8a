//! SAM's image encoder, the one before SAM 2.

mod attention;
mod encoder;
mod network;

pub use encoder::{Sam, SamConfig, SamSize, layout, tokens};
pub use network::{ImageEncoder, SamSizes};
