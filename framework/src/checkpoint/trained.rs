//! The trained network of a run folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;

use super::{Checkpoint, checkpoints, load_weights, newest};
use crate::nn::ParamBuilder;
use crate::plugin::{Condition, ConditionSpec};
use crate::recipe::{Layered, Plan, Settings};
use crate::train::{TrainModel, build_conditioner, build_model};

/// A run folder that was trained, with its recipe as it was resolved then.
#[derive(Debug)]
pub struct TrainedRun {
    /// The folder.
    pub run_dir: PathBuf,
    /// The recipe that the folder holds, with overrides.
    pub layered: Layered,
    /// Its sizes.
    pub plan: Plan,
}

impl TrainedRun {
    /// Reads the folder's recipe over the user's settings; `sets` override single values of it.
    ///
    /// # Errors
    /// It is no run folder, or the overridden recipe does not fit together.
    pub fn open(settings: &Settings, run_dir: &Path, sets: &[String]) -> Result<Self> {
        let path = run_dir.join("recipe.yaml");
        ensure!(path.exists(), "`{}` is not a run folder: it has no `recipe.yaml`", run_dir.display());
        let layered = Layered::load_over(settings, &path, Some("none"), sets)?;
        let plan = Plan::new(&layered)?;
        Ok(Self { run_dir: run_dir.to_path_buf(), layered, plan })
    }

    /// The checkpoint of a step, or the newest whole one.
    ///
    /// # Errors
    /// There is none; lists the steps that there are.
    pub fn checkpoint(&self, step: Option<u64>) -> Result<Checkpoint> {
        let folder = self.run_dir.join("checkpoints");
        let Some(step) = step else {
            return newest(&folder).0.with_context(|| format!("`{}` holds no whole checkpoint", folder.display()));
        };
        let all = checkpoints(&folder);
        let steps: Vec<String> = all.iter().map(|found| found.step.to_string()).collect();
        let found = all.into_iter().find(|found| found.step == step);
        found.with_context(|| format!("no checkpoint of step {step}; there are: {}", steps.join(", ")))
    }

    /// What stands for "anything" to a model of the run, once.
    ///
    /// # Errors
    /// The conditioner lacks its weights.
    pub fn null_condition(&self, model: &TrainModel, device: &Device) -> Result<Condition> {
        // The label's number is the recipe's, also where its data is elsewhere.
        if let ConditionSpec::Labels { num_classes } = self.plan.condition {
            return Ok(Condition::labels(&[i64::try_from(num_classes)?], device));
        }
        match &model.conditioner {
            Some(trained) => Ok(trained.null(1, device)),
            None => {
                Ok(build_conditioner(&self.plan, &ParamBuilder::new(device, self.plan.recipe.seed))?.null(1, device))
            }
        }
    }

    /// The weights called `name` (`model` or a moving average) of a checkpoint, without autodiff.
    ///
    /// # Errors
    /// The checkpoint has no such weights, or they do not fit.
    pub fn model(&self, checkpoint: &Checkpoint, name: &str, device: &Device) -> Result<TrainModel> {
        load_weights(build_model(&self.plan, device)?, checkpoint, name)
    }
}
