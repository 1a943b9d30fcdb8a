//! Pictures of a network.

use anyhow::Result;
use burn::tensor::Tensor;
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::draws::image_noise;
use super::quantize::{Quantization, quantize};
use crate::ops;
use crate::plugin::{Dataset, Guidance, SampleRequest, Sampler};
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

/// What one sample is asked to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its class.
    pub label: i64,
    /// Its text, for networks that take text.
    pub caption: Option<String>,
}

/// What samples `first_idx ..` of these classes are asked to show, in the data set's words where it has them.
pub fn prompts_of(dataset: &dyn Dataset, labels: &[i64], first_idx: u64) -> Vec<Prompt> {
    let prompt = |(label, idx): (&i64, u64)| {
        let class = usize::try_from(*label).ok();
        Prompt { label: *label, caption: class.and_then(|class| dataset.prompt(idx, class)) }
    };
    labels.iter().zip(first_idx..).map(prompt).collect()
}

/// Pictures `first_idx ..` of the given classes, asked for in the data set's words where the network takes text.
///
/// # Errors
/// As [`draw_prompts`].
pub fn draw_pictures(
    assembly: &Assembly,
    model: &TrainModel,
    sampler: &dyn Sampler,
    latent: [usize; 3],
    labels: &[i64],
    first_idx: u64,
    sampling: Sampling,
) -> Result<Vec<u8>> {
    let prompts = prompts_of(&*assembly.dataset, labels, first_idx);
    draw_prompts(assembly, model, sampler, latent, &prompts, first_idx, sampling)
}

/// Pictures `first_idx ..` of the given prompts, as bytes: sample, row, column, channel.
///
/// Picture `i` depends on the seed, `i`, its prompt and the weights, not on the batch it is drawn in. It is drawn in the
/// assembly's precision, and with fewer others where memory ends ([`DrawSize`](super::DrawSize)).
///
/// # Errors
/// The sampler fails, the tensor library does, or not even one picture fits into memory.
pub fn draw_prompts(
    assembly: &Assembly,
    model: &TrainModel,
    sampler: &dyn Sampler,
    latent: [usize; 3],
    prompts: &[Prompt],
    first_idx: u64,
    sampling: Sampling,
) -> Result<Vec<u8>> {
    assembly.draw_size.parts(prompts, |from, prompts| {
        let first_idx = first_idx + from as u64;
        let device = &assembly.device;
        let (count, size) = (prompts.len(), latent.iter().product::<usize>());
        let shape = [count, latent[0], latent[1], latent[2]];
        let noise = |stream: &str| {
            let mut values = vec![0.0; count * size];
            let pictures = values.par_chunks_exact_mut(size.max(1)).enumerate();
            pictures.for_each(|(i, values)| {
                values.copy_from_slice(&image_noise(sampling.seed, first_idx + i as u64, stream, size));
            });
            ops::upload(&values, shape, device)
        };
        let step_noise = |step: usize| noise(&format!("sde/{step}"));
        let (labels, captions): (Vec<_>, Vec<_>) =
            prompts.iter().map(|prompt| (prompt.label, prompt.caption.clone())).unzip();
        let conditioner = assembly.conditioner(model);
        let draw = || {
            let request = SampleRequest {
                backbone: &*model.backbone,
                objective: &*assembly.objective,
                noise: noise("initial"),
                condition: conditioner.condition(&labels, &captions, device)?,
                null: conditioner.null(count, device),
                guidance: sampling.guidance,
                step_noise: &step_noise,
            };
            let samples = sampler.sample(request)?;
            // Decoding may need more memory than all steps before it.
            assembly.decode_size.parts(&labels, |from, part| {
                let samples = samples.clone().narrow(0, from, part.len());
                ops::guard(|| Ok(picture_bytes(assembly.autoencoder.decode(samples), sampling.quantization)))
            })
        };
        assembly.precision.scope(|| ops::guard(draw))
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
