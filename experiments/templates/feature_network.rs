//! Feature network `my_idea`: the mean color of a picture.

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use realign::eval::generation::Metric;
use realign::plugin::{FeatureContext, FeatureNetwork, FeatureNetworkConfig, NetworkOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: mean colors, whose distance from a reference `eval` measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {}

#[typetag::serde(name = "my_idea")]
impl FeatureNetworkConfig for MyIdeaConfig {
    fn label(&self) -> String {
        "my_idea".into()
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::FrechetDistance, Metric::Precision, Metric::Recall]
    }

    fn build(&self, _ctx: &FeatureContext, _device: &Device) -> Result<Box<dyn FeatureNetwork>> {
        Ok(Box::new(MyIdea))
    }
}

realign::register!(FeatureNetworkConfig as "feature_network": MyIdeaConfig);

/// The built network `my_idea`; one with parameters is a burn module, and `realign::weights::digest` hashes it.
#[derive(Debug)]
pub struct MyIdea;

impl FeatureNetwork for MyIdea {
    fn features(&self, images: Tensor<4>) -> Result<NetworkOutput> {
        let features = images.mean_dim(2).mean_dim(3).flatten::<2>(1, 3); // [batch, 3]
        Ok(NetworkOutput { features, spatial: None, logits: None })
    }

    fn digest(&self) -> String {
        "no weights".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_mean_color_and_the_numbers_have_its_name() {
        let context = FeatureContext { picture_size: [5, 7], weights_dir: "pretrained_models".into() };
        let network = MyIdeaConfig {}.build(&context, &Device::flex()).unwrap();
        let found = network.features(Tensor::full([2, 3, 5, 7], 9.0, &Device::flex())).unwrap().features;
        assert_eq!(found.dims(), [2, 3]);
        assert!((found - 9.0).abs().max().into_scalar::<f32>() < 1e-5);
        assert_eq!(MyIdeaConfig {}.metric_name(Metric::FrechetDistance), "fd_my_idea");
    }

    #[test]
    fn a_recipe_can_name_it_and_unknown_keys_are_refused() {
        let parse = |text: &str| realign::serde_yaml::from_str::<Box<dyn FeatureNetworkConfig>>(text);
        assert!(parse("{type: my_idea}").is_ok());
        assert!(parse("{type: my_idea, shaer: 0.5}").is_err());
    }
}
