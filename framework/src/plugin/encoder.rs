//! Frozen vision encoders, whose features are the target of alignment.

use std::fmt::Debug;
use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::{Device, Tensor};

use super::grid::PatchGrid;
use crate::erase::Erased;
use crate::recipe::Check;
use crate::registry::Described;

/// What an encoder returns.
///
/// # Shapes
/// * `tokens`: `[batch, grid.tokens(), channels]`
/// * `class_token`: `[batch, channels]`
#[derive(Debug, Clone)]
pub struct Features {
    /// Patch tokens in row-major order.
    pub tokens: Tensor<3>,
    /// The global token, where the encoder has one.
    pub class_token: Option<Tensor<2>>,
}

/// A frozen network from pictures to patch tokens. It owns its preprocessing.
///
/// ```
/// use realign::plugin::Encoder;
/// use burn::tensor::Tensor;
/// fn tokens(encoder: &dyn Encoder, images: Tensor<4>) -> anyhow::Result<Tensor<3>> {
///     Ok(encoder.encode(images)?.tokens)
/// }
/// ```
pub trait Encoder: Erased<EncoderKind> {
    /// Features of a batch, in f32, on the grid and with the channels of its [`EncoderSpec`].
    ///
    /// # Shapes
    /// * `images`: `[batch, 3, image_size, image_size]`, RGB in 0..255
    ///
    /// # Errors
    /// The pictures do not have the size that the encoder was built for.
    fn encode(&self, images: Tensor<4>) -> Result<Features>;

    /// Whether it computes in the host's memory: each call then waits for the pictures to come back from the device.
    /// All others must not read a tensor, so that no training step waits.
    fn works_on_host(&self) -> bool {
        false
    }
}
crate::module_kind!(
    /// Encoders as a kind of plugin.
    EncoderKind, "encoder", Encoder
);

/// Sizes that an encoder states before it is built.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Grid of its patch tokens.
    pub grid: PatchGrid,
    /// Channels of its tokens.
    pub channels: usize,
    /// Files it needs, with the command that gets each.
    pub weights: Vec<WeightFile>,
}

/// A file of published weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// Where it is looked for.
    pub path: PathBuf,
    /// How to get it.
    pub command: String,
}

/// What an encoder is told about the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderContext {
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Grid of the backbone that is aligned; below 256 pixels encoders follow it.
    pub backbone_grid: PatchGrid,
    /// Folder of published weights, for encoders whose recipe names no file.
    pub weights_dir: PathBuf,
}

/// An encoder as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait EncoderConfig: Described + Debug + Send + Sync {
    /// Sizes for pictures of the run's size.
    ///
    /// # Errors
    /// The picture size does not fit.
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec>;

    /// Builds it.
    ///
    /// # Errors
    /// A missing or unfit weight file.
    fn build(&self, ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>>;

    /// What a reader of the run's description should know beside the sizes, one sentence each.
    ///
    /// # Errors
    /// As [`spec`](Self::spec).
    fn notes(&self, _ctx: &EncoderContext) -> Result<Vec<String>> {
        Ok(vec![])
    }

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
