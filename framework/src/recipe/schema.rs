//! What a recipe says, section by section.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cache_section::CacheSection;
use super::check::Check;
use super::evaluation_section::EvaluationSection;
use super::log_section::LogSection;
use super::micro_batch_size::MicroBatchSize;
use super::sample_section::SampleSection;
use crate::ops::{DeviceChoice, Precision};
use crate::plugin::{
    AlignmentLossConfig, AutoencoderConfig, BackboneConfig, ConditionerConfig, DatasetConfig, EncoderConfig,
    NormalizerConfig, ObjectiveConfig, ProgramConfig, ProjectorConfig,
};
use crate::registry;

/// A whole run: method and scale together.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of every random draw.
    pub seed: u64,
    /// `auto`, `cpu`, `flex`, `cuda` or `cuda:<index>`.
    pub device: String,
    /// The arithmetic of training, encoders and sampling.
    #[serde(default)]
    pub precision: Precision,
    /// Folder of published weights, for parts whose own `weights` is left out.
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
    /// Whether encoder features are kept after their first use.
    #[serde(default)]
    pub cache: CacheSection,
    /// From pictures to clean samples.
    pub autoencoder: Box<dyn AutoencoderConfig>,
    /// From labels or captions to conditions.
    pub conditioner: Box<dyn ConditionerConfig>,
    /// The network.
    pub backbone: Box<dyn BackboneConfig>,
    /// What it learns to predict.
    pub objective: Box<dyn ObjectiveConfig>,
    /// Alignment terms, added to the objective's loss; none is plain training.
    pub alignment: Vec<AlignmentTerm>,
    /// The optimizer's settings.
    pub train: TrainSection,
    /// What is trained beside the backbone and its projectors, and how; nothing when absent.
    #[serde(default)]
    pub program: Option<Box<dyn ProgramConfig>>,
    /// How previews and samples are drawn.
    pub sample: SampleSection,
    /// What is written while training, and when.
    pub log: LogSection,
    /// How samples are evaluated afterwards.
    #[serde(default)]
    pub evaluation: EvaluationSection,
}

/// One alignment term: encoder features, normalized, against projected tokens.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlignmentTerm {
    /// Encoders, each with its own projector; their losses are averaged.
    pub encoders: Vec<Box<dyn EncoderConfig>>,
    /// What happens to the features first.
    pub normalizer: Box<dyn NormalizerConfig>,
    /// From backbone tokens to feature space.
    pub projector: Box<dyn ProjectorConfig>,
    /// Distance of both.
    pub loss: Box<dyn AlignmentLossConfig>,
    /// Weight of this term.
    pub proj_coeff: f64,
    /// The block whose output is aligned, counted from 1.
    pub encoder_depth: usize,
    /// The term is left out from this step on; never when absent.
    #[serde(default)]
    pub until_step: Option<u64>,
}

/// How batches are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderSection {
    /// Threads that read and decode; 0 prepares batches between steps.
    pub num_workers: usize,
    /// Batches kept ready.
    pub prefetch: usize,
}

impl LoaderSection {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.range("num_workers", self.num_workers, 0, 256);
        check.range("prefetch", self.prefetch, 0, 1024);
    }
}

impl Default for LoaderSection {
    fn default() -> Self {
        Self { num_workers: 1, prefetch: 2 }
    }
}

/// The optimizer's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Samples per optimizer step.
    pub global_batch_size: usize,
    /// Samples per forward pass; gradients are accumulated over `global_batch_size / micro_batch_size` passes.
    pub micro_batch_size: MicroBatchSize,
    /// Memory that a step may take, in GB (10⁹ bytes), for a `micro_batch_size` of `auto`; nine tenths of what is free on a
    /// GPU, and four fifths on a CPU, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<f64>,
    /// Whether the backbone's blocks are computed again in the backward pass, which saves memory and changes no number.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Batch size that `learning_rate` belongs to: the rate grows linearly with `global_batch_size`. Not at all when null.
    #[serde(default)]
    pub base_batch_size: Option<usize>,
    /// How the learning rate changes over the run.
    pub schedule: ScheduleSection,
    /// AdamW's decay of the first and second moments.
    pub betas: [f64; 2],
    /// AdamW's term beside the root of the second moment.
    pub eps: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Parameters that the weight decay acts on.
    #[serde(default)]
    pub decayed: Decayed,
    /// Largest global L2 norm of the gradient; no clipping when null.
    pub max_grad_norm: Option<f64>,
    /// Moving averages of the weights.
    pub ema: Vec<EmaSection>,
}

/// How the learning rate changes over the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSection {
    /// What follows the warm-up.
    pub shape: ScheduleShape,
    /// Steps over which the rate rises linearly from zero.
    pub warmup_steps: u64,
    /// Whether the first step has the rate zero, as in JiT, instead of the first part of the warm-up.
    pub warmup_from_zero: bool,
    /// Fraction of the run at which the decay begins.
    pub decay_from: f64,
    /// Fraction of the peak rate left at the last step.
    pub final_fraction: f64,
}

impl Default for ScheduleSection {
    fn default() -> Self {
        Self {
            shape: ScheduleShape::Constant,
            warmup_steps: 0,
            warmup_from_zero: false,
            decay_from: 0.0,
            final_fraction: 0.0,
        }
    }
}

/// Shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleShape {
    /// The peak rate.
    Constant,
    /// A straight line to `final_fraction`.
    Linear,
    /// Half a cosine to `final_fraction`.
    Cosine,
}

/// Parameters that the weight decay acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decayed {
    /// Every trainable parameter, as PyTorch's default.
    #[default]
    All,
    /// All but biases and parameters with one axis, as in JiT.
    Matrices,
}

/// One moving average of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmaSection {
    /// Its name, in files and in `sample.weights`.
    pub name: String,
    /// Share of the old average that each step keeps.
    pub decay: f64,
    /// How the decay starts.
    #[serde(default)]
    pub warmup: EmaWarmup,
}

/// How a moving average's decay starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmaWarmup {
    /// The full decay from the first step.
    #[default]
    None,
    /// `min(decay, 1 − 5/(step + 1))`: short runs average over their last fifth.
    ShortHorizon,
}

pub(super) fn default_weights_dir() -> PathBuf {
    PathBuf::from("pretrained_models")
}

impl Recipe {
    /// Reports every value that cannot work on its own or with its neighbors.
    pub fn validate(&self, check: &mut Check<'_>) {
        validate_device(&self.device, check);
        check.within("data", |check| self.data.validate(check));
        check.range("image_size", self.image_size, 1, 4096);
        check.range("flip", self.flip, 0.0, 1.0);
        check.within("loader", |check| self.loader.validate(check));
        check.within("cache", |check| self.cache.validate(self.flip, check));
        check.within("autoencoder", |check| self.autoencoder.validate(check));
        check.within("conditioner", |check| self.conditioner.validate(check));
        check.within("backbone", |check| self.backbone.validate(check));
        check.within("objective", |check| self.objective.validate(check));
        for (i, term) in self.alignment.iter().enumerate() {
            check.within(&format!("alignment.{i}"), |check| term.validate(check));
        }
        check.within("train", |check| self.train.validate(check));
        if self.train.activation_checkpointing {
            self.can_recompute(check);
        }
        check.within("sample", |check| self.sample.validate(&self.train.ema, check));
        check.within("log", |check| self.log.validate(check));
        check.within("evaluation", |check| self.evaluation.validate(check));
        if let Some(program) = &self.program {
            check.within("program", |check| program.validate(check));
            self.log.has_no_spatial(check);
            program.validate_with(self, check);
            if program.trains_autoencoder() && !self.autoencoder.has_posterior() {
                let name = (self.autoencoder.info().name)();
                check.bad(
                    "autoencoder.type",
                    format!("autoencoder `{name}` has no posterior that the program could train"),
                );
            }
            self.train.suits_a_program(check);
        }
    }
}

impl Recipe {
    /// Reports what keeps the blocks from being computed again.
    fn can_recompute(&self, check: &mut Check<'_>) {
        let key = "train.activation_checkpointing";
        if !self.backbone.can_recompute() {
            let fits = |name: &&str| {
                let default = serde_json::from_value::<Box<dyn BackboneConfig>>(serde_json::json!({ "type": name }));
                default.is_ok_and(|backbone| backbone.can_recompute())
            };
            let known: Vec<_> = registry::names("backbone").into_iter().filter(fits).collect();
            let name = (self.backbone.info().name)();
            check.bad(
                key,
                format!("backbone `{name}` cannot compute its blocks again; those that can: {}", known.join(", ")),
            );
        }
        if DeviceChoice::parse(&self.device).is_ok_and(DeviceChoice::is_flex) {
            check.bad(key, format!("needs libtorch, and device `{}` is flex; use `cpu` or `cuda`", self.device));
        }
    }
}

pub(super) fn validate_device(device: &str, check: &mut Check<'_>) {
    if let Err(problem) = DeviceChoice::parse(device) {
        check.bad("device", problem);
    }
}

impl AlignmentTerm {
    fn validate(&self, check: &mut Check<'_>) {
        if self.encoders.is_empty() {
            check.bad("encoders", "the list is empty; name at least one encoder, or remove the term");
        }
        for (i, encoder) in self.encoders.iter().enumerate() {
            check.within(&format!("encoders.{i}"), |check| encoder.validate(check));
        }
        check.within("normalizer", |check| self.normalizer.validate(check));
        check.within("projector", |check| self.projector.validate(check));
        check.within("loss", |check| self.loss.validate(check));
        check.range("proj_coeff", self.proj_coeff, 0.0, 1e6);
    }
}

impl TrainSection {
    /// Samples per forward pass; the whole batch where the recipe leaves the number to the run.
    pub fn micro_batch(&self) -> usize {
        match self.micro_batch_size {
            MicroBatchSize::Samples(samples) => samples,
            MicroBatchSize::Auto => self.global_batch_size,
        }
    }

    /// Reports what has no effect on a training program. The keys are those of the whole recipe.
    pub(super) fn suits_a_program(&self, check: &mut Check<'_>) {
        if self.micro_batch_size != self.global_batch_size.into() {
            check.bad("train.micro_batch_size", "a program takes the whole batch at once; set it to global_batch_size");
        }
        if self.activation_checkpointing {
            check.bad("train.activation_checkpointing", "has no effect on the networks of a program; set it to false");
        }
    }

    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.range("steps", self.steps, 1, 1_000_000_000);
        check.range("global_batch_size", self.global_batch_size, 1, 1 << 20);
        let (global, micro) = (self.global_batch_size, self.micro_batch());
        check.positive("micro_batch_size", micro);
        if let Some(limit) = self.memory_limit {
            check.range("memory_limit", limit, 0.001, 1e6);
            if self.micro_batch_size != MicroBatchSize::Auto {
                check.bad("memory_limit", "has no effect, because micro_batch_size is a number; set that to `auto`");
            }
        }
        if micro > 0 && !global.is_multiple_of(micro) {
            check.bad("micro_batch_size", format!("`{micro}` does not divide global_batch_size `{global}`"));
        }
        if let Some(base) = self.base_batch_size {
            check.positive("base_batch_size", base);
        }
        check.range("learning_rate", self.learning_rate, 0.0, 1e3);
        check.within("schedule", |check| {
            check.range("decay_from", self.schedule.decay_from, 0.0, 1.0);
            check.range("final_fraction", self.schedule.final_fraction, 0.0, 1.0);
        });
        for (i, beta) in self.betas.iter().enumerate() {
            check.range(&format!("betas.{i}"), *beta, 0.0, 0.999_999_9);
        }
        check.range("eps", self.eps, 0.0, 1.0);
        check.range("weight_decay", self.weight_decay, 0.0, 1e3);
        let is_useless = |norm: &f64| norm.is_nan() || *norm <= 0.0 || *norm > 1e9;
        if let Some(norm) = self.max_grad_norm.filter(is_useless) {
            check.bad("max_grad_norm", format!("`{norm}` is out of range; allowed is above 0 to 1e9, or null"));
        }
        for (i, ema) in self.ema.iter().enumerate() {
            check.within(&format!("ema.{i}"), |check| {
                check.range("decay", ema.decay, 0.0, 1.0);
                let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if ema.name.is_empty() || ema.name == "model" || !ema.name.chars().all(is_word) {
                    check.bad("name", format!("`{}` is not allowed; use letters, digits and _, not `model`", ema.name));
                }
                if self.ema[..i].iter().any(|other| other.name == ema.name) {
                    check.bad("name", format!("`{}` names two averages", ema.name));
                }
            });
        }
    }
}
