//! Alignment loss `my_idea`: mean squared distance between projected tokens and target.

use burn::tensor::Tensor;
use realign::plugin::{AlignmentLoss, AlignmentLossConfig};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: squared distance, averaged over batch, tokens and channels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Factor of the loss, above 0 and up to 1000.
    #[schemars(range(max = 1000.0), extend("exclusiveMinimum" = 0.0))]
    pub scale: f64,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

#[typetag::serde(name = "my_idea")]
impl AlignmentLossConfig for MyIdeaConfig {
    fn build(&self) -> Box<dyn AlignmentLoss> {
        Box::new(MyIdea { scale: self.scale })
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("scale", self.scale, f64::MIN_POSITIVE, 1000.0);
    }
}

realign::register!(AlignmentLossConfig as "alignment_loss": MyIdeaConfig);

/// The built loss `my_idea`.
#[derive(Debug)]
pub struct MyIdea {
    scale: f64,
}

impl AlignmentLoss for MyIdea {
    fn loss(&self, target: Tensor<3>, projected: Tensor<3>, _tap: Tensor<3>) -> Tensor<1> {
        (projected - target.detach()).square().mean() * self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn loss(target: Tensor<3>, projected: Tensor<3>) -> Tensor<1> {
        MyIdeaConfig { scale: 3.0 }.build().loss(target, projected.clone(), projected)
    }

    #[test]
    fn equal_tokens_cost_nothing_and_others_their_squared_distance() {
        let tokens = Tensor::<3>::ones([3, 35, 12], &Device::flex());
        assert_eq!(loss(tokens.clone(), tokens.clone()).into_scalar::<f32>(), 0.0);
        assert_eq!(loss(tokens.clone(), tokens * 3.0).into_scalar::<f32>(), 12.0);
    }

    #[test]
    fn the_gradient_reaches_the_projected_tokens_and_not_the_target() {
        let device = Device::flex().autodiff();
        let target = Tensor::<3>::ones([3, 5, 7], &device).require_grad();
        let projected = Tensor::<3>::zeros([3, 5, 7], &device).require_grad();
        let gradients = loss(target.clone(), projected.clone()).backward();
        assert!(target.grad(&gradients).is_none());
        let slope: f32 = projected.grad(&gradients).unwrap().sum().into_scalar();
        assert!((slope + 6.0).abs() < 1e-4, "{slope}");
    }

    #[test]
    fn a_recipe_can_name_it_and_unknown_keys_are_refused() {
        let parse = |text: &str| realign::serde_yaml::from_str::<Box<dyn AlignmentLossConfig>>(text);
        assert!(parse("{type: my_idea, scale: 0.5}").is_ok());
        assert!(parse("{type: my_idea, scael: 0.5}").is_err());
    }
}
