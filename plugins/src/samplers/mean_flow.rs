//! Sampling with average velocities. t = 0 is data, t = 1 is noise.
//!
//! Source: MeanFlow (Geng et al., 2025), algorithm 2: `x_r = x_t − (t − r) u(x_t, r, t)`. The state is in f32.

use anyhow::Result;
use realign::burn::tensor::Tensor;
use realign::plugin::{Dynamics, SampleRequest, Sampler, SamplerConfig};
use realign::recipe::Check;
use realign::sample::{finish, guided_prediction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `mean_flow`: one evaluation for each of a few steps from t = 1 to 0.
///
/// Guidance is learned, so `cfg_scale` is 1 here; a larger one is possible and costs two evaluations a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeanFlowSamplerConfig {
    /// Number of equal steps, at least 1.
    #[schemars(range(min = 1, max = 100_000))]
    pub num_steps: usize,
    /// Times to pass instead, from 1 down to 0; `num_steps` is then one less than their number.
    pub times: Option<Vec<f64>>,
}

impl Default for MeanFlowSamplerConfig {
    fn default() -> Self {
        Self { num_steps: 1, times: None }
    }
}

impl MeanFlowSamplerConfig {
    fn grid(&self) -> Vec<f64> {
        let equal = || (0..=self.num_steps).map(|step| 1.0 - step as f64 / self.num_steps as f64).collect();
        self.times.clone().unwrap_or_else(equal)
    }
}

impl Sampler for MeanFlowSamplerConfig {
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>> {
        let mut x = request.objective.start(request.noise.clone());
        for pair in self.grid().windows(2) {
            let (t, r) = (pair[0], pair[1]);
            let guidance = request.guidance;
            let is_guided = guidance.scale > 1.0 && guidance.low <= t && t <= guidance.high;
            x = x.clone() - guided_prediction(&request, x, t, Some(r), is_guided)? * (t - r);
        }
        finish(x, &format!("`mean_flow` ({} steps)", self.num_evaluations()))
    }

    fn num_evaluations(&self) -> usize {
        self.grid().len().saturating_sub(1)
    }
}

#[typetag::serde(name = "mean_flow")]
impl SamplerConfig for MeanFlowSamplerConfig {
    fn build(&self) -> Box<dyn Sampler> {
        Box::new(self.clone())
    }

    fn dynamics(&self) -> Dynamics {
        Dynamics::AverageVelocity
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("num_steps", self.num_steps, 1, 100_000);
        let Some(times) = &self.times else { return };
        let falls = times.windows(2).all(|pair| pair[0] > pair[1]);
        if times.first() != Some(&1.0) || times.last() != Some(&0.0) || !falls {
            check.bad("times", format!("`{times:?}` must fall from 1 to 0, such as `[1.0, 0.6, 0.0]`"));
        } else if self.num_steps != 1 && self.num_steps != times.len() - 1 {
            check.bad(
                "num_steps",
                format!(
                    "`{}` does not fit `times`, which make {} steps; leave it out",
                    self.num_steps,
                    times.len() - 1
                ),
            );
        }
    }
}

realign::register!(SamplerConfig as "sampler": MeanFlowSamplerConfig);

#[cfg(test)]
mod tests {
    use realign::burn;
    use realign::burn::module::Module;
    use realign::burn::tensor::Device;
    use realign::plugin::{Backbone, BackboneInput, BackboneOutput, Condition, Guidance, ObjectiveConfig};

    use super::*;
    use crate::objectives::mean_flow::MeanFlowConfig;

    /// Average velocity of the straight ways from the point that the label names: `(x − label) / t` for any interval.
    #[derive(Module, Debug)]
    struct ToLabel {
        unused: usize,
    }

    impl Backbone for ToLabel {
        fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
            let Condition::Labels(labels) = input.condition else { unreachable!("the test gives labels") };
            let (t, r) = (input.times.t, input.times.r.expect("an interval"));
            assert!((t.clone() - r).min().into_scalar::<f32>() > 0.0);
            let point = labels.float().reshape([-1, 1, 1, 1]);
            BackboneOutput { prediction: (input.x - point) / t.reshape([-1, 1, 1, 1]), taps: vec![] }
        }
    }

    fn sample(config: MeanFlowSamplerConfig, scale: f64) -> Vec<f32> {
        let device = Device::flex();
        let request = SampleRequest {
            backbone: &ToLabel { unused: 0 },
            objective: &*MeanFlowConfig::default().build(),
            noise: Tensor::from_floats([[[[0.3]]], [[[-1.0]]]], &device),
            condition: Condition::labels(&[3, 3], &device),
            null: Condition::labels(&[1, 1], &device),
            guidance: Guidance { scale, low: 0.0, high: 1.0 },
            step_noise: &|_| unreachable!("nothing is drawn"),
        };
        config.build().sample(request).unwrap().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn straight_ways_are_walked_in_any_number_of_steps() {
        let uneven = MeanFlowSamplerConfig { times: Some(vec![1.0, 0.9, 0.2, 0.0]), ..Default::default() };
        assert_eq!(uneven.num_evaluations(), 3);
        for config in
            [1, 4].map(|num_steps| MeanFlowSamplerConfig { num_steps, times: None }).into_iter().chain([uneven])
        {
            assert!(sample(config.clone(), 1.0).iter().all(|found| (found - 3.0).abs() < 1e-5), "{config:?}");
            // Guidance moves the end from 1 through 3 to 5.
            assert!(sample(config.clone(), 2.0).iter().all(|found| (found - 5.0).abs() < 1e-5), "{config:?}");
        }
    }
}
