//! Checkpoints: written aside, synced, renamed; the newest whole one wins.
//!
//! A checkpoint is a folder `step-0000690` with `model.safetensors`, `ema-<name>.safetensors`,
//! `optimizer.safetensors`, `state.json` and a `manifest.json` that holds the SHA-256 of the others. All tensors have
//! the names of the official checkpoints.

mod folder;
mod trained;

pub use folder::{Checkpoint, checkpoints, newest, prune};
pub use trained::TrainedRun;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::recipe::Plan;
use crate::train::{Ema, TrainModel, Trainer};
use crate::weights::{StateDict, load_state_dict, read_safetensors, state_dict, write_safetensors};

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
pub fn save(trainer: &Trainer, plan: &Plan, run_dir: &Path) -> Result<PathBuf> {
    ensure!(!trainer.is_torn(), "the last update failed half-way; its weights are of no step and are not saved");
    let (optimizer, optimizer_step) = trainer.optimizer.state_dict();
    let state = State {
        step: trainer.step,
        optimizer_step,
        recipe_digest: plan.digest()?,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    folder::write(&run_dir.join("checkpoints"), trainer.step, |folder| {
        let write = |name: &str, dict: &StateDict| write_safetensors(&folder.join(format!("{name}.safetensors")), dict);
        write("optimizer", &optimizer)?;
        drop(optimizer);
        // One copy at a time on the host.
        write("model", &state_dict(&trainer.model))?;
        for ema in &trainer.emas {
            write(&format!("ema-{}", ema.settings.name), &state_dict(ema.model()))?;
        }
        let text = serde_json::to_string_pretty(&state).context("cannot write the state")?;
        folder::write_file(&folder.join("state.json"), text.as_bytes())
    })
}

/// Continues `trainer` from a checkpoint.
///
/// # Errors
/// The checkpoint is of another recipe, or does not fit.
pub fn restore(trainer: &mut Trainer, plan: &Plan, checkpoint: &Checkpoint) -> Result<()> {
    let state = read_state(checkpoint)?;
    let digest = plan.digest()?;
    ensure!(
        state.recipe_digest == digest,
        "`{}` is of another recipe (digest {}, this one has {digest}); use another folder, or the recipe it was made with",
        checkpoint.path.display(),
        state.recipe_digest
    );
    let read = |name: &str| tensors(checkpoint, name);
    let model = load_state_dict(trainer.model.clone(), read("model")?)
        .with_context(|| format!("`{}`", checkpoint.path.display()))?;
    let emas = plan
        .recipe
        .train
        .ema
        .iter()
        .map(|ema| Ema::from_state_dict(&model, ema.clone(), read(&format!("ema-{}", ema.name))?));
    let emas = emas.collect::<Result<Vec<_>>>()?;
    trainer.optimizer.load_state_dict(read("optimizer")?, state.optimizer_step)?;
    trainer.emas = emas;
    trainer.model = model;
    trainer.step = state.step;
    Ok(())
}

/// The weights called `name` (`model` or a moving average) of a checkpoint, into a model without autodiff.
///
/// # Errors
/// The checkpoint has no such weights, or they do not fit.
pub fn load_weights(model: TrainModel, checkpoint: &Checkpoint, name: &str) -> Result<TrainModel> {
    let file = if name == "model" { name.to_string() } else { format!("ema-{name}") };
    load_state_dict(model.valid(), tensors(checkpoint, &file)?)
        .with_context(|| format!("`{}`", checkpoint.path.display()))
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
