//! Where a frozen network's weights come from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use realign::burn::module::Module;
use realign::plugin::encoder::WeightFile;
use realign::weights::{Fit, KeyMap, PublishedWeights, parameters};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where weights come from: a path, or the word `random`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum WeightChoice {
    /// Drawn from a seed and the parameters' names, for tests and as a baseline.
    Random,
    /// A file in any published layout.
    File(PathBuf),
}

impl From<String> for WeightChoice {
    fn from(text: String) -> Self {
        if text == "random" { Self::Random } else { Self::File(text.into()) }
    }
}

impl From<WeightChoice> for String {
    fn from(choice: WeightChoice) -> Self {
        match choice {
            WeightChoice::Random => "random".into(),
            WeightChoice::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// What `explain` says of a network: its size, and in capitals where it was never trained.
pub fn notes<M: Module>(network: &M, choice: Option<&WeightChoice>, seed: u64) -> Vec<String> {
    let count: usize = parameters(network).iter().map(|param| param.shape.iter().product::<usize>()).sum();
    std::iter::once(format!("{count} parameters")).chain(random_note(choice, seed)).collect()
}

/// What is said of weights that nobody trained, in capitals.
pub fn random_note(choice: Option<&WeightChoice>, seed: u64) -> Option<String> {
    let is_random = choice == Some(&WeightChoice::Random);
    is_random.then(|| format!("RANDOM WEIGHTS, drawn with seed {seed}: its features were never trained"))
}

/// Fills a network from a file in `layout`, for `weights verify`; returns the number of its parameters.
///
/// # Errors
/// The file is damaged or of another network.
pub fn fit<M: Module>(network: M, layout: &KeyMap, path: &Path) -> Result<usize> {
    let network = layout.fill(network, path)?;
    Ok(parameters(&network).iter().map(|param| param.shape.iter().product::<usize>()).sum())
}

/// A published file: its name on disk and its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedFile {
    /// Name inside the folder of weights.
    pub name: &'static str,
    /// Where it is had.
    pub url: &'static str,
    /// License of the weights.
    pub license: &'static str,
}

impl PublishedFile {
    /// The file for `weights list`, `get` and `verify`, under its name without ending.
    pub fn published(&self, layout: &str, fit: Fit) -> PublishedWeights {
        let name = self.name.rsplit_once('.').map_or(self.name, |(name, _)| name);
        let weights = PublishedWeights::new(name, self.name, self.url, layout, self.license);
        PublishedWeights { fit: Some(fit), ..weights }
    }

    /// The file that a recipe means, or none where weights are drawn.
    pub fn choose(&self, choice: Option<&WeightChoice>, weights_dir: &Path) -> Option<WeightFile> {
        let path = match choice {
            Some(WeightChoice::Random) => return None,
            Some(WeightChoice::File(path)) => path.clone(),
            None => weights_dir.join(self.name),
        };
        let weights = PublishedWeights::new(self.name, self.name, self.url, "", self.license);
        Some(WeightFile { command: weights.command(&path), path })
    }

    /// The network with the weights of the file that a recipe means, or as it was drawn.
    ///
    /// # Errors
    /// The file is absent, damaged or of another network.
    pub fn fill<M: Module>(
        &self,
        network: M,
        layout: &KeyMap,
        choice: Option<&WeightChoice>,
        weights_dir: &Path,
    ) -> Result<M> {
        match self.choose(choice, weights_dir) {
            Some(file) => layout.fill(network, &file.path).with_context(|| format!("`{}`", file.path.display())),
            None => Ok(network),
        }
    }
}
