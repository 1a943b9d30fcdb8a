//! Recipes of training programs that train no diffusion model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use figment::value::Value;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::layers::Layered;
use super::log_section::LogSection;
use super::missing::Missing;
use super::plan::{Plan, absent, digest_of, run_dir};
use super::schema::{LoaderSection, TrainSection, default_weights_dir, validate_device};
use crate::ops::Precision;
use crate::plugin::{AutoencoderConfig, DatasetConfig, DatasetContext, ProgramConfig};

/// Keys of such a recipe, beside the `autoencoder` of a program that trains one. A profile's other sections describe
/// diffusion models and are left out.
const KEYS: [&str; 11] =
    ["seed", "device", "precision", "weights_dir", "data", "image_size", "flip", "loader", "program", "train", "log"];

/// A run of a program of its own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramRecipe {
    /// Seed of every random draw.
    pub seed: u64,
    /// `auto`, `cpu`, `flex`, `cuda` or `cuda:<index>`.
    pub device: String,
    /// The arithmetic of training.
    #[serde(default)]
    pub precision: Precision,
    /// Folder of published weights.
    #[serde(default = "default_weights_dir")]
    pub weights_dir: PathBuf,
    /// Where pictures come from.
    pub data: Box<dyn DatasetConfig>,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Probability of mirroring a picture left to right.
    pub flip: f64,
    /// How batches are prepared.
    pub loader: LoaderSection,
    /// The autoencoder, of a program that trains one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoencoder: Option<Box<dyn AutoencoderConfig>>,
    /// What is trained, and how.
    pub program: Box<dyn ProgramConfig>,
    /// Steps, batch and the optimizers' settings.
    pub train: TrainSection,
    /// What is written while training, and when.
    pub log: LogSection,
}

/// A recipe of either sort, with its shapes worked out.
#[derive(Debug)]
pub enum Job {
    /// A diffusion model, alone or [together with more](ProgramConfig::trains_diffusion).
    Diffusion(Box<Plan>),
    /// A program of its own.
    Program(Box<ProgramPlan>),
}

/// A program's recipe that fits together.
#[derive(Debug)]
pub struct ProgramPlan {
    /// What was asked for.
    pub recipe: ProgramRecipe,
    /// Name of the recipe file, without its ending.
    pub recipe_name: String,
    /// Name of the profile.
    pub profile_name: String,
    /// What is needed and absent.
    pub missing: Vec<Missing>,
}

impl Job {
    /// Reads the recipe and works out every shape.
    ///
    /// # Errors
    /// As [`Plan::new`] and [`ProgramPlan::new`].
    pub fn new(layered: &Layered) -> Result<Self> {
        if standing_alone(&layered.root).is_some() {
            return Ok(Self::Program(Box::new(ProgramPlan::new(layered)?)));
        }
        Ok(Self::Diffusion(Box::new(Plan::new(layered)?)))
    }
}

impl ProgramPlan {
    /// Reads the recipe.
    ///
    /// # Errors
    /// `file:line: key: message` for each value that cannot work.
    pub fn new(layered: &Layered) -> Result<Self> {
        let recipe: ProgramRecipe = layered.extract()?;
        layered.check(|check| {
            validate_device(&recipe.device, check);
            check.within("data", |check| recipe.data.validate(check));
            check.within("loader", |check| recipe.loader.validate(check));
            check.range("image_size", recipe.image_size, 1, 4096);
            check.range("flip", recipe.flip, 0.0, 1.0);
            check.within("program", |check| recipe.program.validate(check));
            match (&recipe.autoencoder, recipe.program.trains_autoencoder()) {
                (Some(autoencoder), true) => trainable(&**autoencoder, recipe.image_size, check),
                (None, true) => check.bad("autoencoder", "is missing; the program trains it: name one"),
                (Some(_), false) => check.bad("autoencoder", "has no effect, because the program trains none"),
                (None, false) => {}
            }
            check.within("train", |check| recipe.train.validate(check));
            recipe.train.suits_a_program(check);
            check.within("log", |check| recipe.log.validate(check));
            recipe.log.has_no_spatial(check);
            if recipe.log.classifier {
                check.bad("log.classifier", "judges samples of a diffusion model, and this program draws none");
            }
        })?;
        let mut missing: Vec<Missing> =
            absent(recipe.program.weights(recipe.image_size, &recipe.weights_dir)).collect();
        if let Some(autoencoder) = &recipe.autoencoder {
            missing.extend(absent(autoencoder.weights(&recipe.weights_dir)));
        }
        if let Err(problem) = recipe.data.open(&dataset_context(&recipe)) {
            missing.push(Missing::Data(format!("{problem:#}")));
        }
        let (recipe_name, profile_name) = (layered.recipe_name().to_string(), layered.profile_name().to_string());
        Ok(Self { recipe, recipe_name, profile_name, missing })
    }

    /// What the data set is told.
    pub fn dataset_context(&self) -> DatasetContext {
        dataset_context(&self.recipe)
    }

    /// As [`Plan::digest`].
    ///
    /// # Errors
    /// A plugin's config cannot be written as YAML.
    pub fn digest(&self) -> Result<String> {
        digest_of(serde_yaml::to_value(&self.recipe).context("cannot write the recipe")?, &self.recipe.train)
    }

    /// As [`Plan::run_dir`].
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn run_dir(&self, runs: &Path) -> Result<PathBuf> {
        Ok(run_dir(runs, &self.recipe_name, &self.profile_name, &self.digest()?))
    }
}

fn dataset_context(recipe: &ProgramRecipe) -> DatasetContext {
    DatasetContext { image_size: recipe.image_size, seed: recipe.seed }
}

/// Reports what keeps a program from training this autoencoder.
pub(super) fn trainable(autoencoder: &dyn AutoencoderConfig, image_size: usize, check: &mut Check<'_>) {
    check.within("autoencoder", |check| {
        autoencoder.validate(check);
        if let Err(problem) = autoencoder.latent_shape(image_size) {
            check.record(&problem);
        }
        if !autoencoder.has_posterior() {
            let name = (autoencoder.info().name)();
            check.bad("type", format!("autoencoder `{name}` has no posterior that the program could train"));
        }
    });
}

/// The program of a recipe that trains no diffusion model. One that is not known counts as none.
pub(super) fn standing_alone(root: &Value) -> Option<Box<dyn ProgramConfig>> {
    let name = root.find_ref("program.type").and_then(Value::as_str)?;
    let default = serde_json::from_value::<Box<dyn ProgramConfig>>(serde_json::json!({ "type": name })).ok()?;
    (!default.trains_diffusion()).then_some(default)
}

/// Whether a profile's section says something to a program that stands alone.
pub(super) fn is_key(program: &dyn ProgramConfig, name: &str) -> bool {
    KEYS.contains(&name) || (name == "autoencoder" && program.trains_autoencoder())
}
