//! Normalizer `my_idea`: takes a share of the mean token away from every token.

use burn::tensor::Tensor;
use realign::plugin::{Normalizer, NormalizerConfig, PatchGrid};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: features minus a share of their mean over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Share of the mean token that is taken away, in [0, 1].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { share: 1.0 }
    }
}

#[typetag::serde(name = "my_idea")]
impl NormalizerConfig for MyIdeaConfig {
    fn build(&self) -> Box<dyn Normalizer> {
        Box::new(MyIdea { share: self.share })
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("share", self.share, 0.0, 1.0);
    }
}

realign::register!(NormalizerConfig as "normalizer": MyIdeaConfig);

/// The built normalizer `my_idea`.
#[derive(Debug)]
pub struct MyIdea {
    share: f64,
}

impl Normalizer for MyIdea {
    fn normalize(&self, features: Tensor<3>, _grid: PatchGrid) -> Tensor<3> {
        let mean = features.clone().mean_dim(1); // [batch, 1, channels]
        features - mean * self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    fn mean_after(share: f64) -> (f32, f32) {
        let features = Tensor::<3>::random([3, 35, 12], Distribution::Uniform(1.0, 3.0), &Device::flex());
        let normalized = MyIdeaConfig { share }.build().normalize(features.clone(), PatchGrid::new(5, 7));
        assert_eq!(normalized.dims(), [3, 35, 12]);
        (features.mean().into_scalar(), normalized.mean().into_scalar())
    }

    #[test]
    fn the_stated_share_of_the_mean_is_gone() {
        for share in [0.0, 0.6, 1.0] {
            let (before, after) = mean_after(share);
            assert!((after - before * (1.0 - share as f32)).abs() < 1e-4, "{share}: {before} {after}");
        }
    }

    #[test]
    fn a_recipe_can_name_it_and_unknown_keys_are_refused() {
        let parse = |text: &str| realign::serde_yaml::from_str::<Box<dyn NormalizerConfig>>(text);
        assert!(parse("{type: my_idea, share: 0.5}").is_ok());
        assert!(parse("{type: my_idea, shaer: 0.5}").is_err());
    }
}
