//! JiT's deterministic sampling. t = 0 is noise, t = 1 is data.
//!
//! Source: iREPA `jit/denoiser.py`, `generate`: equal steps, the last one Euler's; guidance acts strictly inside its
//! interval and is decided at each evaluation. The state is in f32.

use anyhow::Result;
use realign::burn::tensor::Tensor;
use realign::plugin::{Dynamics, SampleRequest, Sampler, SamplerConfig};
use realign::recipe::Check;
use realign::sample::{finish, guided_prediction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ode::OdeMethod;

/// `jit_ode`: equal steps from t = 0 to 1 for objectives whose noise is at t = 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JitOdeConfig {
    /// Number of steps, at least 1.
    #[schemars(range(min = 1, max = 100_000))]
    pub num_steps: usize,
    /// How a step is made; the last one is always Euler's.
    pub method: OdeMethod,
}

impl Default for JitOdeConfig {
    fn default() -> Self {
        Self { num_steps: 50, method: OdeMethod::Heun }
    }
}

impl Sampler for JitOdeConfig {
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>> {
        let mut x = request.objective.start(request.noise.clone());
        let times = times(self.num_steps);
        for (step, pair) in times.windows(2).enumerate() {
            let [t, t_next] = [pair[0], pair[1]];
            let slope = velocity(&request, x.clone(), t)?;
            let euler = x.clone() + slope.clone() * (t_next - t);
            x = if self.method == OdeMethod::Heun && step + 1 < self.num_steps {
                x + (slope + velocity(&request, euler, t_next)?) * (0.5 * (t_next - t))
            } else {
                euler
            };
        }
        finish(x, &format!("`jit_ode` ({}, {} steps)", self.method.name(), self.num_steps))
    }

    fn num_evaluations(&self) -> usize {
        match self.method {
            OdeMethod::Euler => self.num_steps,
            OdeMethod::Heun => (2 * self.num_steps).saturating_sub(1),
        }
    }
}

/// `num_steps + 1` times from 0 to 1 in f32, each half counted from its own end, as PyTorch's `linspace` gives them: their
/// last bit decides whether a time at an end of the guidance interval is inside.
fn times(num_steps: usize) -> Vec<f64> {
    let step = 1.0 / num_steps as f32;
    let time = |i: usize| if i < num_steps.div_ceil(2) { step * i as f32 } else { 1.0 - step * (num_steps - i) as f32 };
    (0..=num_steps).map(|i| f64::from(time(i))).collect()
}

/// The guided velocity at `x` and time `t`, `[batch, channels, height, width]`.
fn velocity(request: &SampleRequest<'_>, x: Tensor<4>, t: f64) -> Result<Tensor<4>> {
    let guidance = request.guidance;
    let [at, low, high] = [t, guidance.low, guidance.high].map(|time| time as f32);
    let is_guided = guidance.scale != 1.0 && at < high && (low == 0.0 || at > low);
    let prediction = guided_prediction(request, x.clone(), t, None, is_guided)?;
    Ok(request.objective.velocity(prediction, x, t))
}

#[typetag::serde(name = "jit_ode")]
impl SamplerConfig for JitOdeConfig {
    fn build(&self) -> Box<dyn Sampler> {
        Box::new(*self)
    }

    fn dynamics(&self) -> Dynamics {
        Dynamics::VelocityFromNoise
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("num_steps", self.num_steps, 1, 100_000);
    }
}

realign::register!(SamplerConfig as "sampler": JitOdeConfig);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use realign::burn;
    use realign::burn::module::Module;
    use realign::burn::tensor::Device;
    use realign::plugin::{Backbone, BackboneInput, BackboneOutput, Condition, Guidance, ObjectiveConfig};

    use super::*;
    use crate::objectives::x_prediction::XPredictionConfig;

    static CALLS: AtomicUsize = AtomicUsize::new(0);

    /// Predicts 2 + label everywhere.
    #[derive(Module, Debug)]
    struct OnePoint {
        unused: usize,
    }

    impl Backbone for OnePoint {
        fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
            CALLS.fetch_add(1, Ordering::Relaxed);
            let Condition::Labels(labels) = input.condition else { unreachable!("the test gives labels") };
            let point = (labels.float() + 2.0).reshape([-1, 1, 1, 1]);
            BackboneOutput { prediction: input.x.zeros_like() + point, taps: vec![] }
        }
    }

    fn sample(method: OdeMethod, guidance: Guidance) -> Vec<f32> {
        let device = Device::flex();
        let config = JitOdeConfig { num_steps: 10, method };
        let request = SampleRequest {
            backbone: &OnePoint { unused: 0 },
            objective: &*XPredictionConfig::default().build(),
            noise: Tensor::from_floats([[[[0.3]]], [[[-1.0]]]], &device),
            condition: Condition::labels(&[1, 1], &device),
            null: Condition::labels(&[0, 0], &device),
            guidance,
            step_noise: &|_| unreachable!("the ODE draws nothing"),
        };
        CALLS.store(0, Ordering::Relaxed);
        let samples = config.build().sample(request).unwrap();
        assert_eq!(CALLS.load(Ordering::Relaxed), config.num_evaluations());
        samples.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn a_constant_prediction_is_reached_and_guidance_acts_strictly_inside_its_interval() {
        for method in [OdeMethod::Euler, OdeMethod::Heun] {
            // The last step starts at 0.9: nothing is cut short by t_eps.
            assert!(sample(method, Guidance::NONE).iter().all(|found| (found - 3.0).abs() < 1e-5));
            let guided = sample(method, Guidance { scale: 2.0, low: 0.0, high: 1.0 });
            assert!(guided.iter().all(|found| (found - 4.0).abs() < 1e-5), "{guided:?}");
            // The last evaluation, at 0.9, decides: it stands on the open end of the interval.
            let ended = sample(method, Guidance { scale: 2.0, low: 0.0, high: 0.9 });
            assert!(ended.iter().all(|found| (found - 3.0).abs() < 1e-5), "{ended:?}");
        }
    }
}
