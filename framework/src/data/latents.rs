//! Cached latents: posterior moments, and the normalization of their samples.

use burn::tensor::Tensor;

/// A posterior sample of cached moments, normalized: `(mean + std · noise − bias) · scale`.
///
/// Source: iREPA `ldm/train.py`. The cache holds the deviation itself, not its logarithm.
///
/// # Shapes
/// * `moments`: `[batch, 2 · channels, height, width]`, mean then deviation
/// * `noise` and result: `[batch, channels, height, width]`
/// * `scale`, `bias`: `[1, channels, 1, 1]`
pub fn normalized_posterior_sample(
    moments: Tensor<4>,
    noise: Tensor<4>,
    scale: Tensor<4>,
    bias: Tensor<4>,
) -> Tensor<4> {
    let channels = noise.dims()[1];
    let (mean, deviation) = (moments.clone().narrow(1, 0, channels), moments.narrow(1, channels, channels));
    (mean + deviation * noise - bias) * scale
}
