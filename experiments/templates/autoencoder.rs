//! Autoencoder `my_idea`: pictures at a fraction of their size, by averaging blocks of pixels.

use std::path::Path;

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use realign::plugin::{Autoencoder, AutoencoderConfig, LatentShape};
use realign::recipe::Check;
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: the mean of each block of pixels, in [−1, 1]; decoding repeats it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Side of a block in pixels, 1 to 64; it divides the picture's side.
    #[schemars(range(min = 1, max = 64))]
    pub factor: usize,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { factor: 2 }
    }
}

#[typetag::serde(name = "my_idea")]
impl AutoencoderConfig for MyIdeaConfig {
    fn latent_shape(&self, image_size: usize) -> Result<LatentShape> {
        let factor = self.factor;
        ensure!(
            factor > 0 && image_size.is_multiple_of(factor),
            "factor `{factor}` does not divide the picture's side of `{image_size}` pixels; choose one that does"
        );
        Ok([3, image_size / factor, image_size / factor])
    }

    fn build(&self, _weights_dir: &Path, _device: &Device) -> Result<Box<dyn Autoencoder>> {
        Ok(Box::new(MyIdea { factor: self.factor }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("factor", self.factor, 1, 64);
    }
}

realign::register!(AutoencoderConfig as "autoencoder": MyIdeaConfig);

/// The built autoencoder `my_idea`.
#[derive(Module, Debug)]
pub struct MyIdea {
    factor: usize,
}

impl Autoencoder for MyIdea {
    fn encode(&self, images: Tensor<4>, _streams: &Streams) -> Tensor<4> {
        let [batch, channels, height, width] = images.dims();
        let (f, rows, columns) = (self.factor, height / self.factor, width / self.factor);
        let blocks = images.reshape([batch, channels, rows, f, columns, f]).mean_dim(5).mean_dim(3);
        blocks.reshape([batch, channels, rows, columns]) / 127.5 - 1.0
    }

    fn decode(&self, samples: Tensor<4>) -> Tensor<4> {
        let [batch, channels, rows, columns] = samples.dims();
        let f = self.factor;
        let blocks = samples.reshape([batch, channels, rows, 1, columns, 1]);
        blocks.expand([batch, channels, rows, f, columns, f]).reshape([batch, channels, rows * f, columns * f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_picture_survives_the_round_trip() {
        let device = Device::flex();
        let config = MyIdeaConfig { factor: 3 };
        let coder = config.build(Path::new("weights"), &device).unwrap();
        let latent = coder.encode(Tensor::full([2, 3, 9, 9], 51.0, &device), &Streams::new(0));
        assert_eq!(latent.dims()[1..], config.latent_shape(9).unwrap());
        let picture = coder.decode(latent);
        assert_eq!(picture.dims(), [2, 3, 9, 9]);
        assert!((picture.mean().into_scalar::<f32>() + 0.6).abs() < 1e-6);
    }

    #[test]
    fn a_size_that_does_not_fit_is_an_error() {
        assert!(MyIdeaConfig { factor: 3 }.latent_shape(32).unwrap_err().to_string().contains("does not divide"));
    }
}
