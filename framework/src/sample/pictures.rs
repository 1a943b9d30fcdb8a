//! Pictures of a network.

use anyhow::Result;
use burn::tensor::{Tensor, TensorData};

use super::draws::image_noise;
use super::quantize::{Quantization, quantize};
use crate::ops;
use crate::plugin::{Guidance, SampleRequest, Sampler};
use crate::recipe::SampleSection;
use crate::train::{Assembly, TrainModel};
use crate::weights::to_host;

/// What to draw, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Seed of the samples' noise.
    pub seed: u64,
    /// Guidance.
    pub guidance: Guidance,
    /// How values become bytes.
    pub quantization: Quantization,
}

impl Sampling {
    /// As the recipe says.
    pub fn new(section: &SampleSection, seed: u64) -> Self {
        let guidance = Guidance { scale: section.cfg_scale, low: section.guidance_low, high: section.guidance_high };
        Self { seed, guidance, quantization: section.quantization }
    }
}

/// Pictures `first_idx ..` with the given labels, as bytes: sample, row, column, channel.
///
/// Picture `i` depends on the seed, `i`, its label and the weights, not on the batch it is drawn in.
///
/// # Errors
/// The sampler fails, or the tensor library does.
pub fn draw_pictures(
    assembly: &Assembly,
    model: &TrainModel,
    sampler: &dyn Sampler,
    latent: [usize; 3],
    labels: &[i64],
    first_idx: u64,
    sampling: Sampling,
) -> Result<Vec<u8>> {
    let device = &assembly.device;
    let (count, size) = (labels.len(), latent.iter().product::<usize>());
    let shape = [count, latent[0], latent[1], latent[2]];
    let noise = |stream: &str| {
        let values: Vec<f32> =
            (0..count as u64).flat_map(|i| image_noise(sampling.seed, first_idx + i, stream, size)).collect();
        Tensor::<4>::from_data(TensorData::new(values, shape), device)
    };
    let step_noise = |step: usize| noise(&format!("sde/{step}"));
    let captions = vec![None; count];
    let request = SampleRequest {
        backbone: &*model.backbone,
        objective: &*assembly.objective,
        noise: noise("initial"),
        condition: assembly.conditioner.condition(labels, &captions, device)?,
        null: assembly.conditioner.null(count, device),
        guidance: sampling.guidance,
        step_noise: &step_noise,
    };
    ops::guard(|| {
        let samples = sampler.sample(request)?;
        Ok(picture_bytes(assembly.autoencoder.decode(samples), sampling.quantization))
    })
}

/// Bytes of pictures, in the order picture, row, column, channel.
///
/// # Shapes
/// * `pictures`: `[batch, channels, height, width]`, −1 is black and 1 white
pub fn picture_bytes(pictures: Tensor<4>, quantization: Quantization) -> Vec<u8> {
    let [_, channels, height, width] = pictures.dims();
    let values = to_host(pictures);
    let pixels = height * width;
    let mut bytes = Vec::with_capacity(values.len());
    for picture in values.chunks_exact((channels * pixels).max(1)) {
        for pixel in 0..pixels {
            bytes.extend((0..channels).map(|c| quantize(picture[c * pixels + pixel], quantization)));
        }
    }
    bytes
}
