//! SAM 2's image encoder, as far as its features go: the trunk without the neck.

mod encoder;
mod hiera;

pub use encoder::{Sam2, Sam2Config, Sam2Size, layout};
pub use hiera::{Hiera, HieraSizes};
