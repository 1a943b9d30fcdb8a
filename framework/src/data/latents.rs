//! Latents of a variational autoencoder: their posterior, and how they are normalized for training.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};

use crate::ops;
use crate::weights::StateDict;

const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0); // beyond these the reference clamps

/// A Gaussian over latents, independent in each value.
///
/// Source: Rombach et al., 2022; REPA-E `models/autoencoder.py`.
///
/// # Shapes
/// * `mean`, `log_variance`: `[batch, channels, height, width]`
#[derive(Debug, Clone)]
pub struct Posterior {
    /// Mean.
    pub mean: Tensor<4>,
    /// Logarithm of the variance, in [−30, 20].
    pub log_variance: Tensor<4>,
}

impl Posterior {
    /// What an encoder's output means: the mean's channels, then those of the logarithm of the variance.
    ///
    /// # Shapes
    /// * `moments`: `[batch, 2 · channels, height, width]`
    pub fn new(moments: Tensor<4>) -> Self {
        let channels = moments.dims()[1] / 2;
        let log_variance = moments.clone().narrow(1, channels, channels).clamp(LOG_VARIANCE.0, LOG_VARIANCE.1);
        Self { mean: moments.narrow(1, 0, channels), log_variance }
    }

    /// The standard deviation.
    pub fn deviation(&self) -> Tensor<4> {
        (self.log_variance.clone() / 2.0).exp()
    }

    /// `mean + deviation · noise`.
    pub fn sample(&self, noise: Tensor<4>) -> Tensor<4> {
        self.mean.clone() + self.deviation() * noise
    }

    /// Divergence from the standard normal, summed over a sample's values: `½ Σ (mean² + variance − 1 − log variance)`.
    ///
    /// # Shapes
    /// * result: `[batch]`
    pub fn divergence(&self) -> Tensor<1> {
        let [batch, channels, height, width] = self.mean.dims();
        let terms = self.mean.clone().square() + self.log_variance.clone().exp() - 1.0 - self.log_variance.clone();
        terms.reshape([batch, channels * height * width]).sum_dim(1).reshape([batch]) * 0.5
    }
}

/// A sample of cached moments, which hold the deviation itself and not its logarithm: `mean + deviation · noise`.
///
/// # Shapes
/// * `moments`: `[batch, 2 · channels, height, width]`, mean then deviation
/// * `noise` and result: `[batch, channels, height, width]`
pub fn sample_moments(moments: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
    let channels = noise.dims()[1];
    moments.clone().narrow(1, 0, channels) + moments.narrow(1, channels, channels) * noise
}

/// What training does to latents, per channel: `(latent − bias) · scale`.
///
/// Projects differ in the order: iREPA and REPA-E subtract first, as here; REPA adds its bias after scaling. Files are
/// of the first kind, and a fixed scale has no bias, so the two never meet.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentNorm {
    scale: Vec<f32>,
    bias: Vec<f32>,
}

impl LatentNorm {
    /// Scale and bias of each channel.
    ///
    /// # Errors
    /// The lists differ in length, a number is not finite, or a scale is not above 0.
    pub fn new(scale: Vec<f32>, bias: Vec<f32>) -> Result<Self> {
        let (scales, biases) = (scale.len(), bias.len());
        ensure!(scales == biases, "latent statistics have {scales} scales and {biases} biases");
        for (channel, (scale, bias)) in scale.iter().zip(&bias).enumerate() {
            let is_sound = scale.is_finite() && *scale > 0.0 && bias.is_finite();
            ensure!(
                is_sound,
                "latent statistics of channel {channel}: scale {scale} and bias {bias}; expected finite numbers and a \
                 scale above 0"
            );
        }
        Ok(Self { scale, bias })
    }

    /// One scale for all channels and no bias: the convention `0.18215 · latent` of SiT, REPA and MeanFlow.
    ///
    /// # Errors
    /// The scale is not above 0.
    pub fn fixed(scale: f64, channels: usize) -> Result<Self> {
        Self::new(vec![scale as f32; channels], vec![0.0; channels])
    }

    /// The statistics of a file with `latents_scale` and `latents_bias`, for `channels` channels.
    ///
    /// # Errors
    /// A tensor is missing or of another size, or a value cannot be a statistic.
    pub fn from_file(dict: &StateDict, channels: usize) -> Result<Self> {
        let list = |name: &str| {
            let tensor = dict.get(name).with_context(|| format!("latent statistics lack `{name}`"))?;
            let found = tensor.values.len();
            ensure!(found == channels, "`{name}` has {found} values, and the latents have {channels} channels");
            Ok(tensor.values.clone())
        };
        Self::new(list("latents_scale")?, list("latents_bias")?)
    }

    /// Whether all channels are treated alike and nothing is subtracted.
    pub fn is_fixed(&self) -> bool {
        self.bias.iter().all(|bias| *bias == 0.0) && self.scale.iter().all(|scale| Some(scale) == self.scale.first())
    }

    /// Factors, by channel.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// What is subtracted, by channel.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// `(latents − bias) · scale`.
    ///
    /// # Shapes
    /// * `latents` and result: `[batch, channels, height, width]`
    pub fn normalize(&self, latents: Tensor<4>) -> Tensor<4> {
        let device = latents.device();
        (latents - per_channel(&self.bias, &device)) * per_channel(&self.scale, &device)
    }

    /// `samples / scale + bias`, which undoes [`normalize`](Self::normalize).
    pub fn denormalize(&self, samples: Tensor<4>) -> Tensor<4> {
        let device = samples.device();
        samples / per_channel(&self.scale, &device) + per_channel(&self.bias, &device)
    }
}

fn per_channel(values: &[f32], device: &Device) -> Tensor<4> {
    ops::upload(values, [1, values.len(), 1, 1], device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::weights::{HostTensor, to_host};

    fn tensor(values: &[f32], channels: usize) -> Tensor<4> {
        let shape = [1, channels, values.len() / channels, 1];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    #[test]
    fn the_divergence_of_the_standard_normal_is_zero_and_grows_as_its_formula_says() {
        assert_eq!(to_host(Posterior::new(tensor(&[0.0; 6], 2)).divergence()), [0.0]);
        // ½ (2² + e − 1 − 1) + ½ (0 + e^0 − 1 − 0).
        let found = to_host(Posterior::new(tensor(&[2.0, 0.0, 1.0, 0.0], 2)).divergence())[0];
        assert!((found - 0.5 * (4.0 + 1f32.exp() - 2.0)).abs() < 1e-6, "{found}");
    }

    #[test]
    fn the_logarithm_of_the_variance_is_held_between_its_bounds() {
        let posterior = Posterior::new(tensor(&[0.0, 0.0, 25.0, -40.0], 2));
        assert_eq!(to_host(posterior.log_variance), [20.0, -30.0]);
    }

    #[test]
    fn normalized_latents_come_back() {
        let norm = LatentNorm::new(vec![0.25, 2.0], vec![3.0, -1.0]).unwrap();
        let latents = tensor(&[5.0, 3.0, 0.5, -1.0], 2);
        let normalized = norm.normalize(latents.clone());
        assert_eq!(to_host(normalized.clone()), [0.5, 0.0, 3.0, 0.0]);
        assert_eq!(to_host(norm.denormalize(normalized)), to_host(latents));
        assert_eq!(to_host(LatentNorm::fixed(0.5, 1).unwrap().normalize(tensor(&[4.0], 1))), [2.0]);
    }

    #[test]
    fn statistics_that_cannot_be_are_refused() {
        assert!(LatentNorm::new(vec![1.0], vec![]).is_err());
        for (scale, bias) in [(0.0, 0.0), (-1.0, 0.0), (f32::NAN, 0.0), (1.0, f32::INFINITY)] {
            assert!(LatentNorm::new(vec![scale], vec![bias]).unwrap_err().to_string().contains("channel 0"));
        }
        let one = |values: Vec<f32>| HostTensor { shape: vec![1, values.len(), 1, 1], values };
        let mut dict = StateDict::from([("latents_scale".to_string(), one(vec![1.0, 2.0]))]);
        assert!(LatentNorm::from_file(&dict, 2).unwrap_err().to_string().contains("latents_bias"));
        dict.insert("latents_bias".into(), one(vec![0.0, 0.0]));
        assert!(LatentNorm::from_file(&dict, 2).is_ok());
        assert!(LatentNorm::from_file(&dict, 4).unwrap_err().to_string().contains("4 channels"));
    }
}
