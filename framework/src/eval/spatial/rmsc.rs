//! Contrast of tokens, wherever they lie.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kernel::{UNIT_EPS, unit_tokens};

/// Settings of [`rmsc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rmsc {
    /// Whether the root is taken, as in the paper.
    pub sqrt: bool,
}

impl Default for Rmsc {
    fn default() -> Self {
        Self { sqrt: true }
    }
}

impl Rmsc {
    /// Values of a batch.
    ///
    /// # Shapes
    /// * `tokens`: `[batch, tokens, channels]`; result: `[batch]`
    pub fn measure(&self, tokens: Tensor<3>) -> Tensor<1> {
        rmsc(tokens, self.sqrt)
    }
}

/// Root mean square distance of the unit tokens from their mean; without the root where `sqrt` is not set.
///
/// # Shapes
/// * `tokens`: `[batch, tokens, channels]`; result: `[batch]`
pub fn rmsc(tokens: Tensor<3>, sqrt: bool) -> Tensor<1> {
    let [batch, ..] = tokens.dims();
    let unit = unit_tokens(tokens, UNIT_EPS);
    let mean = unit.clone().mean_dim(1); // [batch, 1, channels]
    let square = (unit - mean).square().sum_dim(2).mean_dim(1).reshape([batch]);
    if sqrt { square.sqrt() } else { square }
}
