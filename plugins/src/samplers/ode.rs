//! Solvers of the probability-flow ODE.

use anyhow::Result;
use realign::burn::tensor::Tensor;
use realign::plugin::{SampleRequest, Sampler, SamplerConfig};
use realign::recipe::Check;
use realign::sample;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `ode`: equal steps from t = 1 to 0 along the velocity.
///
/// Source: REPA `samplers.py`, `euler_sampler`. The state is f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OdeConfig {
    /// Number of steps.
    #[schemars(range(min = 1, max = 100_000))]
    pub num_steps: usize,
    /// `euler` evaluates the network once per step, `heun` twice except in the last.
    pub method: OdeMethod,
}

/// Method of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OdeMethod {
    /// First order.
    #[default]
    Euler,
    /// Second order: the mean of both ends.
    Heun,
}

impl Default for OdeConfig {
    fn default() -> Self {
        Self { num_steps: 50, method: OdeMethod::Euler }
    }
}

impl Sampler for OdeConfig {
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>> {
        sample::solve(&request, |noise, velocity| match self.method {
            OdeMethod::Euler => sample::euler(noise, self.num_steps, velocity),
            OdeMethod::Heun => sample::heun(noise, self.num_steps, velocity),
        })
    }

    fn num_evaluations(&self) -> usize {
        match self.method {
            OdeMethod::Euler => self.num_steps,
            OdeMethod::Heun => (2 * self.num_steps).saturating_sub(1),
        }
    }
}

#[typetag::serde(name = "ode")]
impl SamplerConfig for OdeConfig {
    fn build(&self) -> Box<dyn Sampler> {
        Box::new(*self)
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("num_steps", self.num_steps, 1, 100_000);
    }
}

realign::register!(SamplerConfig as "sampler": OdeConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heun_counts_its_second_evaluations() {
        assert_eq!(OdeConfig { num_steps: 50, method: OdeMethod::Heun }.num_evaluations(), 99);
    }
}
