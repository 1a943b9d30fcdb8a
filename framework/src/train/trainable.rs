//! What the run loop asks of whatever it trains.

use std::path::Path;

use anyhow::Result;
use burn::tensor::Device;

use super::trainer::StepStats;
use crate::checkpoint::State;
use crate::weights::StateDict;

/// Writes or reads one file of tensors of a checkpoint, by its name without ending.
pub type WriteTensors<'a> = dyn FnMut(&str, &StateDict) -> Result<()> + 'a;
/// The twin of [`WriteTensors`].
pub type ReadTensors<'a> = dyn Fn(&str) -> Result<StateDict> + 'a;

/// A run in memory: networks, optimizers, and how far they are.
pub trait Trainable {
    /// Optimizer steps done.
    fn steps_done(&self) -> u64;

    /// Where it trains, without autodiff.
    fn device(&self) -> &Device;

    /// Takes hold of what it keeps in the run folder, before the first step; returns what the user should know.
    ///
    /// # Errors
    /// The disk refuses.
    fn prepare(&mut self, _run_dir: &Path) -> Result<Vec<String>> {
        Ok(vec![])
    }

    /// Does one more.
    ///
    /// # Errors
    /// Data cannot be read, or the tensor library fails.
    fn advance(&mut self) -> Result<StepStats>;

    /// What the user should know since the last call.
    fn notices(&self) -> Vec<String> {
        vec![]
    }

    /// Whether an update failed half-way, so that weights and moments are of no step.
    fn is_torn(&self) -> bool;

    /// Writes every file that a resume needs, and returns the updates that the optimizer did.
    ///
    /// # Errors
    /// The disk refuses.
    fn save(&self, write: &mut WriteTensors<'_>) -> Result<u64>;

    /// Takes the state of a checkpoint.
    ///
    /// # Errors
    /// A file is missing or does not fit.
    fn load(&mut self, state: &State, read: &ReadTensors<'_>) -> Result<()>;

    /// Pictures of what was learned so far.
    ///
    /// # Errors
    /// A network or the tensor library fails.
    fn previews(&mut self) -> Result<Vec<Preview>>;

    /// What is measured beside the loss whenever previews are drawn, by tag.
    ///
    /// # Errors
    /// Data cannot be read, or the tensor library fails.
    fn measures(&mut self) -> Result<Vec<(String, f64)>> {
        Ok(vec![])
    }

    /// What is measured by a schedule of its own, by tag; asked after every step, and empty where nothing is due.
    ///
    /// # Errors
    /// Data cannot be read, or the tensor library fails.
    fn watch(&mut self, _is_last: bool) -> Result<Vec<(String, f64)>> {
        Ok(vec![])
    }

    /// The trained weights by name, for histograms.
    fn weights(&self) -> StateDict;

    /// What `run.json` says beside recipe, digest and versions.
    fn about(&self) -> serde_json::Map<String, serde_json::Value>;
}

/// A picture for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Its tag: `sample/ema`.
    pub tag: String,
    /// RGB bytes, row by row.
    pub rgb: Vec<u8>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}
