//! Trained maps from backbone tokens to an encoder's feature space.

use std::fmt::Debug;

use anyhow::Result;
use burn::tensor::Tensor;

use super::grid::PatchGrid;
use crate::erase::Erased;
use crate::nn::ParamBuilder;
use crate::recipe::Check;
use crate::registry::Described;

/// A trained map of tokens that keeps their grid (REPA, equation 8; the paper, section 4).
///
/// ```
/// use realign::plugin::{PatchGrid, Projector};
/// use burn::tensor::Tensor;
/// fn project(projector: &dyn Projector, tokens: Tensor<3>) -> Tensor<3> {
///     projector.forward(tokens, PatchGrid::new(5, 7))
/// }
/// ```
pub trait Projector: Erased<ProjectorKind> {
    /// Tokens of the backbone, row-major on their grid, in the encoder's feature space. All in f32.
    ///
    /// # Shapes
    /// * `tokens`: `[batch, grid.tokens(), hidden_size]`
    /// * result: `[batch, grid.tokens(), target_channels]`
    fn forward(&self, tokens: Tensor<3>, grid: PatchGrid) -> Tensor<3>;
}
crate::module_kind!(
    /// Projectors as a kind of plugin.
    ProjectorKind, "projector", Projector
);

/// Sizes that a projector joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectorContext {
    /// Channels of the backbone's tokens.
    pub hidden_size: usize,
    /// Channels of the encoder's tokens.
    pub target_channels: usize,
    /// The tokens' grid.
    pub grid: PatchGrid,
}

/// A projector as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait ProjectorConfig: Described + Debug + Send + Sync {
    /// Declares the parameters; their values are made when first used.
    ///
    /// # Errors
    /// The sizes do not fit.
    fn build(&self, ctx: &ProjectorContext, params: &ParamBuilder) -> Result<Box<dyn Projector>>;

    /// Floating-point operations of one forward pass of one sample, a multiply-add counted as two.
    fn forward_flops(&self, ctx: &ProjectorContext) -> f64;

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
