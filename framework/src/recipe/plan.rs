//! A recipe with all its shapes worked out, before anything is allocated.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::check::Check;
use super::layers::Layered;
use super::missing::Missing;
use super::schema::{Recipe, ScheduleShape, TrainSection};
use crate::ops::Precision;
use crate::plugin::encoder::WeightFile;
use crate::plugin::{
    BackboneConfig, BackboneContext, BackboneSpec, ConditionSpec, ConditionerContext, DatasetContext, EncoderContext,
    EncoderSpec, LatentShape, PatchGrid, SamplerConfig,
};
use crate::registry;

/// A recipe that fits together, with its sizes.
#[derive(Debug)]
pub struct Plan {
    /// What was asked for.
    pub recipe: Recipe,
    /// Name of the recipe file, without its ending.
    pub recipe_name: String,
    /// Name of the profile.
    pub profile_name: String,
    /// Shape of a clean sample.
    pub latent: LatentShape,
    /// Classes of the data set; 0 where the data is missing.
    pub num_classes: usize,
    /// Kind of condition.
    pub condition: ConditionSpec,
    /// Sizes of the backbone.
    pub backbone: BackboneSpec,
    /// Sizes of the encoders, by term.
    pub encoders: Vec<Vec<EncoderSpec>>,
    /// What is needed and absent.
    pub missing: Vec<Missing>,
}

impl Plan {
    /// Reads the recipe and works out every shape.
    ///
    /// # Errors
    /// `file:line: key: message` for each value that cannot work, alone or with the others.
    pub fn new(layered: &Layered) -> Result<Self> {
        let recipe: Recipe = layered.extract()?;
        layered.check(|check| recipe.validate(check))?;
        let mut plan = None;
        layered.check(|check| plan = compose(&recipe, check))?;
        let (recipe_name, profile_name) = (layered.recipe_name().to_string(), layered.profile_name().to_string());
        // `compose` returns nothing only after it has recorded a problem, which the line above has returned.
        let sizes = plan.context("the recipe does not fit together")?;
        let Sizes { latent, num_classes, condition, backbone, encoders, missing } = sizes;
        Ok(Self { recipe, recipe_name, profile_name, latent, num_classes, condition, backbone, encoders, missing })
    }

    /// What the backbone is told.
    pub fn backbone_context(&self) -> BackboneContext {
        backbone_context(&self.recipe, self.latent, self.condition)
    }

    /// What the conditioner is told.
    pub fn conditioner_context(&self) -> ConditionerContext {
        ConditionerContext { num_classes: self.num_classes, weights_dir: self.recipe.weights_dir.clone() }
    }

    /// What encoders are told.
    pub fn encoder_context(&self) -> EncoderContext {
        encoder_context(&self.recipe, self.backbone.grid)
    }

    /// What the data set is told.
    pub fn dataset_context(&self) -> DatasetContext {
        DatasetContext { image_size: self.recipe.image_size, seed: self.recipe.seed }
    }

    /// Hash of everything that decides the run's numbers: the recipe without logging, evaluation, loader threads, feature
    /// cache, activation checkpointing and the folder of published weights.
    ///
    /// Where the learning rate does not depend on the number of steps, neither does the hash: a run can be extended.
    ///
    /// # Errors
    /// A plugin's config cannot be written as YAML.
    pub fn digest(&self) -> Result<String> {
        digest_of(serde_yaml::to_value(&self.recipe).context("cannot write the recipe")?, &self.recipe.train)
    }

    /// `<runs>/<recipe>-<profile>-<digest>`.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn run_dir(&self, runs: &Path) -> Result<PathBuf> {
        Ok(run_dir(runs, &self.recipe_name, &self.profile_name, &self.digest()?))
    }
}

fn encoder_context(recipe: &Recipe, backbone_grid: PatchGrid) -> EncoderContext {
    EncoderContext { image_size: recipe.image_size, backbone_grid, weights_dir: recipe.weights_dir.clone() }
}

pub(super) fn digest_of(mut recipe: serde_yaml::Value, train: &TrainSection) -> Result<String> {
    if let Some(map) = recipe.as_mapping_mut() {
        for key in ["log", "loader", "cache", "weights_dir", "evaluation"] {
            map.remove(key);
        }
        // A recipe keeps its digest from before there were these keys.
        if map.get("program").is_some_and(serde_yaml::Value::is_null) {
            map.remove("program");
        }
        if map.get("precision").is_some_and(|precision| precision == Precision::F32.name()) {
            map.remove("precision");
        }
    }
    if let Some(section) = recipe.get_mut("train").and_then(|train| train.as_mapping_mut()) {
        section.remove("activation_checkpointing");
        section.remove("memory_limit"); // a run keeps the micro-batch size that it once found to fit
        if train.schedule.shape == ScheduleShape::Constant {
            section.remove("steps");
        }
    }
    let text = serde_yaml::to_string(&recipe).context("cannot write the recipe")?;
    let hash = Sha256::digest(text.as_bytes());
    Ok(hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

pub(super) fn run_dir(runs: &Path, recipe: &str, profile: &str, digest: &str) -> PathBuf {
    runs.join(format!("{recipe}-{profile}-{digest}"))
}

struct Sizes {
    latent: LatentShape,
    num_classes: usize,
    condition: ConditionSpec,
    backbone: BackboneSpec,
    encoders: Vec<Vec<EncoderSpec>>,
    missing: Vec<Missing>,
}

fn backbone_context(recipe: &Recipe, input: LatentShape, condition: ConditionSpec) -> BackboneContext {
    let recomputes = recipe.train.activation_checkpointing;
    BackboneContext { input, condition, has_interval: recipe.objective.has_interval(), recomputes }
}

fn compose(recipe: &Recipe, check: &mut Check<'_>) -> Option<Sizes> {
    let mut missing = vec![];
    let (num_classes, condition) = condition(recipe, check, &mut missing)?;
    missing.extend(absent(recipe.conditioner.weights(&recipe.weights_dir)));
    let latent = record(check, "autoencoder", recipe.autoencoder.latent_shape(recipe.image_size))?;
    missing.extend(absent(recipe.autoencoder.weights(&recipe.weights_dir)));
    let context = backbone_context(recipe, latent, condition);
    if context.has_interval && !recipe.backbone.accepts_interval() {
        check.bad("backbone.type", no_interval(recipe));
        return None;
    }
    let backbone = record(check, "backbone", recipe.backbone.spec(&context))?;
    if let Some(program) = &recipe.program {
        missing.extend(absent(program.weights(recipe.image_size, &recipe.weights_dir)));
    }
    sampler("sample.sampler", &*recipe.sample.sampler, recipe, check);
    for (i, also) in recipe.sample.also.iter().enumerate() {
        sampler(&format!("sample.also.{i}"), &**also, recipe, check);
    }
    let context = encoder_context(recipe, backbone.grid);
    let mut encoders = vec![];
    for (i, term) in recipe.alignment.iter().enumerate() {
        check.within(&format!("alignment.{i}"), |check| {
            check.range("encoder_depth", term.encoder_depth, 1, backbone.depth);
            let mut specs = vec![];
            for (k, encoder) in term.encoders.iter().enumerate() {
                let key = format!("encoders.{k}");
                let spec = record(check, &key, encoder.spec(&context));
                if let Some(spec) = &spec {
                    grids(check, &key, spec.grid, backbone.grid);
                    missing.extend(absent(spec.weights.clone()));
                }
                specs.extend(spec);
            }
            encoders.push(specs);
        });
    }
    if let Some(spatial) = &recipe.log.spatial {
        for (i, tap) in spatial.taps.iter().enumerate() {
            check.range(&format!("log.spatial.taps.{i}"), *tap, 1, backbone.depth);
        }
    }
    Some(Sizes { latent, num_classes, condition, backbone, encoders, missing })
}

/// Why a backbone with one time cannot serve the objective, and which can.
fn no_interval(recipe: &Recipe) -> String {
    let fits = |name: &&str| {
        let default = serde_json::from_value::<Box<dyn BackboneConfig>>(serde_json::json!({ "type": name }));
        default.is_ok_and(|backbone| backbone.accepts_interval())
    };
    let known: Vec<_> = registry::names("backbone").into_iter().filter(fits).collect();
    format!(
        "backbone `{}` takes one time, and objective `{}` trains over intervals of two; those that take two: {}",
        (recipe.backbone.info().name)(),
        (recipe.objective.info().name)(),
        known.join(", ")
    )
}

/// Refuses a sampler that needs what the objective's networks cannot tell.
fn sampler(key: &str, sampler: &dyn SamplerConfig, recipe: &Recipe, check: &mut Check<'_>) {
    let offered = recipe.objective.dynamics();
    if offered.contains(&sampler.dynamics()) {
        return;
    }
    let fits = |name: &&str| {
        let default = serde_json::from_value::<Box<dyn SamplerConfig>>(serde_json::json!({ "type": name }));
        default.is_ok_and(|sampler| offered.contains(&sampler.dynamics()))
    };
    let known: Vec<_> = registry::names("sampler").into_iter().filter(fits).collect();
    check.bad(
        &format!("{key}.type"),
        format!(
            "sampler `{}` cannot use networks of objective `{}`; those that can: {}",
            (sampler.info().name)(),
            (recipe.objective.info().name)(),
            known.join(", ")
        ),
    );
}

fn grids(check: &mut Check<'_>, key: &str, encoder: PatchGrid, backbone: PatchGrid) {
    if encoder != backbone {
        check.bad(
            key,
            format!(
                "the encoder's grid is {encoder} and the backbone's is {backbone}; they must be equal: change the \
             backbone's patch_size, image_size, or choose an encoder whose grid follows"
            ),
        );
    }
}

/// Classes of the data set, 0 where it is missing, and the kind of condition.
fn condition(recipe: &Recipe, check: &mut Check<'_>, missing: &mut Vec<Missing>) -> Option<(usize, ConditionSpec)> {
    let conditioner = &recipe.conditioner;
    if matches!(conditioner.spec(1), ConditionSpec::Text { .. }) && !recipe.data.has_captions() {
        let message = format!(
            "data set `{}` has no captions, and conditioner `{}` needs them",
            (recipe.data.info().name)(),
            (conditioner.info().name)()
        );
        check.bad("data.type", message);
        return None;
    }
    if let Some(num_classes) = recipe.data.num_classes_hint() {
        return labelled(num_classes, conditioner.spec(num_classes), check);
    }
    let ctx = DatasetContext { image_size: recipe.image_size, seed: recipe.seed };
    match recipe.data.open(&ctx) {
        Ok(data) => labelled(data.num_classes(), conditioner.spec(data.num_classes()), check),
        Err(problem) => match conditioner.spec(0) {
            // The recipe says how many classes there are, so shapes can be checked without the data.
            known if is_absent(&problem) && known != (ConditionSpec::Labels { num_classes: 0 }) => {
                missing.push(Missing::Data(format!("{problem:#}")));
                Some((0, known))
            }
            _ => {
                check.bad("data", format!("{problem:#}"));
                None
            }
        },
    }
}

/// Refuses a conditioner that knows fewer labels than the data set has.
fn labelled(num_classes: usize, spec: ConditionSpec, check: &mut Check<'_>) -> Option<(usize, ConditionSpec)> {
    match spec {
        ConditionSpec::Labels { num_classes: known } if known < num_classes => {
            let message = format!("`{known}` is less than the {num_classes} classes of the data set");
            check.bad("conditioner.num_classes", message);
            None
        }
        spec => Some((num_classes, spec)),
    }
}

/// Whether a file is not there; others are there and wrong.
fn is_absent(problem: &anyhow::Error) -> bool {
    let mut causes = problem.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::NotFound)
}

pub(super) fn absent(files: Vec<WeightFile>) -> impl Iterator<Item = Missing> {
    files.into_iter().filter(|file| !file.path.exists()).map(Missing::Weights)
}

fn record<T>(check: &mut Check<'_>, key: &str, result: Result<T>) -> Option<T> {
    result.map_err(|problem| check.bad(key, format!("{problem:#}"))).ok()
}
