//! Euler–Maruyama steps of the reverse SDE.

use anyhow::Result;
use realign::burn::tensor::Tensor;
use realign::plugin::{SampleRequest, Sampler, SamplerConfig};
use realign::recipe::Check;
use realign::sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `sde`: the paper's sampler, with a last step without noise.
///
/// Source: REPA `samplers.py`, `euler_maruyama_sampler`. Diffusion 2t; the state is f64.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SdeConfig {
    /// Number of steps, the last one included.
    #[schemars(range(min = 2, max = 100_000))]
    pub num_steps: usize,
    /// Time at which the last step begins.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub last_step_size: f64,
}

impl Default for SdeConfig {
    fn default() -> Self {
        Self { num_steps: 250, last_step_size: 0.04 }
    }
}

impl Sampler for SdeConfig {
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>> {
        let (path, step_noise) = (request.objective.path(), request.step_noise);
        sample::solve(&request, |noise, velocity| {
            sample::euler_maruyama(noise, self.num_steps, self.last_step_size, path, step_noise, velocity)
        })
    }

    fn num_evaluations(&self) -> usize {
        self.num_steps
    }
}

#[typetag::serde(name = "sde")]
impl SamplerConfig for SdeConfig {
    fn build(&self) -> Box<dyn Sampler> {
        Box::new(*self)
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("num_steps", self.num_steps, 2, 100_000);
        check.range("last_step_size", self.last_step_size, 1e-4, 0.5);
    }
}

realign::register!(SamplerConfig as "sampler": SdeConfig);
