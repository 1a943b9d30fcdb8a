//! Autoencoders that a training program saved.

use anyhow::{Context, Result};
use burn::tensor::Device;

use crate::data::latents::LatentNorm;
use crate::plugin::{Autoencoder, AutoencoderConfig};
use crate::weights::StateDict;

/// The autoencoder of a config with weights and statistics of its latents from a checkpoint.
///
/// # Errors
/// A file does not fit, or the autoencoder has no posterior.
pub fn trained_autoencoder(
    config: &dyn AutoencoderConfig,
    weights: StateDict,
    statistics: &StateDict,
    device: &Device,
) -> Result<Box<dyn Autoencoder>> {
    let plain = config.build_with(weights, device)?;
    let variational = plain.variational().context("the autoencoder has no posterior")?;
    let channels = variational.norm().scale().len();
    Ok(variational.renormalized(LatentNorm::from_file(statistics, channels)?))
}
