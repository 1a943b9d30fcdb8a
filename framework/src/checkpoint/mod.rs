//! Checkpoints: written aside, synced, renamed; the newest whole one wins.
//!
//! A checkpoint is a folder `step-0000690` with `model.safetensors`, `ema-<name>.safetensors`,
//! `optimizer.safetensors`, `state.json` and a `manifest.json` that holds the SHA-256 of the others. All tensors have
//! the names of the official checkpoints.

mod exchange;
mod folder;
mod trained;

pub use exchange::{Imported, export, import};
pub use folder::{Checkpoint, checkpoints, newest, prune, verify};
pub use trained::{TrainedAutoencoder, TrainedEncoder, TrainedRun};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::train::{TrainModel, Trainable, WriteTensors};
use crate::weights::{StateDict, load_state_dict, parameters, read_safetensors, write_safetensors};

/// What a checkpoint knows beside tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Updates that the optimizer did.
    pub optimizer_step: u64,
    /// Digest of the recipe that made it.
    pub recipe_digest: String,
    /// Version of realign.
    pub version: String,
}

/// Writes a checkpoint of the run into `<run_dir>/checkpoints`.
///
/// # Errors
/// The disk refuses; older checkpoints are untouched and nothing half-written carries a checkpoint's name.
pub fn save(trained: &dyn Trainable, recipe_digest: &str, run_dir: &Path) -> Result<PathBuf> {
    ensure!(!trained.is_torn(), "the last update failed half-way; its weights are of no step and are not saved");
    let state = |optimizer_step| State {
        step: trained.steps_done(),
        optimizer_step,
        recipe_digest: recipe_digest.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    write_parts(run_dir, trained.steps_done(), |write| trained.save(write).map(state))
}

/// Writes a checkpoint of a step: the files that `parts` writes, then the state that it returns.
fn write_parts(
    run_dir: &Path,
    step: u64,
    parts: impl FnOnce(&mut WriteTensors<'_>) -> Result<State>,
) -> Result<PathBuf> {
    folder::write(&run_dir.join("checkpoints"), step, |folder| {
        let state = parts(&mut |name, dict| write_safetensors(&folder.join(format!("{name}.safetensors")), dict))?;
        let text = serde_json::to_string_pretty(&state).context("cannot write the state")?;
        folder::write_file(&folder.join("state.json"), text.as_bytes())
    })
}

/// Continues `trained` from a checkpoint.
///
/// # Errors
/// The checkpoint is of another recipe, or does not fit.
pub fn restore(trained: &mut dyn Trainable, recipe_digest: &str, checkpoint: &Checkpoint) -> Result<()> {
    let state = read_state(checkpoint)?;
    ensure!(
        state.recipe_digest == recipe_digest,
        "`{}` is of another recipe (digest {}, this one has {recipe_digest}); use another folder, or the recipe it was \
         made with",
        checkpoint.path.display(),
        state.recipe_digest
    );
    ensure!(
        state.step == checkpoint.step,
        "`{}` says that it is of step {}",
        checkpoint.path.join("state.json").display(),
        state.step
    );
    let read = |name: &str| tensors(checkpoint, name);
    trained.load(&state, &read).with_context(|| format!("`{}`", checkpoint.path.display()))
}

/// The weights called `name` (`model` or a moving average) of a checkpoint, into a model without autodiff.
///
/// A program may keep more beside the network, as the code that it follows does; `is_of_program` leaves that out.
///
/// # Errors
/// The checkpoint has no such weights, or they do not fit.
pub fn load_weights(model: TrainModel, checkpoint: &Checkpoint, name: &str, is_of_program: bool) -> Result<TrainModel> {
    let file = if name == "model" { name.to_string() } else { format!("ema-{name}") };
    let mut dict = tensors(checkpoint, &file)?;
    if is_of_program {
        let known: BTreeSet<String> = parameters(&model).into_iter().map(|param| param.name).collect();
        dict.retain(|name, _| known.contains(name));
    }
    load_state_dict(model.valid(), dict).with_context(|| format!("`{}`", checkpoint.path.display()))
}

/// The state of a checkpoint.
///
/// # Errors
/// The file is absent or not as this version writes it.
pub fn read_state(checkpoint: &Checkpoint) -> Result<State> {
    let path = checkpoint.path.join("state.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not a checkpoint's state", path.display()))
}

fn tensors(checkpoint: &Checkpoint, name: &str) -> Result<StateDict> {
    read_safetensors(&checkpoint.path.join(format!("{name}.safetensors")))
}
