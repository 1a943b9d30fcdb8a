//! Settings of REPA-E.

use std::path::Path;

use anyhow::{Context, Result};
use realign::burn::tensor::Device;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{Autoencoder, AutoencoderConfig, Program, ProgramConfig, ProgramContext};
use realign::recipe::{Check, Recipe, TrainSection};
use realign::reconstruction::{LossSection, trained_autoencoder};
use realign::train::ReadTensors;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::program::RepaE;

/// `repa_e`: trains the recipe's autoencoder together with its diffusion model.
///
/// Each step has three parts with an optimizer each. The autoencoder learns to reconstruct, and the alignment loss
/// reaches its encoder through the frozen network. The discriminator learns to tell reconstructions. The network learns
/// by the recipe's objective and alignment on the detached latents, which a BatchNorm without parameters normalizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RepaEConfig {
    /// Weight of each alignment term in the autoencoder's loss; `proj_coeff` is that in the network's.
    #[schemars(range(min = 0.0))]
    pub vae_align_proj_coeff: f64,
    /// Share of the running statistics of latents that each batch replaces.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub bn_momentum: f64,
    /// Factor on the learning rate for the autoencoder.
    pub vae_rate: f64,
    /// What the autoencoder is trained with beside alignment.
    pub loss: LossSection,
    /// Whether what the backbone keeps fixed, the table of positions, is trained too. The released code does so from the
    /// second step on, because it switches gradients on for all parameters.
    pub trains_position_table: bool,
}

impl Default for RepaEConfig {
    fn default() -> Self {
        Self {
            vae_align_proj_coeff: 1.5,
            bn_momentum: 0.1,
            vae_rate: 1.0,
            loss: LossSection::default(),
            trains_position_table: false,
        }
    }
}

#[typetag::serde(name = "repa_e")]
impl ProgramConfig for RepaEConfig {
    fn trains_diffusion(&self) -> bool {
        true
    }

    fn trains_autoencoder(&self) -> bool {
        true
    }

    fn autoencoder(
        &self,
        config: &dyn AutoencoderConfig,
        _train: &TrainSection,
        read: &ReadTensors<'_>,
        device: &Device,
    ) -> Result<Box<dyn Autoencoder>> {
        trained_autoencoder(config, read("vae")?, &read("latents-stats")?, device)
    }

    fn weights(&self, _image_size: usize, weights_dir: &Path) -> Vec<WeightFile> {
        self.loss.weights(weights_dir)
    }

    fn build(&self, ctx: &ProgramContext<'_>, _device: &Device) -> Result<Box<dyn Program>> {
        let plan = ctx.plan.context("the recipe has no diffusion model")?;
        Ok(Box::new(RepaE::new(self, plan)?))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("vae_align_proj_coeff", self.vae_align_proj_coeff, 0.0, 1e6);
        check.range("bn_momentum", self.bn_momentum, 0.0, 1.0);
        check.range("vae_rate", self.vae_rate, 0.0, 1e3);
        check.within("loss", |check| self.loss.validate(check));
    }

    fn validate_with(&self, recipe: &Recipe, check: &mut Check<'_>) {
        if recipe.alignment.is_empty() {
            check.bad(
                "alignment",
                "is empty; `repa_e` trains the autoencoder through alignment: give at least one term",
            );
        }
    }
}

realign::register!(ProgramConfig as "program": RepaEConfig);
