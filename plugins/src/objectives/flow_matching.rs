//! Flow matching with velocity prediction. t = 0 is data, t = 1 is noise.
//!
//! Source: SiT (Ma et al., 2024); iREPA `ldm/loss.py`. Losses are in f32.

use anyhow::Result;
use realign::burn::tensor::{Device, Tensor};
use realign::plugin::{
    Backbone, BackboneInput, Draws, Objective, ObjectiveConfig, ObjectiveInput, ObjectiveOutput, ProbabilityPath, Times,
};
use realign::recipe::Check;
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `flow_matching`: the mean squared error of the velocity of `x_t = alpha(t) x0 + sigma(t) noise`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlowMatchingConfig {
    /// Path from data to noise.
    pub path: ProbabilityPath,
    /// Distribution of times.
    pub time: TimeSampling,
    /// Mean of the normal behind `lognormal` times.
    pub time_mean: f64,
    /// Deviation of the normal behind `lognormal` times.
    pub time_deviation: f64,
    /// Probability that a condition becomes the null condition, for classifier-free guidance.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_dropout: f64,
}

/// Distribution of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeSampling {
    /// Uniform in [0, 1).
    #[default]
    Uniform,
    /// s = exp(n) for normal n; t = s/(1+s) on the linear path, (2/π) atan(s) on the cosine path (EDM).
    Lognormal,
}

impl Default for FlowMatchingConfig {
    fn default() -> Self {
        Self {
            path: ProbabilityPath::Linear,
            time: TimeSampling::Uniform,
            time_mean: 0.0,
            time_deviation: 1.0,
            label_dropout: 0.1,
        }
    }
}

impl FlowMatchingConfig {
    /// The time that a standard normal draw means under `lognormal`.
    pub fn lognormal_time(&self, normal: f32) -> f32 {
        let s = (normal * self.time_deviation as f32 + self.time_mean as f32).exp();
        match self.path {
            ProbabilityPath::Linear if s.is_infinite() => 1.0,
            ProbabilityPath::Linear => s / (1.0 + s),
            ProbabilityPath::Cosine => std::f32::consts::FRAC_2_PI * s.atan(),
        }
    }
}

impl Objective for FlowMatchingConfig {
    fn draw(&self, shape: [usize; 4], streams: &Streams, device: &Device) -> Draws {
        let [batch, ..] = shape;
        let times: Vec<f32> = match self.time {
            TimeSampling::Uniform => streams.uniform("times", batch),
            TimeSampling::Lognormal => {
                streams.normal("times", batch).into_iter().map(|normal| self.lognormal_time(normal)).collect()
            }
        };
        Draws::new(shape, times, self.label_dropout, streams, device)
    }

    fn loss(&self, backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> Result<ObjectiveOutput> {
        let Draws { noise, t, drop, .. } = input.draws;
        let [batch, ..] = noise.dims();
        let path = self.path.at_each(t.clone().reshape([batch, 1, 1, 1]));
        let xt = input.x0.clone() * path.alpha + noise.clone() * path.sigma;
        let velocity = input.x0 * path.d_alpha + noise * path.d_sigma;
        let condition = match drop {
            Some(drop) => input.condition.replace(drop, input.null),
            None => input.condition,
        };
        let output = backbone.forward(BackboneInput { x: xt, times: Times::at(t), condition, taps: input.taps });
        // All samples have one size, so the mean of per-sample means is the plain mean.
        let loss = (output.prediction - velocity).square().mean();
        Ok(ObjectiveOutput { scalars: vec![("denoising_loss", loss.clone().detach())], loss, taps: output.taps })
    }

    fn velocity(&self, prediction: Tensor<4>, _x: Tensor<4>, _t: f64) -> Tensor<4> {
        prediction
    }

    fn path(&self) -> ProbabilityPath {
        self.path
    }
}

#[typetag::serde(name = "flow_matching")]
impl ObjectiveConfig for FlowMatchingConfig {
    fn build(&self) -> Box<dyn Objective> {
        Box::new(*self)
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("label_dropout", self.label_dropout, 0.0, 1.0);
        check.range("time_mean", self.time_mean, -20.0, 20.0);
        check.range("time_deviation", self.time_deviation, 0.0, 20.0);
        let usual = Self::default();
        for (key, value, usual) in [
            ("time_mean", self.time_mean, usual.time_mean),
            ("time_deviation", self.time_deviation, usual.time_deviation),
        ] {
            if self.time == TimeSampling::Uniform && value != usual {
                check.bad(
                    key,
                    format!("`{value}` has no effect on `uniform` times; set `time: lognormal` or leave it out"),
                );
            }
        }
    }
}

realign::register!(ObjectiveConfig as "objective": FlowMatchingConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lognormal_times_have_their_median_in_the_middle() {
        for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
            let config = FlowMatchingConfig { path, ..Default::default() };
            assert!((config.lognormal_time(0.0) - 0.5).abs() < 1e-6);
            assert!(config.lognormal_time(1e4) <= 1.0 && config.lognormal_time(-1e4) >= 0.0);
        }
    }

    #[test]
    fn draws_depend_on_the_step_and_drop_about_the_stated_share() {
        let (config, device) = (FlowMatchingConfig { label_dropout: 0.25, ..Default::default() }, Device::flex());
        let draw = |step| config.draw([2000, 1, 1, 1], &Streams::new(1).at(step, 0), &device);
        let dropped = draw(3).drop.unwrap().int().sum().into_scalar::<i64>();
        assert!((430..570).contains(&dropped), "{dropped}");
        let moved = (draw(3).t - draw(4).t).abs().max().into_scalar::<f32>();
        assert!(moved > 0.0);
        assert_eq!((draw(3).t - draw(3).t).abs().max().into_scalar::<f32>(), 0.0);
    }
}
