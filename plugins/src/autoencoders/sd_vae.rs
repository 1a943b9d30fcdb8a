//! The Stable Diffusion autoencoder, as far as shapes go.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use realign::burn::tensor::Device;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{Autoencoder, AutoencoderConfig, LatentShape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const FACTOR: usize = 8; // pixels per latent, along each side
const CHANNELS: usize = 4;

/// `sd_vae`: latents of `sd-vae-ft-mse`, an eighth of the side, 4 channels. This version checks its shapes and cannot
/// run it yet.
///
/// Source: Rombach et al., 2022; training spec of iREPA, `ldm/models/autoencoder.py`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SdVaeConfig {
    /// The published weights; those of `weights_dir` when left out.
    pub weights: Option<PathBuf>,
    /// Per-channel scale and bias of the latents; those of `weights_dir` when left out.
    pub latents_stats: Option<PathBuf>,
}

#[typetag::serde(name = "sd_vae")]
impl AutoencoderConfig for SdVaeConfig {
    fn latent_shape(&self, image_size: usize) -> Result<LatentShape> {
        ensure!(
            image_size > 0 && image_size.is_multiple_of(FACTOR),
            "pictures of {image_size} pixels do not fit `sd_vae`; the side must be a multiple of {FACTOR}"
        );
        Ok([CHANNELS, image_size / FACTOR, image_size / FACTOR])
    }

    fn weights(&self, weights_dir: &Path) -> Vec<WeightFile> {
        let file = |path: &Option<PathBuf>, name: &str| WeightFile {
            path: path.clone().unwrap_or_else(|| weights_dir.join(name)),
            command: "huggingface-cli download REPA-E/iREPA-collections --local-dir .".into(),
        };
        vec![
            file(&self.weights, "sdvae-ft-mse-f8d4.pt"),
            file(&self.latents_stats, "sdvae-ft-mse-f8d4-latents-stats.pt"),
        ]
    }

    fn build(&self, _weights_dir: &Path, _device: &Device) -> Result<Box<dyn Autoencoder>> {
        bail!("this version checks the shapes of `sd_vae` and cannot run it yet; choose `identity`")
    }
}

realign::register!(AutoencoderConfig as "autoencoder": SdVaeConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_an_eighth_of_the_picture() {
        let config = SdVaeConfig::default();
        assert_eq!(config.latent_shape(256).unwrap(), [4, 32, 32]);
        assert!(config.latent_shape(100).unwrap_err().to_string().contains("multiple of 8"));
    }
}
