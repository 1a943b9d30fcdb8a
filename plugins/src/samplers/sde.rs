//! Sampling by the reverse SDE, the paper's default. t = 0 is data, t = 1 is noise.
//!
//! Source: REPA and iREPA `samplers.py`, `euler_maruyama_sampler`: diffusion 2t on both paths, a last step without
//! noise. The state is in f64, the network gets f32.

use anyhow::Result;
use realign::burn::tensor::Tensor;
use realign::plugin::{SampleRequest, Sampler, SamplerConfig};
use realign::recipe::Check;
use realign::sample::{GuidedVelocity, finish, sde_euler_maruyama};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `sde`: Euler–Maruyama from t = 1 to `last_step_size`, then one step to 0 without noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SdeConfig {
    /// Number of steps, the last one included, at least 2.
    #[schemars(range(min = 2, max = 100_000))]
    pub num_steps: usize,
    /// Time at which the last step begins, 0.0001 to 0.5; the score is not finite at t = 0.
    #[schemars(range(min = 0.0001, max = 0.5))]
    pub last_step_size: f64,
}

impl Default for SdeConfig {
    fn default() -> Self {
        Self { num_steps: 250, last_step_size: 0.04 }
    }
}

impl Sampler for SdeConfig {
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>> {
        let guided = GuidedVelocity::new(&request)?;
        let start = request.objective.start(request.noise.clone());
        let samples = sde_euler_maruyama(
            start,
            request.objective.path(),
            self.num_steps,
            self.last_step_size,
            request.step_noise,
            |x, t, t_cur| guided.at(x, t, t_cur),
        )?;
        finish(samples, &format!("`sde` ({} steps)", self.num_steps))
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

#[cfg(test)]
mod tests {
    use realign::burn::tensor::{Device, TensorData};
    use realign::plugin::{Condition, Guidance};
    use realign::streams::Streams;

    use super::*;
    use crate::samplers::one_point::{OnePoint, POINT, VelocityObjective};

    fn noise(k: usize) -> Tensor<4> {
        let values = Streams::new(5).at(k as u64, 0).normal("noise", 2 * 300);
        Tensor::from_data(TensorData::new(values, [2, 1, 1, 300]), &Device::flex())
    }

    fn sample(config: SdeConfig, backbone: &OnePoint) -> Result<Vec<f32>> {
        let device = Device::flex();
        let samples = config.build().sample(SampleRequest {
            backbone,
            objective: &VelocityObjective,
            noise: noise(1000),
            condition: Condition::labels(&[0, 1], &device),
            null: Condition::labels(&[0; 2], &device),
            guidance: Guidance::NONE,
            step_noise: &noise,
        })?;
        Ok(samples.into_data().try_to_vec().unwrap())
    }

    #[test]
    fn the_exact_velocity_of_one_point_leads_to_its_neighborhood() {
        // Around the point the state at t is Gaussian of deviation t, and the last step from 0.04 maps it onto
        // the point up to that: d = (2 − t) (x − x*)/t + x.
        let backbone = OnePoint::default();
        let found = sample(SdeConfig::default(), &backbone).unwrap();
        assert_eq!(backbone.num_calls(), 250);
        for (found, point) in found.chunks(300).zip([POINT, POINT + 1.0]) {
            let mean = found.iter().sum::<f32>() / 300.0;
            let deviation = (found.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 300.0).sqrt();
            assert!((mean - point).abs() < 0.06 && deviation < 0.08, "{mean} {deviation}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_reported_with_sampler_and_steps() {
        let backbone = OnePoint::diverged();
        let message = sample(SdeConfig { num_steps: 3, last_step_size: 0.04 }, &backbone).unwrap_err().to_string();
        assert!(message.contains("`sde` (3 steps)"), "{message}");
    }
}
