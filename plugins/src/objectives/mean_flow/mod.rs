//! MeanFlow: average velocities over intervals, for sampling in one step. t = 0 is data, t = 1 is noise.
//!
//! Source: Geng et al., "Mean Flows for One-step Generative Modeling" (2025); the authors' `meanflow.py`, and the public
//! PyTorch version on SiT where a key says so. Losses are in f32.

mod terms;

use anyhow::Result;
use realign::burn::tensor::{Device, Tensor};
use realign::ops;
use realign::plugin::{
    Backbone, Draws, Dynamics, Objective, ObjectiveConfig, ObjectiveInput, ObjectiveOutput, ProbabilityPath,
};
use realign::recipe::Check;
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use terms::MeanFlowTerms;
use terms::plain;

/// `mean_flow`: regression of the average velocity `u(x_t, r, t)` on `v − (t − r) du/dt` along `x_t = (1 − t) x + t e`.
///
/// The derivative is taken only for the samples whose interval is not empty; for the others the target is `v` itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MeanFlowConfig {
    /// Distribution of the two times of a sample; the later one is t.
    pub time: MeanFlowTime,
    /// Mean of the normal whose sigmoid is a time.
    pub time_mean: f64,
    /// Deviation of the normal whose sigmoid is a time.
    pub time_deviation: f64,
    /// Share of samples whose interval is empty, r = t.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub instant_share: f64,
    /// Whether that share holds in each batch or on average.
    pub instants: Instants,
    /// Weight of a sample by its squared error.
    pub weighting: Weighting,
    /// Exponent of the weight.
    #[schemars(range(min = 0.0, max = 2.0))]
    pub weight_power: f64,
    /// What is added to the error in the weight; 0.01 for `error`, 0.001 for `squared_error` where it is left out.
    pub weight_eps: Option<f64>,
    /// Guidance that the network learns.
    pub guidance: TrainedGuidance,
    /// Probability that a condition becomes the null condition, for guidance.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_dropout: f64,
    /// Which samples may lose their condition.
    pub dropped: Dropped,
    /// Which samples take part in alignment.
    pub align_on: AlignOn,
}

/// Distribution of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MeanFlowTime {
    /// sigmoid of a normal.
    #[default]
    LogitNormal,
    /// Uniform in [0, 1).
    Uniform,
}

/// How many samples of a batch have r = t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Instants {
    /// The share of the batch, rounded down (the authors' code).
    #[default]
    Counted,
    /// Each sample with the share as its probability (the PyTorch version).
    Drawn,
}

/// Weight of a sample with squared error `e`, summed over its values; no gradient passes through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// `e / (e + eps)^power` (the authors' code).
    #[default]
    Error,
    /// `e² / (e² + eps)^power` (the PyTorch version).
    SquaredError,
    /// `e`.
    Uniform,
}

/// Guidance as part of what is learned: `omega v + (1 − omega − kappa) u(x, t, t, null) + kappa u(x, t, t, condition)`
/// takes the place of `v`. The effective scale is `omega / (1 − kappa)`; omega 1 and kappa 0 are no guidance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainedGuidance {
    /// Weight of the sample's own velocity.
    pub omega: f64,
    /// Weight of the network's conditional velocity, below 1.
    #[schemars(range(min = 0.0, max = 0.999))]
    pub kappa: f64,
    /// First time at which guidance acts.
    pub low: f64,
    /// Last time at which guidance acts.
    pub high: f64,
}

/// Which samples may lose their condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dropped {
    /// As many as the probability gives, all among those with r = t: guidance asks for the null condition only there
    /// (the authors' code).
    #[default]
    Instants,
    /// Any (the PyTorch version).
    Any,
}

/// Which samples take part in alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlignOn {
    /// All.
    #[default]
    All,
    /// Those with r = t.
    Instants,
}

impl Default for TrainedGuidance {
    fn default() -> Self {
        Self { omega: 1.0, kappa: 0.0, low: 0.0, high: 1.0 }
    }
}

impl Default for MeanFlowConfig {
    fn default() -> Self {
        Self {
            time: MeanFlowTime::LogitNormal,
            time_mean: -0.4,
            time_deviation: 1.0,
            instant_share: 0.75,
            instants: Instants::Counted,
            weighting: Weighting::Error,
            weight_power: 1.0,
            weight_eps: None,
            guidance: TrainedGuidance::default(),
            label_dropout: 0.1,
            dropped: Dropped::Instants,
            align_on: AlignOn::All,
        }
    }
}

impl TrainedGuidance {
    /// Weight of the network's velocity without condition.
    fn null_weight(&self) -> f64 {
        let weight = 1.0 - self.omega - self.kappa;
        // 1 − 0.2 − 0.8 is not quite zero.
        if weight.abs() < 1e-9 { 0.0 } else { weight }
    }

    fn is_none(&self) -> bool {
        self.omega == 1.0 && self.kappa == 0.0
    }
}

impl MeanFlowConfig {
    /// The time that a draw means: a standard normal one for `logit_normal`, a uniform one for `uniform`.
    pub fn time(&self, draw: f32) -> f32 {
        match self.time {
            MeanFlowTime::LogitNormal => {
                1.0 / (1.0 + (-(draw * self.time_deviation as f32 + self.time_mean as f32)).exp())
            }
            MeanFlowTime::Uniform => draw,
        }
    }

    /// The weighted loss of each sample by its squared error.
    ///
    /// # Shapes
    /// * `error`, result: `[batch]`
    pub fn weighted(&self, error: Tensor<1>) -> Tensor<1> {
        let (error, eps) = match self.weighting {
            Weighting::Uniform => return error,
            Weighting::Error => (error, 1e-2),
            Weighting::SquaredError => (error.square(), 1e-3),
        };
        let scale = error.clone().detach() + self.weight_eps.unwrap_or(eps);
        error / if self.weight_power == 1.0 { scale } else { scale.powf_scalar(self.weight_power) }
    }
}

impl Objective for MeanFlowConfig {
    fn draw(&self, shape: [usize; 4], streams: &Streams, device: &Device) -> Draws {
        let [batch, ..] = shape;
        let pairs = match self.time {
            MeanFlowTime::LogitNormal => streams.normal("times", 2 * batch),
            MeanFlowTime::Uniform => streams.uniform("times", 2 * batch),
        };
        let times: Vec<f32> = pairs.into_iter().map(|draw| self.time(draw)).collect();
        let (starts, ends): (Vec<f32>, Vec<f32>) =
            times.chunks_exact(2).map(|pair| (pair[0].min(pair[1]), pair[0].max(pair[1]))).unzip();
        let num_instants = match self.instants {
            Instants::Counted => (batch as f64 * self.instant_share) as usize,
            Instants::Drawn => {
                let is_instant = |u: &f32| f64::from(*u) < self.instant_share;
                streams.uniform("instants", batch).iter().filter(|u| is_instant(u)).count()
            }
        }
        .min(batch);
        let mut draws = Draws::new(shape, ends, self.label_dropout, streams, device);
        // Samples come in random order, so the first ones are as good as any.
        if num_instants < batch {
            draws.r = Some(ops::upload(&starts[num_instants..], [batch - num_instants], device));
        }
        if self.dropped == Dropped::Instants {
            let is_dropped = |u: &f32| f64::from(*u) < self.label_dropout;
            let count = streams.uniform("label_dropout", batch).iter().filter(|u| is_dropped(u)).count();
            let drop: Vec<bool> = (0..batch).map(|i| i < count.min(num_instants)).collect();
            draws.drop = Some(ops::upload_flags(&drop, [batch], device));
        }
        draws
    }

    fn loss(&self, backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> Result<ObjectiveOutput> {
        let terms = self.terms(backbone, input)?;
        let sum = |difference: Tensor<4>| difference.square().flatten::<2>(1, 3).sum_dim(1).squeeze_dim::<1>(1);
        let velocity_error = sum(plain(terms.u.clone()) - terms.v);
        let error = sum(terms.u - Tensor::from_inner(terms.target));
        let loss = self.weighted(error.clone()).mean();
        let scalars = vec![
            ("denoising_loss", loss.clone().detach()),
            ("squared_error", error.detach().mean()),
            ("velocity_error", Tensor::from_inner(velocity_error.mean())),
        ];
        Ok(ObjectiveOutput { loss, scalars, taps: terms.taps })
    }

    /// The average velocity over the empty interval is the velocity.
    fn velocity(&self, prediction: Tensor<4>, _x: Tensor<4>, _t: f64) -> Tensor<4> {
        prediction
    }

    fn path(&self) -> ProbabilityPath {
        ProbabilityPath::Linear
    }
}

#[typetag::serde(name = "mean_flow")]
impl ObjectiveConfig for MeanFlowConfig {
    fn build(&self) -> Box<dyn Objective> {
        Box::new(*self)
    }

    fn has_interval(&self) -> bool {
        true
    }

    fn takes_derivative(&self) -> bool {
        self.instant_share < 1.0
    }

    fn forward_passes(&self) -> f64 {
        let intervals = 1.0 - self.instant_share;
        let null = if self.guidance.null_weight() != 0.0 { 1.0 } else { 0.0 };
        let conditional = if self.guidance.kappa != 0.0 { intervals } else { 0.0 };
        let guidance = if self.guidance.is_none() { 0.0 } else { null + conditional };
        // A tangent costs about as much as a forward pass; a forward pass alone is a third of one with its backward pass.
        1.0 + (intervals + guidance) / 3.0
    }

    fn dynamics(&self) -> &'static [Dynamics] {
        &[Dynamics::AverageVelocity, Dynamics::Velocity]
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("label_dropout", self.label_dropout, 0.0, 1.0);
        check.range("time_mean", self.time_mean, -20.0, 20.0);
        check.range("time_deviation", self.time_deviation, 0.0, 20.0);
        check.range("instant_share", self.instant_share, 0.0, 1.0);
        check.range("weight_power", self.weight_power, 0.0, 2.0);
        check.range("weight_eps", self.weight_eps.unwrap_or(1.0), 1e-12, 1e6);
        check.within("guidance", |check| {
            check.range("omega", self.guidance.omega, 0.0, 100.0);
            check.range("kappa", self.guidance.kappa, 0.0, 0.999);
            check.range("low", self.guidance.low, 0.0, 1.0);
            check.range("high", self.guidance.high, self.guidance.low.clamp(0.0, 1.0), 1.0);
        });
        if self.guidance.null_weight() != 0.0 && !self.guidance.is_none() && self.label_dropout == 0.0 {
            check.bad(
                "label_dropout",
                "guidance asks the network without condition, and `0` never trains it there; set it above 0",
            );
        }
        if self.align_on == AlignOn::Instants && (self.instants == Instants::Drawn || self.instant_share == 0.0) {
            check.bad(
                "align_on",
                "`instants` needs samples with r = t in every batch: `instants: counted` and an `instant_share` above 0",
            );
        }
    }
}

realign::register!(ObjectiveConfig as "objective": MeanFlowConfig);

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(config: MeanFlowConfig, batch: usize) -> Draws {
        config.draw([batch, 1, 1, 1], &Streams::new(1).at(3, 0), &Device::flex())
    }

    fn host(x: Tensor<1>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn intervals_are_the_last_quarter_and_start_before_they_end() {
        let draws = draw(MeanFlowConfig::default(), 4003);
        let (r, t) = (host(draws.r.unwrap()), host(draws.t));
        assert_eq!((r.len(), t.len()), (4003 - 3002, 4003));
        assert!(r.iter().zip(&t[3002..]).all(|(r, t)| 0.0 <= *r && r <= t && *t <= 1.0));
        // The median of max(a, b) for two sigmoids of N(-0.4, 1): P(a < m)² = 1/2 at normal 0.545.
        let below = t.iter().filter(|t| **t < 0.536).count();
        assert!((1880..2120).contains(&below), "{below}");
    }

    #[test]
    fn a_drawn_share_varies_and_a_counted_one_does_not() {
        let config = MeanFlowConfig { instants: Instants::Drawn, ..Default::default() };
        let count = |step| config.draw([64, 1, 1, 1], &Streams::new(1).at(step, 0), &Device::flex()).r.unwrap().dims();
        let counts: std::collections::BTreeSet<_> = (0..10).map(count).collect();
        assert!(counts.len() > 2, "{counts:?}");
    }

    #[test]
    fn conditions_are_dropped_among_instants_only() {
        let config = MeanFlowConfig { label_dropout: 0.5, instant_share: 0.25, ..Default::default() };
        let drop = draw(config, 100).drop.unwrap().int();
        assert_eq!(drop.clone().slice_dim(0, 0..25).sum().into_scalar::<i64>(), 25);
        assert_eq!(drop.sum().into_scalar::<i64>(), 25);
        let any = draw(MeanFlowConfig { dropped: Dropped::Any, ..config }, 1000).drop.unwrap().int();
        let late = any.slice_dim(0, 250..1000).sum().into_scalar::<i64>();
        assert!((320..430).contains(&late), "{late}");
    }

    #[test]
    fn weights_pass_no_gradient() {
        let device = Device::flex().autodiff();
        let error = Tensor::<1>::from_floats([0.5, 4.0], &device).require_grad();
        let config = MeanFlowConfig::default();
        let loss = config.weighted(error.clone());
        let gradient = host(error.grad(&loss.clone().sum().backward()).unwrap());
        for ((error, loss), gradient) in [0.5f32, 4.0].into_iter().zip(host(loss)).zip(gradient) {
            assert!((loss - error / (error + 0.01)).abs() < 1e-6);
            assert!((gradient - 1.0 / (error + 0.01)).abs() < 1e-6);
        }
    }
}
