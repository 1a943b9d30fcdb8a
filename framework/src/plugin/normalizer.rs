//! Parameter-free maps of encoder features before they become a target.

use std::fmt::Debug;

use burn::tensor::Tensor;

use super::grid::PatchGrid;
use crate::recipe::Check;
use crate::registry::Described;

/// A map from features to features without parameters (the paper, section 4 and algorithm 1).
///
/// ```
/// use realign::plugin::{Normalizer, PatchGrid};
/// use burn::tensor::Tensor;
/// fn target(normalizer: &dyn Normalizer, features: Tensor<3>) -> Tensor<3> {
///     normalizer.normalize(features, PatchGrid::new(5, 7))
/// }
/// ```
pub trait Normalizer: Debug + Send + Sync {
    /// Features as a target of alignment. No gradient passes; sums over tokens are in f32.
    ///
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
