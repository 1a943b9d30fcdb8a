//! The published autoencoder's files, for `weights list`, `get` and `verify`.

use std::path::Path;

use anyhow::Result;
use realign::data::latents::LatentNorm;
use realign::weights::{PublishedWeights, parameters, read_weights};

use super::config::{PUBLISHED_STATS, PUBLISHED_WEIGHTS, SdVaeConfig, Size};

/// Weights, and statistics of their latents: those that iREPA uses.
pub(super) fn published() -> Vec<PublishedWeights> {
    let file = |name: &str, fit| {
        let url = format!("https://huggingface.co/REPA-E/iREPA-collections/resolve/main/pretrained_models/{name}");
        let weights = PublishedWeights::new(name.trim_end_matches(".pt"), name, &url, "CompVis", "MIT");
        PublishedWeights { fit: Some(fit), ..weights }
    };
    vec![file(PUBLISHED_WEIGHTS, fit_network), file(PUBLISHED_STATS, fit_stats)]
}

realign::publish_weights!(published);

fn fit_network(_: &PublishedWeights, path: &Path) -> Result<usize> {
    let network = SdVaeConfig::default().network_from(path)?;
    Ok(parameters(&network).iter().map(|param| param.shape.iter().product::<usize>()).sum())
}

fn fit_stats(_: &PublishedWeights, path: &Path) -> Result<usize> {
    let channels = Size::F8d4.sizes().latent_channels;
    LatentNorm::from_file(&read_weights(path)?, channels).map(|_| 2 * channels)
}
