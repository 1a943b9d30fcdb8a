//! Layers that backbones and projectors are built from, with PyTorch's parameter names and layouts.
//!
//! Parameters are declared with a shape and an [`Init`] and get their values when first used, so a network can be
//! shape-checked or filled from a file without its random weights ever being made.

mod batch_norm;
mod conv;
mod embedding;
mod init;
mod linear;
mod norm;
mod patch;
mod position;
mod sequential;
mod time;

pub use batch_norm::BatchNorm2d;
pub use conv::{Conv2d, GridConv2d};
pub use embedding::Embedding;
pub use init::{Init, ParamBuilder};
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm, RmsNorm};
pub use patch::{PatchEmbed, patchify, unpatchify};
pub use position::{RotaryTable, sincos_position_table};
pub use sequential::Sequential;
pub use time::{TimestepEmbedder, time_features};
