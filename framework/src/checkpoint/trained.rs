//! The trained networks of a run folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;

use super::{Checkpoint, checkpoints, load_weights, newest, tensors};
use crate::erase::Slot;
use crate::nn::ParamBuilder;
use crate::plugin::{Autoencoder, AutoencoderConfig, Condition, ConditionSpec, ProgramConfig};
use crate::recipe::{Job, Layered, Plan, Settings, TrainSection};
use crate::train::{Assembly, TrainModel, build_conditioner, build_model};

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
        let layered = recipe(settings, run_dir, sets)?;
        let plan = Plan::new(&layered)?;
        Ok(Self { run_dir: run_dir.to_path_buf(), layered, plan })
    }

    /// The checkpoint of a step, or the newest whole one.
    ///
    /// # Errors
    /// There is none; lists the steps that there are.
    pub fn checkpoint(&self, step: Option<u64>) -> Result<Checkpoint> {
        checkpoint(&self.run_dir, step)
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
        load_weights(build_model(&self.plan, device)?, checkpoint, name, self.plan.recipe.program.is_some())
    }

    /// The autoencoder as a checkpoint holds it, or the recipe's where the run did not train it.
    ///
    /// # Errors
    /// A file of weights is absent or does not fit.
    pub fn autoencoder(
        &self,
        checkpoint: &Checkpoint,
        weights_dir: &Path,
        device: &Device,
    ) -> Result<Box<dyn Autoencoder>> {
        let recipe = &self.plan.recipe;
        match recipe.program.as_deref().filter(|program| program.trains_autoencoder()) {
            Some(program) => autoencoder(program, &*recipe.autoencoder, &recipe.train, checkpoint, device),
            None => recipe.autoencoder.build(weights_dir, device).context("autoencoder"),
        }
    }

    /// Everything else that samples are drawn with.
    ///
    /// # Errors
    /// As [`Assembly::new`] and [`autoencoder`](Self::autoencoder).
    pub fn assembly(&self, checkpoint: &Checkpoint) -> Result<Assembly> {
        let mut assembly = Assembly::new(&self.plan)?;
        if self.plan.recipe.program.is_some() {
            let trained = self.autoencoder(checkpoint, &self.plan.recipe.weights_dir, &assembly.device)?;
            assembly.autoencoder = Slot::new(trained);
        }
        Ok(assembly)
    }
}

/// A run folder whose program trained an autoencoder, alone or with a diffusion model.
#[derive(Debug)]
pub struct TrainedAutoencoder {
    run_dir: PathBuf,
    job: Job,
}

impl TrainedAutoencoder {
    /// Reads the folder's recipe.
    ///
    /// # Errors
    /// It is no run folder, or its run trained no autoencoder.
    pub fn open(run_dir: &Path) -> Result<Self> {
        let job = Job::new(&recipe(&Settings::default(), run_dir, &[])?)?;
        let trained = Self { run_dir: run_dir.to_path_buf(), job };
        trained.parts()?;
        Ok(trained)
    }

    /// The autoencoder's config.
    ///
    /// # Errors
    /// None after [`open`](Self::open).
    pub fn config(&self) -> Result<&dyn AutoencoderConfig> {
        Ok(self.parts()?.1)
    }

    /// The autoencoder of a step's checkpoint, or of the newest whole one, with statistics of its own latents.
    ///
    /// # Errors
    /// There is no such checkpoint, or it does not fit.
    pub fn build(&self, step: Option<u64>, device: &Device) -> Result<Box<dyn Autoencoder>> {
        let (program, config) = self.parts()?;
        let train = match &self.job {
            Job::Diffusion(plan) => &plan.recipe.train,
            Job::Program(plan) => &plan.recipe.train,
        };
        autoencoder(program, config, train, &checkpoint(&self.run_dir, step)?, device)
    }

    fn parts(&self) -> Result<(&dyn ProgramConfig, &dyn AutoencoderConfig)> {
        let (program, autoencoder) = match &self.job {
            Job::Diffusion(plan) => (plan.recipe.program.as_deref(), Some(&*plan.recipe.autoencoder)),
            Job::Program(plan) => (Some(&*plan.recipe.program), plan.recipe.autoencoder.as_deref()),
        };
        let program = program.filter(|program| program.trains_autoencoder());
        program.zip(autoencoder).with_context(|| {
            format!("the run in `{}` trained no autoencoder; name one of a program that does", self.run_dir.display())
        })
    }
}

fn recipe(settings: &Settings, run_dir: &Path, sets: &[String]) -> Result<Layered> {
    let path = run_dir.join("recipe.yaml");
    ensure!(path.exists(), "`{}` is not a run folder: it has no `recipe.yaml`", run_dir.display());
    Layered::load_over(settings, &path, Some("none"), sets)
}

fn checkpoint(run_dir: &Path, step: Option<u64>) -> Result<Checkpoint> {
    let folder = run_dir.join("checkpoints");
    let Some(step) = step else {
        return newest(&folder).0.with_context(|| format!("`{}` holds no whole checkpoint", folder.display()));
    };
    let all = checkpoints(&folder);
    let steps: Vec<String> = all.iter().map(|found| found.step.to_string()).collect();
    let found = all.into_iter().find(|found| found.step == step);
    found.with_context(|| format!("no checkpoint of step {step}; there are: {}", steps.join(", ")))
}

fn autoencoder(
    program: &dyn ProgramConfig,
    config: &dyn AutoencoderConfig,
    train: &TrainSection,
    checkpoint: &Checkpoint,
    device: &Device,
) -> Result<Box<dyn Autoencoder>> {
    let trained = program.autoencoder(config, train, &|name| tensors(checkpoint, name), device);
    trained.with_context(|| format!("`{}`", checkpoint.path.display()))
}
