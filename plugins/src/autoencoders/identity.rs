//! Pixels as samples.

use std::path::Path;

use anyhow::Result;
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::plugin::{Autoencoder, AutoencoderConfig, LatentShape};
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `identity`: the network works on pixels, scaled to [-1, 1].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {}

/// The autoencoder that changes nothing but the scale.
#[derive(Module, Debug)]
pub struct Identity {}

impl Autoencoder for Identity {
    fn encode(&self, images: Tensor<4>, _streams: &Streams) -> Tensor<4> {
        images / 127.5 - 1.0
    }

    fn decode(&self, samples: Tensor<4>) -> Tensor<4> {
        samples
    }
}

#[typetag::serde(name = "identity")]
impl AutoencoderConfig for IdentityConfig {
    fn latent_shape(&self, image_size: usize) -> Result<LatentShape> {
        Ok([3, image_size, image_size])
    }

    fn build(&self, _weights_dir: &Path, _device: &Device) -> Result<Box<dyn Autoencoder>> {
        Ok(Box::new(Identity {}))
    }
}

realign::register!(AutoencoderConfig as "autoencoder": IdentityConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn black_and_white_become_minus_one_and_one() {
        let device = Device::flex();
        let identity = IdentityConfig {}.build(Path::new("weights"), &device).unwrap();
        let pixels = Tensor::<1>::from_floats([0.0, 127.5, 255.0], &device).reshape([1, 3, 1, 1]);
        let samples = identity.encode(pixels, &Streams::new(0));
        let values: Vec<f32> = identity.decode(samples).into_data().iter().collect();
        assert_eq!(values, [-1.0, 0.0, 1.0]);
        assert_eq!(IdentityConfig {}.latent_shape(35).unwrap(), [3, 35, 35]);
    }
}
