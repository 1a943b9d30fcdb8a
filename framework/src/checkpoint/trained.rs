//! The trained networks of a run folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use burn::tensor::Device;

use super::{Checkpoint, checkpoints, load_weights, newest, tensors, verify};
use crate::erase::Slot;
use crate::nn::ParamBuilder;
use crate::plugin::{
    Autoencoder, AutoencoderConfig, Condition, ConditionSpec, EncoderConfig, EncoderContext, EncoderKind, PatchGrid,
    ProgramConfig,
};
use crate::recipe::{Job, Layered, Plan, ProgramPlan, Settings, TrainSection};
use crate::train::{Assembly, TrainModel, build_conditioner, build_model};
use crate::weights::load_state_dict;

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
    /// It is no run folder, the run trained no backbone, or the overridden recipe does not fit together.
    pub fn open(settings: &Settings, run_dir: &Path, sets: &[String]) -> Result<Self> {
        let layered = recipe(settings, run_dir, sets)?;
        let plan = Plan::new(&layered).map_err(|problem| match Job::new(&layered) {
            Ok(Job::Program(other)) => anyhow!(
                "the run in `{}` trained program `{}` and no backbone; name a run with one",
                run_dir.display(),
                (other.recipe.program.info().name)()
            ),
            _ => problem,
        })?;
        Ok(Self { run_dir: run_dir.to_path_buf(), layered, plan })
    }

    /// Name and profile of the recipe that the run was started with, which its folder's `run.json` holds.
    pub fn names(&self) -> [String; 2] {
        let text = fs::read_to_string(self.run_dir.join("run.json")).unwrap_or_default();
        let about: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let of = |key: &str, own: &str| about[key].as_str().unwrap_or(own).to_string();
        [of("recipe", &self.plan.recipe_name), of("profile", &self.plan.profile_name)]
    }

    /// The checkpoint of a step, or the newest whole one.
    ///
    /// # Errors
    /// There is none, which lists the steps that there are, or it is not what was written.
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

/// A run folder whose program trained an encoder.
#[derive(Debug)]
pub struct TrainedEncoder {
    run_dir: PathBuf,
    plan: Box<ProgramPlan>,
}

impl TrainedEncoder {
    /// Reads the folder's recipe; none where its run trained no encoder.
    ///
    /// # Errors
    /// It is no run folder, or its recipe does not fit together.
    pub fn open(run_dir: &Path) -> Result<Option<Self>> {
        let job = Job::new(&recipe(&Settings::default(), run_dir, &[])?)?;
        let Job::Program(plan) = job else { return Ok(None) };
        let is_trained = plan.recipe.program.encoder().is_some();
        Ok(is_trained.then(|| Self { run_dir: run_dir.to_path_buf(), plan }))
    }

    /// The encoder's config, and where it was trained: side of the pictures and grid of tokens.
    ///
    /// # Errors
    /// None after [`open`](Self::open).
    pub fn config(&self) -> Result<(&dyn EncoderConfig, EncoderContext)> {
        let recipe = &self.plan.recipe;
        let (config, grid): (_, PatchGrid) = recipe.program.encoder().context("its program trains no encoder")?;
        let weights_dir = recipe.weights_dir.clone();
        Ok((config, EncoderContext { image_size: recipe.image_size, backbone_grid: grid, weights_dir }))
    }

    /// The encoder of a step's checkpoint, or of the newest whole one: the weights called `name` (`model` or a moving
    /// average), those of the first average when left out.
    ///
    /// # Errors
    /// There is no such checkpoint, it has no such weights, or they do not fit.
    pub fn build(&self, step: Option<u64>, name: Option<&str>, device: &Device) -> Result<Slot<EncoderKind>> {
        let (config, ctx) = self.config()?;
        let averages = &self.plan.recipe.train.ema;
        let name = name.unwrap_or_else(|| averages.first().map_or("model", |ema| ema.name.as_str()));
        let is_known = name == "model" || averages.iter().any(|ema| ema.name == name);
        let known = averages.iter().map(|ema| format!("`{}`", ema.name)).collect::<Vec<_>>().join(", ");
        ensure!(is_known, "`{}` has no weights `{name}`; it has `model`, {known}", self.run_dir.display());
        let file = if name == "model" { "encoder".to_string() } else { format!("encoder-{name}") };
        let checkpoint = checkpoint(&self.run_dir, step)?;
        let encoder = Slot::new(config.build(&ctx, device)?);
        load_state_dict(encoder, tensors(&checkpoint, &file)?)
            .with_context(|| format!("`{}`", checkpoint.path.display()))
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
        let (found, problems) = newest(&folder);
        return found.with_context(|| match problems.is_empty() {
            true => format!("`{}` holds no checkpoint yet; train the run first", folder.display()),
            false => format!("`{}` holds no whole checkpoint:\n  {}", folder.display(), problems.join("\n  ")),
        });
    };
    let all = checkpoints(&folder);
    let steps: Vec<String> = all.iter().map(|found| found.step.to_string()).collect();
    let found = all.into_iter().find(|found| found.step == step);
    let found = found.with_context(|| match steps.is_empty() {
        true => format!("`{}` holds no checkpoint", folder.display()),
        false => format!("no checkpoint of step {step}; there are: {}", steps.join(", ")),
    })?;
    verify(&found)?;
    Ok(found)
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
