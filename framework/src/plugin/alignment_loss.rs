//! Distance between projected tokens and encoder features.

use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::recipe::Check;
use crate::registry::Described;

/// A loss over tokens, averaged over batch and tokens (REPA, equation 8). No gradient reaches the target.
pub trait AlignmentLoss: Debug + Send + Sync {
    /// The distance of projected tokens from their target, in f32; the lower, the better aligned.
    ///
    /// # Shapes
    /// * `target`, `projected`: `[batch, tokens, target_channels]`
    /// * `tap`: `[batch, tokens, hidden_size]`, the tokens before projection
    /// * result: `[1]`
    fn loss(&self, target: Tensor<3>, projected: Tensor<3>, tap: Tensor<3>) -> Tensor<1>;
}

/// An alignment loss as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait AlignmentLossConfig: Described + Debug + Send + Sync {
    /// Builds it.
    fn build(&self) -> Box<dyn AlignmentLoss>;

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
