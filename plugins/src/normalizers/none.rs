//! Features as they are: REPA.

use realign::burn::tensor::Tensor;
use realign::plugin::{Normalizer, NormalizerConfig, PatchGrid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `none`: features as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NoneConfig {}

impl Normalizer for NoneConfig {
    fn normalize(&self, features: Tensor<3>, _grid: PatchGrid) -> Tensor<3> {
        features
    }
}

#[typetag::serde(name = "none")]
impl NormalizerConfig for NoneConfig {
    fn build(&self) -> Box<dyn Normalizer> {
        Box::new(*self)
    }
}

realign::register!(NormalizerConfig as "normalizer": NoneConfig);
