//! How previews and samples are drawn.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::schema::EmaSection;
use crate::plugin::SamplerConfig;
use crate::sample::Quantization;

/// How previews and samples are drawn.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSection {
    /// The solver.
    pub sampler: Box<dyn SamplerConfig>,
    /// Further solvers whose samples previews and the classifier at the end show beside the first's.
    #[serde(default)]
    pub also: Vec<Box<dyn SamplerConfig>>,
    /// Classifier-free guidance scale; 1 is none.
    pub cfg_scale: f64,
    /// First time at which guidance acts.
    pub guidance_low: f64,
    /// Last time at which guidance acts.
    pub guidance_high: f64,
    /// Name of a moving average, or `model`.
    pub weights: String,
    /// Pictures of a preview; 0 draws none.
    pub num_preview: usize,
    /// How classes are chosen.
    pub label_sampling: LabelSampling,
    /// How values become bytes.
    pub quantization: Quantization,
}

/// How the classes of samples are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelSampling {
    /// Independent and uniform.
    Random,
    /// Every class equally often; the count must be a multiple of the classes.
    Balanced,
}

impl SampleSection {
    pub(super) fn validate(&self, emas: &[EmaSection], check: &mut Check<'_>) {
        check.within("sampler", |check| self.sampler.validate(check));
        for (i, sampler) in self.also.iter().enumerate() {
            check.within(&format!("also.{i}"), |check| sampler.validate(check));
        }
        check.range("cfg_scale", self.cfg_scale, 0.0, 1e3);
        check.range("guidance_low", self.guidance_low, 0.0, 1.0);
        check.range("guidance_high", self.guidance_high, 0.0, 1.0);
        if self.guidance_low > self.guidance_high {
            check.bad(
                "guidance_low",
                format!("`{}` is above guidance_high `{}`", self.guidance_low, self.guidance_high),
            );
        }
        let known: Vec<&str> = emas.iter().map(|ema| ema.name.as_str()).chain(["model"]).collect();
        check.one_of("weights", &self.weights, &known);
        check.range("num_preview", self.num_preview, 0, 1024);
    }
}
