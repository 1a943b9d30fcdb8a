//! Prediction of the clean sample with a loss on velocities. t = 0 is noise, t = 1 is data.
//!
//! Source: Li and He, "Back to Basics" (2025), table 1; iREPA `jit/denoiser.py`. Losses are in f32.

use anyhow::Result;
use realign::burn::tensor::{Device, Tensor};
use realign::plugin::{
    Backbone, BackboneInput, Draws, Dynamics, Objective, ObjectiveConfig, ObjectiveInput, ObjectiveOutput,
    ProbabilityPath, Times,
};
use realign::recipe::Check;
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `x_prediction`: the network predicts the clean sample from `z = t x + (1 − t) e`; the loss is the mean squared error
/// of the velocity `(x − z) / max(1 − t, t_eps)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct XPredictionConfig {
    /// Mean of the normal whose sigmoid is the time.
    pub time_mean: f64,
    /// Deviation of the normal whose sigmoid is the time.
    pub time_deviation: f64,
    /// Deviation of the noise.
    pub noise_scale: f64,
    /// Smallest divisor of velocities: near the data they would grow without bound.
    pub t_eps: f64,
    /// Probability that a condition becomes the null condition, for classifier-free guidance.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_dropout: f64,
}

impl Default for XPredictionConfig {
    fn default() -> Self {
        Self { time_mean: -0.8, time_deviation: 0.8, noise_scale: 1.0, t_eps: 0.05, label_dropout: 0.1 }
    }
}

impl XPredictionConfig {
    /// The time that a standard normal draw means.
    pub fn time(&self, normal: f32) -> f32 {
        1.0 / (1.0 + (-(normal * self.time_deviation as f32 + self.time_mean as f32)).exp())
    }
}

impl Objective for XPredictionConfig {
    fn draw(&self, shape: [usize; 4], streams: &Streams, device: &Device) -> Draws {
        let [batch, ..] = shape;
        let times: Vec<f32> = streams.normal("times", batch).into_iter().map(|normal| self.time(normal)).collect();
        Draws::new(shape, times, self.label_dropout, streams, device)
    }

    fn loss(&self, backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> Result<ObjectiveOutput> {
        let Draws { noise, t, drop, .. } = input.draws;
        let [batch, ..] = noise.dims();
        let at = t.clone().reshape([batch, 1, 1, 1]);
        let left = at.clone().neg() + 1.0;
        let z = input.x0.clone() * at + noise * self.noise_scale * left.clone();
        let condition = match drop {
            Some(drop) => input.condition.replace(drop, input.null),
            None => input.condition,
        };
        let output = backbone.forward(BackboneInput { x: z, times: Times::at(t), condition, taps: input.taps });
        // The difference of both velocities: `z` cancels.
        let difference = (input.x0 - output.prediction) / left.clamp_min(self.t_eps);
        let loss = difference.square().mean();
        Ok(ObjectiveOutput { scalars: vec![("denoising_loss", loss.clone().detach())], loss, taps: output.taps })
    }

    fn velocity(&self, prediction: Tensor<4>, x: Tensor<4>, t: f64) -> Tensor<4> {
        (prediction - x) / (1.0 - t).max(self.t_eps)
    }

    fn start(&self, noise: Tensor<4>) -> Tensor<4> {
        noise * self.noise_scale
    }

    fn path(&self) -> ProbabilityPath {
        ProbabilityPath::Linear
    }
}

#[typetag::serde(name = "x_prediction")]
impl ObjectiveConfig for XPredictionConfig {
    fn build(&self) -> Box<dyn Objective> {
        Box::new(*self)
    }

    fn dynamics(&self) -> &'static [Dynamics] {
        &[Dynamics::VelocityFromNoise]
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("label_dropout", self.label_dropout, 0.0, 1.0);
        check.range("time_mean", self.time_mean, -20.0, 20.0);
        check.range("time_deviation", self.time_deviation, 0.0, 20.0);
        check.range("noise_scale", self.noise_scale, 1e-3, 1e3);
        check.range("t_eps", self.t_eps, 1e-6, 1.0);
    }
}

realign::register!(ObjectiveConfig as "objective": XPredictionConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn;
    use realign::burn::module::Module;
    use realign::plugin::{BackboneOutput, Condition};

    /// Predicts zero, as JiT does at initialization.
    #[derive(Module, Debug)]
    struct Zero {
        unused: usize,
    }

    impl Backbone for Zero {
        fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
            BackboneOutput { prediction: input.x.zeros_like(), taps: vec![] }
        }
    }

    #[test]
    fn at_initialization_the_loss_is_that_of_the_samples_over_the_time_left() {
        let device = Device::flex();
        let x0 = Tensor::<4>::from_floats([[[[0.5, -1.0]]], [[[2.0, 0.25]]]], &device);
        let draws = Draws {
            noise: Tensor::ones([2, 1, 1, 2], &device),
            t: Tensor::from_floats([0.5, 0.99], &device),
            r: None,
            drop: None,
        };
        let condition = Condition::labels(&[0, 1], &device);
        let input = ObjectiveInput { x0, condition: condition.clone(), null: condition, draws, taps: &[] };
        let output = XPredictionConfig::default().loss(&Zero { unused: 0 }, input).unwrap();
        let expected = ((0.25 + 1.0) / 0.25 + (4.0 + 0.0625) / 0.0025) / 4.0;
        let found = output.loss.into_scalar::<f32>();
        assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn times_lean_towards_the_noise() {
        let draws = XPredictionConfig::default().draw([4000, 1, 1, 1], &Streams::new(1).at(0, 0), &Device::flex());
        let late = draws.t.greater_elem(0.5).int().sum().into_scalar::<i64>();
        // P(normal > 1) = 15.9 %.
        assert!((520..760).contains(&late), "{late}");
    }
}
