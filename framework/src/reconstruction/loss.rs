//! The loss that trains an autoencoder: pixels, features, divergence, and the judgment of a discriminator.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adversarial::generator_loss;
use super::critic::{Critic, DiscriminatorSection};
use super::lpips::{Lpips, LpipsFiles, LpipsInput};
use super::published;
use crate::data::latents::Posterior;
use crate::ops::{self, Precision};
use crate::plugin::Autoencoder;
use crate::plugin::encoder::WeightFile;
use crate::recipe::Check;
use crate::train::OptimizerSettings;

/// What an autoencoder is trained with.
///
/// `reconstruction / exp(log_variance) + lpips + kl_weight · divergence + discriminator`. Source: REPA-E
/// `loss/losses.py`, `configs/l1_lpips_kl_gan.yaml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossSection {
    /// Distance of pixels.
    pub reconstruction: PixelDistance,
    /// Its weight.
    pub reconstruction_weight: f64,
    /// Logarithm of the fixed variance that divides it.
    pub log_variance: f64,
    /// Weight of the posterior's divergence from the standard normal, summed over a latent.
    pub kl_weight: f64,
    /// Distance in the features of VGG16; none when null. It needs two published files.
    pub lpips: Option<LpipsSection>,
    /// A discriminator that learns to tell reconstructions; none when null.
    pub discriminator: Option<DiscriminatorSection>,
}

/// Distance of pixels in [-1, 1], averaged over all of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PixelDistance {
    /// Absolute difference.
    #[default]
    L1,
    /// Squared difference.
    L2,
}

/// LPIPS in the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LpipsSection {
    /// Its weight.
    pub weight: f64,
    /// What it takes pictures for; `reference` is the released code of REPA-E.
    pub input: LpipsInput,
}

impl Default for LpipsSection {
    fn default() -> Self {
        Self { weight: 1.0, input: LpipsInput::Correct }
    }
}

impl Default for LossSection {
    fn default() -> Self {
        Self {
            reconstruction: PixelDistance::L1,
            reconstruction_weight: 1.0,
            log_variance: 0.0,
            kl_weight: 1e-6,
            lpips: Some(LpipsSection::default()),
            discriminator: Some(DiscriminatorSection::default()),
        }
    }
}

impl LossSection {
    /// Files it needs, with the command that gets each.
    pub fn weights(&self, weights_dir: &Path) -> Vec<WeightFile> {
        let mut files = vec![];
        if self.lpips.is_some() {
            files.extend(LpipsFiles::published(weights_dir).weights());
        }
        if let Some(path) = self.discriminator.as_ref().and_then(|section| section.weights.clone()) {
            files.push(published::discriminator().file_at(Some(&path), weights_dir));
        }
        files
    }

    /// Reports values that cannot work.
    pub fn validate(&self, check: &mut Check<'_>) {
        check.range("reconstruction_weight", self.reconstruction_weight, 0.0, 1e6);
        check.range("log_variance", self.log_variance, -30.0, 30.0);
        check.range("kl_weight", self.kl_weight, 0.0, 1e6);
        if let Some(lpips) = &self.lpips {
            check.within("lpips", |check| check.range("weight", lpips.weight, 0.0, 1e6));
        }
        if let Some(discriminator) = &self.discriminator {
            check.within("discriminator", |check| discriminator.validate(check));
        }
    }
}

/// A batch on its way through an autoencoder in training.
#[derive(Debug)]
pub struct Reconstruction {
    /// The pictures in [-1, 1], without graph.
    pub pictures: Tensor<4>,
    /// Their posterior.
    pub posterior: Posterior,
    /// The latents drawn from it, not normalized.
    pub latents: Tensor<4>,
    /// What becomes of the latents.
    pub decoded: Tensor<4>,
}

impl Reconstruction {
    /// Encodes, draws with this noise, decodes.
    ///
    /// # Shapes
    /// * `images`: `[batch, 3, height, width]`, RGB in 0..255
    /// * `noise`: standard normal, of the latents' count
    ///
    /// # Errors
    /// The autoencoder has no posterior.
    pub fn new(
        autoencoder: &dyn Autoencoder,
        images: Tensor<4>,
        noise: impl FnOnce(usize) -> Vec<f32>,
    ) -> Result<Self> {
        let variational = autoencoder.variational().context("the autoencoder has no posterior")?;
        let pictures = images.clone() / 127.5 - 1.0;
        let posterior = Posterior::new(variational.moments(images));
        let shape = posterior.mean.dims();
        let values = noise(shape.iter().product());
        ensure!(values.len() == shape.iter().product::<usize>(), "noise for latents {shape:?} has another count");
        let noise = ops::upload(&values, shape, &posterior.mean.device());
        let latents = posterior.sample(noise);
        let decoded = variational.decode_latents(latents.clone());
        Ok(Self { pictures, posterior, latents, decoded })
    }
}

/// The loss, with the networks that it needs.
#[derive(Debug)]
pub struct ReconstructionLoss {
    /// The discriminator, where there is one.
    pub critic: Option<Critic>,
    lpips: Option<(Lpips, LpipsSection)>,
    settings: LossSection,
}

/// The autoencoder's loss of one batch.
#[derive(Debug)]
pub struct ReconstructionTerms {
    /// The sum, to be differentiated, `[1]`.
    pub total: Tensor<1>,
    /// Weighted terms and what they are made of, by the reference's names, `[1]` each, detached.
    pub scalars: Vec<(&'static str, Tensor<1>)>,
}

impl ReconstructionLoss {
    /// Reads the networks' weights; the discriminator's are drawn at random where no file is named.
    ///
    /// # Errors
    /// A file is absent, and the message says how to get it; or it does not fit.
    pub fn new(
        settings: &LossSection,
        weights_dir: &Path,
        optimizer: OptimizerSettings,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let lpips = settings.lpips.as_ref().map(|_| Lpips::load(&LpipsFiles::published(weights_dir), device));
        let critic = settings.discriminator.clone().map(|section| Critic::new(section, optimizer, seed, device));
        Ok(Self::of(settings.clone(), lpips.transpose()?, critic.transpose()?))
    }

    /// The loss with networks that are there already.
    pub fn of(settings: LossSection, lpips: Option<Lpips>, critic: Option<Critic>) -> Self {
        let lpips = lpips.zip(settings.lpips.clone());
        Self { critic, lpips, settings }
    }

    /// What the autoencoder pays, in f32 under every precision. The gradient reaches the reconstruction and the posterior,
    /// and no network of the loss.
    pub fn terms(&mut self, batch: &Reconstruction, step: u64) -> ReconstructionTerms {
        Precision::F32.scope(|| self.terms_in_f32(batch, step))
    }

    fn terms_in_f32(&mut self, batch: &Reconstruction, step: u64) -> ReconstructionTerms {
        let gap = batch.decoded.clone() - batch.pictures.clone();
        let distance = match self.settings.reconstruction {
            PixelDistance::L1 => gap.abs().mean(),
            PixelDistance::L2 => gap.square().mean(),
        };
        let pixels = distance * (self.settings.reconstruction_weight / self.settings.log_variance.exp());
        let divergence = batch.posterior.divergence().mean() * self.settings.kl_weight;
        let mut total = pixels.clone() + divergence.clone();
        let mut scalars = vec![("reconstruction_loss", pixels.detach()), ("kl_loss", divergence.detach())];
        if let Some((lpips, section)) = &self.lpips {
            let distance = lpips.forward(batch.pictures.clone(), batch.decoded.clone(), section.input);
            let perceptual = distance.mean() * section.weight;
            scalars.push(("perceptual_loss", perceptual.clone().detach()));
            total = total + perceptual;
        }
        if let (Some(critic), Some(section)) = (&mut self.critic, &self.settings.discriminator)
            && critic.is_active(step)
        {
            let judgment = generator_loss(critic.network.forward_frozen(batch.decoded.clone()));
            let weighted = judgment.clone() * (section.weight * section.factor);
            scalars.push(("gan_loss", judgment.detach()));
            scalars.push(("weighted_gan_loss", weighted.clone().detach()));
            total = total + weighted;
        }
        ReconstructionTerms { total, scalars }
    }

    /// Lets the discriminator learn, where there is one and it has begun, in f32. Returns named scalars, `[1]` each.
    pub fn learn(&mut self, batch: &Reconstruction, step: u64, learning_rate: f64) -> Vec<(&'static str, Tensor<1>)> {
        match &mut self.critic {
            Some(critic) if critic.is_active(step) => {
                let (real, fake) = (batch.pictures.clone(), batch.decoded.clone().detach());
                Precision::F32.scope(|| critic.learn(real, fake, learning_rate))
            }
            _ => vec![],
        }
    }
}
