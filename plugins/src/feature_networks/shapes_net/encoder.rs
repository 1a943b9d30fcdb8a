//! The network as an encoder: what the program `classification` trains, and a target of alignment.

use anyhow::{Context, Result, ensure};
use realign::burn::tensor::{Device, Tensor};
use realign::nn::ParamBuilder;
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, Features, PatchGrid};
use realign::weights::{KeyMap, load_state_dict, parse_safetensors};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::{CHANNELS, GRID, ShapesNet};
use crate::encoders::weight_choice::WeightChoice;

/// `shapes_net`: a small convolutional network, trained on the data set `shapes`; 4 x 4 tokens of 64 channels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShapesNetEncoder {
    /// File of weights; those that are part of the program when left out. `random` draws them.
    pub weights: Option<WeightChoice>,
    /// Seed of `weights: random`.
    pub seed: u64,
}

#[typetag::serde(name = "shapes_net")]
impl EncoderConfig for ShapesNetEncoder {
    fn spec(&self, _ctx: &EncoderContext) -> Result<EncoderSpec> {
        Ok(EncoderSpec { grid: PatchGrid::new(GRID, GRID), channels: CHANNELS, weights: vec![] })
    }

    fn build(&self, _ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>> {
        let network = ShapesNet::new(&ParamBuilder::new(device, self.seed));
        let network = match &self.weights {
            None => load_state_dict(network, parse_safetensors(super::CONVOLUTIONS)?),
            Some(WeightChoice::File(path)) => KeyMap::new().fill(network, path),
            Some(WeightChoice::Random) => Ok(network),
        };
        Ok(Box::new(network.context("encoder `shapes_net`")?))
    }
}

realign::register!(EncoderConfig as "encoder": ShapesNetEncoder);

impl Encoder for ShapesNet {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let [_, colors, height, width] = images.dims();
        ensure!(
            colors == 3 && height > 0 && width > 0,
            "encoder `shapes_net`: found pictures of shape {:?}; they must be RGB",
            images.dims()
        );
        Ok(Features { tokens: self.forward(images), class_token: None })
    }
}
