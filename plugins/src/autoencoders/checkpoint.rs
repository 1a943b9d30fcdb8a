//! An autoencoder that realign trained itself, alone or with a diffusion model.

use std::path::{Path, PathBuf};

use anyhow::Result;
use realign::burn::tensor::Device;
use realign::checkpoint::TrainedAutoencoder;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{Autoencoder, AutoencoderConfig, LatentShape};
use realign::weights::StateDict;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `checkpoint`: the autoencoder of a run of realign, with the statistics of its latents that the run saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Folder of the run.
    pub run: PathBuf,
    /// Step of the checkpoint; the newest whole one when left out.
    pub step: Option<u64>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { run: PathBuf::from("runs"), step: None }
    }
}

impl CheckpointConfig {
    fn is_absent(&self) -> bool {
        !self.run.join("recipe.yaml").exists()
    }
}

#[typetag::serde(name = "checkpoint")]
impl AutoencoderConfig for CheckpointConfig {
    fn latent_shape(&self, image_size: usize) -> Result<LatentShape> {
        if self.is_absent() {
            // Sizes are unknown until there is a run; the engine says what is missing before it builds anything.
            return Ok([4, image_size / 8, image_size / 8]);
        }
        TrainedAutoencoder::open(&self.run)?.config()?.latent_shape(image_size)
    }

    fn weights(&self, _weights_dir: &Path) -> Vec<WeightFile> {
        let command = format!("cargo xtask run recipes/vae.yaml --run-dir {}", self.run.display());
        let file = WeightFile { path: self.run.join("recipe.yaml"), command };
        if self.is_absent() { vec![file] } else { vec![] }
    }

    fn build(&self, _weights_dir: &Path, device: &Device) -> Result<Box<dyn Autoencoder>> {
        TrainedAutoencoder::open(&self.run)?.build(self.step, device)
    }

    fn has_posterior(&self) -> bool {
        true
    }

    fn build_with(&self, weights: StateDict, device: &Device) -> Result<Box<dyn Autoencoder>> {
        TrainedAutoencoder::open(&self.run)?.config()?.build_with(weights, device)
    }
}

realign::register!(AutoencoderConfig as "autoencoder": CheckpointConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_run_is_a_missing_file_with_its_command() {
        let config = CheckpointConfig { run: "no/such/run".into(), step: None };
        assert!(config.latent_shape(64).is_ok());
        assert!(config.weights(Path::new("w"))[0].command.contains("--run-dir no/such/run"));
        assert!(config.build(Path::new("w"), &Device::flex()).is_err());
    }
}
