//! Sampler `my_idea`: the midpoint method from t = 1 (noise) to t = 0 (data).

use anyhow::{Result, ensure};
use burn::tensor::Tensor;
use realign::plugin::{BackboneInput, SampleRequest, Sampler, SamplerConfig, Times};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: midpoint steps of equal size from noise to data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Steps, 1 to 10000; each evaluates the network twice.
    #[schemars(range(min = 1, max = 10000))]
    pub num_steps: usize,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { num_steps: 25 }
    }
}

#[typetag::serde(name = "my_idea")]
impl SamplerConfig for MyIdeaConfig {
    fn build(&self) -> Box<dyn Sampler> {
        Box::new(MyIdea { num_steps: self.num_steps })
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("num_steps", self.num_steps, 1, 10_000);
    }
}

realign::register!(SamplerConfig as "sampler": MyIdeaConfig);

/// The built sampler `my_idea`.
#[derive(Debug)]
pub struct MyIdea {
    num_steps: usize,
}

impl Sampler for MyIdea {
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>> {
        let size = 1.0 / self.num_steps as f64;
        let mut x = request.objective.start(request.noise.clone());
        for step in 0..self.num_steps {
            let t = 1.0 - step as f64 * size;
            let halfway = x.clone() - velocity(&request, x.clone(), t) * (size / 2.0);
            x = x - velocity(&request, halfway, t - size / 2.0) * size;
        }
        let is_finite = x.clone().sum().into_scalar::<f32>().is_finite();
        ensure!(is_finite, "sampler `my_idea`: the network returned values that are not finite");
        Ok(x)
    }

    fn num_evaluations(&self) -> usize {
        2 * self.num_steps
    }
}

/// The velocity at `x`, with classifier-free guidance inside its interval.
fn velocity(request: &SampleRequest<'_>, x: Tensor<4>, t: f64) -> Tensor<4> {
    let guidance = request.guidance;
    let evaluate = |condition| {
        let times = Times::at(Tensor::full([x.dims()[0]], t, &x.device()));
        let input = BackboneInput { x: x.clone(), times, condition, taps: &[] };
        request.objective.velocity(request.backbone.forward(input).prediction, x.clone(), t)
    };
    let conditional = evaluate(request.condition.clone());
    if guidance.scale == 1.0 || t < guidance.low || t > guidance.high {
        return conditional;
    }
    let unconditional = evaluate(request.null.clone());
    unconditional.clone() + (conditional - unconditional) * guidance.scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::{Module, Param};
    use burn::tensor::Device;
    use realign::plugin::{
        Backbone, BackboneOutput, Condition, Draws, Guidance, Objective, ObjectiveInput, ObjectiveOutput,
        ProbabilityPath,
    };
    use realign::streams::Streams;

    /// Predicts the time plus the label, everywhere.
    #[derive(Module, Debug)]
    struct Clock {
        gain: Param<Tensor<1>>,
    }

    impl Backbone for Clock {
        fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
            let Condition::Labels(labels) = input.condition else { unreachable!("the tests use labels") };
            let value = (input.times.t + labels.float()) * self.gain.val();
            BackboneOutput { prediction: input.x.zeros_like() + value.reshape([-1, 1, 1, 1]), taps: vec![] }
        }
    }

    #[derive(Debug)]
    struct Plain;

    impl Objective for Plain {
        fn draw(&self, shape: [usize; 4], _streams: &Streams, device: &Device) -> Draws {
            Draws { noise: Tensor::zeros(shape, device), t: Tensor::zeros([shape[0]], device), r: None, drop: None }
        }
        fn loss(&self, _backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> Result<ObjectiveOutput> {
            Ok(ObjectiveOutput { loss: input.x0.mean(), scalars: vec![], taps: vec![] })
        }
        fn velocity(&self, prediction: Tensor<4>, _x: Tensor<4>, _t: f64) -> Tensor<4> {
            prediction
        }
        fn path(&self) -> ProbabilityPath {
            ProbabilityPath::Linear
        }
    }

    fn sample(guidance: Guidance) -> f32 {
        let device = Device::flex();
        let noise = Tensor::zeros([3, 2, 5, 7], &device);
        let request = SampleRequest {
            backbone: &Clock { gain: Param::from_tensor(Tensor::ones([1], &device)) },
            objective: &Plain,
            noise: noise.clone(),
            condition: Condition::labels(&[1; 3], &device),
            null: Condition::labels(&[0; 3], &device),
            guidance,
            step_noise: &|_| noise.clone(),
        };
        MyIdeaConfig { num_steps: 3 }.build().sample(request).unwrap().mean().into_scalar()
    }

    #[test]
    fn a_velocity_linear_in_time_is_integrated_exactly() {
        assert!((sample(Guidance::NONE) + 1.5).abs() < 1e-5, "{}", sample(Guidance::NONE));
    }

    #[test]
    fn guidance_acts_inside_its_interval() {
        let always = Guidance { scale: 3.0, low: 0.0, high: 1.0 };
        assert!((sample(always) + 3.5).abs() < 1e-5);
        let never = Guidance { scale: 3.0, low: 0.01, high: 0.02 };
        assert!((sample(never) + 1.5).abs() < 1e-5);
    }

    #[test]
    fn a_recipe_can_name_it_and_unknown_keys_are_refused() {
        let parse = |text: &str| realign::serde_yaml::from_str::<Box<dyn SamplerConfig>>(text);
        assert!(parse("{type: my_idea, num_steps: 3}").is_ok());
        assert!(parse("{type: my_idea, steps: 3}").is_err());
    }
}
