//! Negative cosine similarity, REPA's alignment loss.

use realign::burn::tensor::Tensor;
use realign::ops;
use realign::plugin::{AlignmentLoss, AlignmentLossConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const EPS: f64 = 1e-12; // smallest norm that is divided by: PyTorch's normalize

/// `cosine`: minus the mean cosine similarity of tokens, in [-1, 1].
///
/// Source: REPA, equation 8; iREPA `ldm/projection_loss.py`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineConfig {}

impl AlignmentLoss for CosineConfig {
    fn loss(&self, target: Tensor<3>, projected: Tensor<3>, _tap: Tensor<3>) -> Tensor<1> {
        ops::mean_cosine_similarity(projected, target, EPS).neg()
    }
}

#[typetag::serde(name = "cosine")]
impl AlignmentLossConfig for CosineConfig {
    fn build(&self) -> Box<dyn AlignmentLoss> {
        Box::new(*self)
    }
}

realign::register!(AlignmentLossConfig as "alignment_loss": CosineConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::{Device, Distribution};

    #[test]
    fn parallel_tokens_reach_minus_one_and_opposite_tokens_one() {
        let x = Tensor::<3>::random([3, 35, 12], Distribution::Normal(0.0, 1.0), &Device::flex());
        let loss = |a: Tensor<3>| CosineConfig {}.loss(x.clone(), a, x.clone()).into_scalar::<f32>();
        assert!((loss(x.clone() * 3.0) + 1.0).abs() < 1e-5);
        assert!((loss(x.clone() * -0.5) - 1.0).abs() < 1e-5);
    }
}
