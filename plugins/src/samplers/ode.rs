//! Deterministic sampling along the probability flow. t = 0 is data, t = 1 is noise.
//!
//! Source: REPA and iREPA `samplers.py`, `euler_sampler`. The state is in f64, the network gets f32.

use anyhow::Result;
use realign::burn::tensor::Tensor;
use realign::plugin::{SampleRequest, Sampler, SamplerConfig};
use realign::recipe::Check;
use realign::sample::{GuidedVelocity, finish, ode_euler, ode_heun};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `ode`: equal steps from t = 1 to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OdeConfig {
    /// Number of steps, at least 1.
    #[schemars(range(min = 1, max = 100_000))]
    pub num_steps: usize,
    /// How a step is made.
    pub method: OdeMethod,
}

/// How a step of the ODE is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OdeMethod {
    /// One evaluation per step.
    #[default]
    Euler,
    /// Two evaluations per step and one in the last; guidance is decided at the step's start for both.
    Heun,
}

impl OdeMethod {
    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::Heun => "heun",
        }
    }
}

impl Default for OdeConfig {
    fn default() -> Self {
        Self { num_steps: 50, method: OdeMethod::Euler }
    }
}

impl Sampler for OdeConfig {
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>> {
        let guided = GuidedVelocity::new(&request)?;
        let start = request.objective.start(request.noise.clone());
        let velocity = |x, t, t_cur| guided.at(x, t, t_cur);
        let samples = match self.method {
            OdeMethod::Euler => ode_euler(start, self.num_steps, velocity)?,
            OdeMethod::Heun => ode_heun(start, self.num_steps, velocity)?,
        };
        finish(samples, &format!("`ode` ({}, {} steps)", self.method.name(), self.num_steps))
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
    use realign::burn::tensor::Device;
    use realign::plugin::{Condition, Guidance, Objective};

    use super::*;
    use crate::samplers::one_point::{OnePoint, POINT, VelocityObjective};

    fn sample(config: OdeConfig, objective: &dyn Objective, scale: f64) -> Result<Vec<f32>> {
        let device = Device::flex();
        let backbone = OnePoint::default();
        let samples = config.build().sample(SampleRequest {
            backbone: &backbone,
            objective,
            noise: Tensor::from_floats([[[[0.3, -1.4]]], [[[2.0, 0.9]]], [[[-0.2, 0.0]]]], &device),
            condition: Condition::labels(&[0, 1, 0], &device),
            null: Condition::labels(&[0; 3], &device),
            guidance: Guidance { scale, ..Guidance::NONE },
            step_noise: &|_| unreachable!("the ODE draws nothing"),
        })?;
        assert_eq!(backbone.num_calls(), config.num_evaluations());
        Ok(samples.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn the_exact_velocity_of_one_point_leads_there_and_guidance_beyond() {
        for method in [OdeMethod::Euler, OdeMethod::Heun] {
            let config = OdeConfig { num_steps: 9, method };
            let found = sample(config, &VelocityObjective, 1.0).unwrap();
            let points = [POINT, POINT, POINT + 1.0, POINT + 1.0, POINT, POINT];
            assert!(found.iter().zip(points).all(|(found, point)| (found - point).abs() < 1e-5), "{found:?}");
            let guided = sample(config, &VelocityObjective, 1.5).unwrap();
            assert!((guided[2] - (POINT + 1.5)).abs() < 1e-5, "{guided:?}");
        }
    }

    #[test]
    fn the_default_is_fifty_euler_steps_and_unknown_keys_are_refused() {
        let config: Box<dyn SamplerConfig> = serde_json::from_str(r#"{"type": "ode"}"#).unwrap();
        assert_eq!(config.build().num_evaluations(), 50);
        let config: Box<dyn SamplerConfig> = serde_json::from_str(r#"{"type": "ode", "method": "heun"}"#).unwrap();
        assert_eq!(config.build().num_evaluations(), 99);
        assert!(serde_json::from_str::<Box<dyn SamplerConfig>>(r#"{"type": "ode", "last_step_size": 0.1}"#).is_err());
    }
}
