//! The presets' files, for `weights list`, `get` and `verify`.

use std::path::Path;

use anyhow::Result;
use realign::burn::tensor::Device;
use realign::nn::ParamBuilder;
use realign::weights::{PublishedWeights, parameters};

use super::config::VitConfig;
use super::layouts;
use super::network::VisionTransformer;
use super::presets::{Preset, presets};

impl Preset {
    /// The file of this preset.
    pub fn published(&self) -> PublishedWeights {
        let weights = PublishedWeights::new(&self.name, &self.file(), &self.url, &self.layouts, &self.license);
        PublishedWeights { is_gated: self.is_gated, num_parameters: Some(self.parameters), fit: Some(fit), ..weights }
    }
}

/// One entry for each file; presets that differ in what is done with the tokens share one.
fn published() -> Vec<PublishedWeights> {
    let mut all: Vec<PublishedWeights> = vec![];
    for weights in presets().iter().map(Preset::published) {
        if all.iter().all(|known| known.file != weights.file) {
            all.push(weights);
        }
    }
    all
}

realign::publish_weights!(published);

fn fit(weights: &PublishedWeights, path: &Path) -> Result<usize> {
    let settings = VitConfig::preset(&weights.name).settings()?;
    let network =
        VisionTransformer::new(&settings.architecture, settings.num_blocks, &ParamBuilder::new(&Device::flex(), 0));
    let network = layouts::load(network, path, &settings.architecture)?;
    Ok(parameters(&network).iter().map(|param| param.shape.iter().product::<usize>()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_once() {
        let all = published();
        assert!(all.len() > 20 && all.len() < presets().len());
        assert!(presets().iter().all(|preset| all.iter().any(|weights| weights.file == preset.file())));
    }
}
