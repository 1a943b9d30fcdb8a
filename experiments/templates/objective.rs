//! Objective `my_idea`: flow matching on the straight path with uniform times. t = 0 is data, t = 1 is noise.

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use realign::ops;
use realign::plugin::{
    Backbone, BackboneInput, Draws, Objective, ObjectiveConfig, ObjectiveInput, ObjectiveOutput, ProbabilityPath, Times,
};
use realign::recipe::Check;
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `my_idea`: the network predicts the velocity `noise − x0`; times are uniform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MyIdeaConfig {
    /// Probability of training a sample without its condition, in [0, 1].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_dropout: f64,
}

impl Default for MyIdeaConfig {
    fn default() -> Self {
        Self { label_dropout: 0.1 }
    }
}

#[typetag::serde(name = "my_idea")]
impl ObjectiveConfig for MyIdeaConfig {
    fn build(&self) -> Box<dyn Objective> {
        Box::new(MyIdea { label_dropout: self.label_dropout })
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("label_dropout", self.label_dropout, 0.0, 1.0);
    }
}

realign::register!(ObjectiveConfig as "objective": MyIdeaConfig);

/// The built objective `my_idea`.
#[derive(Debug)]
pub struct MyIdea {
    label_dropout: f64,
}

impl Objective for MyIdea {
    fn draw(&self, shape: [usize; 4], streams: &Streams, device: &Device) -> Draws {
        let [batch, ..] = shape;
        let noise = streams.normal("noise", shape.iter().product());
        let times = streams.uniform("times", batch);
        let drop = streams.uniform("label_dropout", batch);
        let drop: Vec<bool> = drop.into_iter().map(|draw| f64::from(draw) < self.label_dropout).collect();
        Draws {
            noise: ops::upload(&noise, shape, device),
            t: ops::upload(&times, [batch], device),
            r: None,
            drop: Some(ops::upload_flags(&drop, [batch], device)),
        }
    }

    fn loss(&self, backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> Result<ObjectiveOutput> {
        let ObjectiveInput { x0, condition, null, draws, taps } = input;
        let t = draws.t.clone().reshape([-1, 1, 1, 1]);
        let xt = x0.clone() + (draws.noise.clone() - x0.clone()) * t;
        let condition = match draws.drop {
            Some(drop) => condition.replace(drop, null),
            None => condition,
        };
        let output = backbone.forward(BackboneInput { x: xt, times: Times::at(draws.t), condition, taps });
        let loss = (output.prediction - (draws.noise - x0)).square().mean();
        Ok(ObjectiveOutput { loss, scalars: vec![], taps: output.taps })
    }

    fn velocity(&self, prediction: Tensor<4>, _x: Tensor<4>, _t: f64) -> Tensor<4> {
        prediction
    }

    fn path(&self) -> ProbabilityPath {
        ProbabilityPath::Linear
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::{Module, Param};
    use realign::plugin::{BackboneOutput, Condition};

    /// Predicts zero everywhere.
    #[derive(Module, Debug)]
    struct Still {
        gain: Param<Tensor<1>>,
    }

    impl Backbone for Still {
        fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
            BackboneOutput { prediction: input.x * self.gain.val().reshape([1, 1, 1, 1]), taps: vec![] }
        }
    }

    #[test]
    fn a_network_that_predicts_nothing_pays_the_squared_velocity() {
        let device = Device::flex();
        let objective = MyIdeaConfig::default().build();
        let draws = objective.draw([3, 2, 5, 7], &Streams::new(1), &device);
        let expected: f32 = draws.noise.clone().square().mean().into_scalar();
        let labels = Condition::labels(&[0, 1, 2], &device);
        let x0 = Tensor::zeros([3, 2, 5, 7], &device);
        let input = ObjectiveInput { x0, condition: labels.clone(), null: labels, draws, taps: &[] };
        let still = Still { gain: Param::from_tensor(Tensor::zeros([1], &device)) };
        let loss: f32 = objective.loss(&still, input).unwrap().loss.into_scalar();
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    }

    #[test]
    fn draws_are_a_function_of_the_streams() {
        let objective = MyIdeaConfig { label_dropout: 0.5 }.build();
        let noise = |step| {
            let draws = objective.draw([3, 2, 5, 7], &Streams::new(1).at(step, 0), &Device::flex());
            draws.noise.into_data().try_to_vec::<f32>().unwrap()
        };
        assert_eq!(noise(4), noise(4));
        assert_ne!(noise(4), noise(5));
    }
}
