//! The class token, mixed into the patches.

use realign::burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much of the class token patches get: global information at the price of spatial contrast.
///
/// Source: the iREPA paper, section 2; iREPA `ldm/vision_encoder.py`, `DINOv2MixedEncoder`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClsMixing {
    /// The formula.
    pub mode: Mixing,
    /// Share of the class token, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
}

/// Formula of the mixture. Directions are equal at `alpha` of the convex and `alpha / (1 − alpha)` of the additive one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// `alpha · class + (1 − alpha) · patch`, the published code's.
    Convex,
    /// `patch + alpha · class`, the paper's.
    Additive,
}

impl ClsMixing {
    /// # Shapes
    /// * `patches` and result: `[batch, tokens, channels]`
    /// * `class_token`: `[batch, channels]`
    pub fn mix(self, patches: Tensor<3>, class_token: Tensor<2>) -> Tensor<3> {
        let kept = match self.mode {
            Mixing::Convex => patches * (1.0 - self.alpha),
            Mixing::Additive => patches,
        };
        kept + class_token.unsqueeze_dim::<3>(1) * self.alpha
    }
}
