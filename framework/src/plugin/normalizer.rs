//! Parameter-free maps of encoder features before they become a target.

use std::fmt::Debug;

use burn::tensor::Tensor;

use super::grid::PatchGrid;
use crate::recipe::Check;
use crate::registry::Described;

/// A map from features to features.
pub trait Normalizer: Debug + Send + Sync {
    /// # Shapes
    /// * `features` and result: `[batch, grid.tokens(), channels]`
    fn normalize(&self, features: Tensor<3>, grid: PatchGrid) -> Tensor<3>;
}

/// A normalizer as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait NormalizerConfig: Described + Debug + Send + Sync {
    /// Builds it.
    fn build(&self) -> Box<dyn Normalizer>;

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
