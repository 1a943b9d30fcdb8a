//! Training programs: what is trained, and what one optimizer step does, where that is not a diffusion model alone.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::tensor::{Device, Tensor};

use super::autoencoder::{Autoencoder, AutoencoderConfig};
use super::dataset::Dataset;
use super::encoder::{EncoderConfig, WeightFile};
use super::grid::PatchGrid;
use crate::data::loader::Batch;
use crate::recipe::{Check, Plan, Recipe, TrainSection};
use crate::registry::Described;
use crate::streams::Streams;
use crate::train::{Preview, ReadTensors, WriteTensors};
use crate::weights::StateDict;

/// Networks with their optimizers, trained together by a step of their own.
pub trait Program: Debug {
    /// One step of every optimizer. Returns scalars to log by tag, `[1]` each; `train/loss` is the one that is shown.
    ///
    /// # Errors
    /// The batch does not fit, or the tensor library fails.
    fn step(&mut self, batch: &Batch, streams: &Streams, learning_rate: f64) -> Result<Vec<(String, Tensor<1>)>>;

    /// Writes every file that a resume needs: networks under PyTorch's names, moving averages, moments.
    ///
    /// # Errors
    /// The disk refuses.
    fn save(&self, write: &mut WriteTensors<'_>) -> Result<()>;

    /// Takes the files of a checkpoint that was written after `steps` steps.
    ///
    /// # Errors
    /// A file is missing or does not fit.
    fn load(&mut self, steps: u64, read: &ReadTensors<'_>) -> Result<()>;

    /// Pictures of what was learned so far.
    ///
    /// # Errors
    /// A network or the tensor library fails.
    fn previews(&mut self) -> Result<Vec<Preview>>;

    /// What is measured beside the loss whenever previews are drawn: accuracies on held-out pictures, by tag.
    ///
    /// # Errors
    /// Data cannot be read, or the tensor library fails.
    fn measures(&self) -> Result<Vec<(String, f64)>> {
        Ok(vec![])
    }

    /// The trained weights by name, for histograms.
    fn weights(&self) -> StateDict;
}

/// What a program is told about the run.
#[derive(Debug)]
pub struct ProgramContext<'a> {
    /// Seed of every random draw.
    pub seed: u64,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Folder of published weights.
    pub weights_dir: PathBuf,
    /// The optimizer's settings.
    pub train: &'a TrainSection,
    /// Pictures, for previews and for what depends on the number of classes.
    pub dataset: Arc<dyn Dataset>,
    /// The autoencoder that the recipe describes, where the program [trains it](ProgramConfig::trains_autoencoder).
    pub autoencoder: Option<&'a dyn AutoencoderConfig>,
    /// The diffusion model that the recipe describes, where the program [trains one](ProgramConfig::trains_diffusion).
    pub plan: Option<&'a Plan>,
}

/// A program as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait ProgramConfig: Described + Debug + Send + Sync {
    /// Whether it trains the diffusion model that the rest of the recipe describes; otherwise such a recipe has no
    /// backbone, objective, alignment or samples.
    fn trains_diffusion(&self) -> bool {
        false
    }

    /// Whether it trains the recipe's `autoencoder`, which must have a posterior.
    fn trains_autoencoder(&self) -> bool {
        false
    }

    /// The autoencoder that a checkpoint holds, with statistics of its own latents; `config` and `train` are the recipe's.
    /// Asked where the program [trains it](Self::trains_autoencoder).
    ///
    /// # Errors
    /// A file is missing or does not fit.
    fn autoencoder(
        &self,
        _config: &dyn AutoencoderConfig,
        _train: &TrainSection,
        _read: &ReadTensors<'_>,
        _device: &Device,
    ) -> Result<Box<dyn Autoencoder>> {
        bail!("program `{}` does not say which autoencoder it trained", (self.info().name)())
    }

    /// Files it needs, with the command that gets each.
    fn weights(&self, _image_size: usize, _weights_dir: &Path) -> Vec<WeightFile> {
        vec![]
    }

    /// The encoder that it trains, and the grid of its tokens; the checkpoint's file `encoder` holds its weights and
    /// `encoder-<name>` those of a moving average.
    fn encoder(&self) -> Option<(&dyn EncoderConfig, PatchGrid)> {
        None
    }

    /// Builds networks and optimizers at step 0.
    ///
    /// # Errors
    /// Sizes that do not fit, a missing or unfit weight file.
    fn build(&self, ctx: &ProgramContext<'_>, device: &Device) -> Result<Box<dyn Program>>;

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}

    /// Reports what in the recipe around it cannot work with it, where it [trains a diffusion
    /// model](Self::trains_diffusion).
    fn validate_with(&self, _recipe: &Recipe, _check: &mut Check<'_>) {}
}
