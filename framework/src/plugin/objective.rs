//! What the backbone is trained to predict.

use std::fmt::Debug;

use anyhow::Result;
use burn::tensor::{Bool, Device, Tensor};

use super::backbone::Backbone;
use super::condition::Condition;
use crate::ops;
use crate::recipe::Check;
use crate::registry::Described;
use crate::streams::Streams;

/// A training objective: draws times and noise, asks the backbone, returns a loss. It knows nothing of encoders.
///
/// ```
/// use realign::plugin::{Backbone, Objective, ObjectiveInput};
/// use burn::tensor::Tensor;
/// fn loss(objective: &dyn Objective, backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> anyhow::Result<Tensor<1>> {
///     Ok(objective.loss(backbone, input)?.loss)
/// }
/// ```
pub trait Objective: Debug + Send + Sync {
    /// All random numbers of one batch of samples `[batch, channels, height, width]`.
    fn draw(&self, shape: [usize; 4], streams: &Streams, device: &Device) -> Draws;

    /// The loss of one batch, in f32. It may return the taps of the first samples alone, which are then aligned.
    ///
    /// # Errors
    /// The backbone cannot do what the objective needs.
    fn loss(&self, backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> Result<ObjectiveOutput>;

    /// The instantaneous velocity that a network's prediction means at `x` and time `t` in [0, 1], for samplers.
    ///
    /// # Shapes
    /// * `prediction`, `x`, result: `[batch, channels, height, width]`
    fn velocity(&self, prediction: Tensor<4>, x: Tensor<4>, t: f64) -> Tensor<4>;

    /// Where a sampler starts: what standard normal noise is under this objective.
    ///
    /// # Shapes
    /// * `noise` and result: `[batch, channels, height, width]`
    fn start(&self, noise: Tensor<4>) -> Tensor<4> {
        noise
    }

    /// The path between data and noise; an objective whose time runs from noise to data states it in `1 − t`.
    fn path(&self) -> ProbabilityPath;
}

/// What a trained network can tell a sampler about the way from noise to data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dynamics {
    /// The velocity at one time, through [`Objective::velocity`]; data is at t = 0.
    Velocity,
    /// The same where noise is at t = 0 and data at t = 1 (JiT).
    VelocityFromNoise,
    /// The average velocity between two times: the prediction for [`Times`](super::Times) with a start `r`.
    AverageVelocity,
}

/// Random numbers of one batch.
#[derive(Debug, Clone)]
pub struct Draws {
    /// Standard normal noise of the samples' shape.
    pub noise: Tensor<4>,
    /// Times, `[batch]`.
    pub t: Tensor<1>,
    /// Starts of the intervals of the last samples, `[up to batch]`, for objectives over average velocities; the samples
    /// before them have empty intervals.
    pub r: Option<Tensor<1>>,
    /// Which conditions become the null condition, `[batch]`; nothing when none does.
    pub drop: Option<Tensor<1, Bool>>,
}

impl Draws {
    /// Noise of the samples' shape, these times, and conditions dropped with probability `label_dropout`.
    pub fn new(shape: [usize; 4], times: Vec<f32>, label_dropout: f64, streams: &Streams, device: &Device) -> Self {
        let [batch, ..] = shape;
        let noise = streams.normal("noise", shape.iter().product());
        let is_dropped = |u: f32| f64::from(u) < label_dropout;
        let drop: Vec<bool> = streams.uniform("label_dropout", batch).into_iter().map(is_dropped).collect();
        Self {
            noise: ops::upload(&noise, shape, device),
            t: ops::upload(&times, [batch], device),
            r: None,
            drop: Some(ops::upload_flags(&drop, [batch], device)),
        }
    }
}

/// What an objective is given.
///
/// # Shapes
/// * `x0`: `[batch, channels, height, width]`
#[derive(Debug)]
pub struct ObjectiveInput<'a> {
    /// Clean samples.
    pub x0: Tensor<4>,
    /// Their conditions.
    pub condition: Condition,
    /// The null condition, as many times.
    pub null: Condition,
    /// Random numbers.
    pub draws: Draws,
    /// Blocks whose tokens alignment wants.
    pub taps: &'a [usize],
}

/// What an objective returns.
#[derive(Debug)]
pub struct ObjectiveOutput {
    /// The loss to differentiate, `[1]`.
    pub loss: Tensor<1>,
    /// Named scalars to log, `[1]` each, detached.
    pub scalars: Vec<(&'static str, Tensor<1>)>,
    /// Tokens after the wanted blocks, of all samples or of the first ones, which alone are then aligned.
    pub taps: Vec<Tensor<3>>,
}

/// A path `x_t = alpha(t) · x0 + sigma(t) · noise` from data at t = 0 to noise at t = 1.
///
/// Source: SiT (Ma et al., 2024), section 2; REPA `loss.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbabilityPath {
    /// alpha = 1 − t, sigma = t.
    #[default]
    Linear,
    /// alpha = cos(πt/2), sigma = sin(πt/2).
    Cosine,
}

/// Values of a path at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct PathPoint<T> {
    pub alpha: T,
    pub sigma: T,
    /// Derivative of alpha by time.
    pub d_alpha: T,
    /// Derivative of sigma by time.
    pub d_sigma: T,
}

impl ProbabilityPath {
    /// The path's values at time `t` in `[0, 1]`.
    pub fn at(self, t: f64) -> PathPoint<f64> {
        let half_pi = std::f64::consts::FRAC_PI_2;
        match self {
            Self::Linear => PathPoint { alpha: 1.0 - t, sigma: t, d_alpha: -1.0, d_sigma: 1.0 },
            Self::Cosine => {
                let (sin, cos) = (half_pi * t).sin_cos();
                PathPoint { alpha: cos, sigma: sin, d_alpha: -half_pi * sin, d_sigma: half_pi * cos }
            }
        }
    }

    /// The path's values at the times of a batch, of `t`'s shape.
    pub fn at_each<const D: usize>(self, t: Tensor<D>) -> PathPoint<Tensor<D>> {
        let half_pi = std::f64::consts::FRAC_PI_2;
        match self {
            Self::Linear => PathPoint {
                alpha: t.clone().neg() + 1.0,
                d_alpha: t.ones_like().neg(),
                d_sigma: t.ones_like(),
                sigma: t,
            },
            Self::Cosine => {
                let angle = t * half_pi;
                let (sin, cos) = (angle.clone().sin(), angle.cos());
                PathPoint { d_alpha: sin.clone() * -half_pi, d_sigma: cos.clone() * half_pi, alpha: cos, sigma: sin }
            }
        }
    }

    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

/// An objective as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait ObjectiveConfig: Described + Debug + Send + Sync {
    /// Builds it.
    fn build(&self) -> Box<dyn Objective>;

    /// Whether the backbone must take the interval start `r`.
    fn has_interval(&self) -> bool {
        false
    }

    /// Whether it differentiates the backbone by its input ([`ops::jvp`]).
    fn takes_derivative(&self) -> bool {
        false
    }

    /// Forward passes of the backbone in one loss, for estimates of cost; the backward pass costs two more each.
    fn forward_passes(&self) -> f64 {
        1.0
    }

    /// What its networks can tell a sampler; a sampler that needs anything else is refused.
    fn dynamics(&self) -> &'static [Dynamics] {
        &[Dynamics::Velocity]
    }

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_of_both_paths_agree_with_finite_differences() {
        for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
            for t in [0.03, 0.41, 0.97] {
                let (low, at, high) = (path.at(t - 1e-6), path.at(t), path.at(t + 1e-6));
                assert!(((high.alpha - low.alpha) / 2e-6 - at.d_alpha).abs() < 1e-8);
                assert!(((high.sigma - low.sigma) / 2e-6 - at.d_sigma).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn a_batch_of_times_gives_the_same_values_as_each_time() {
        let device = Device::flex();
        for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
            let batch = path.at_each(Tensor::<1>::from_floats([0.1, 0.7, 1.0], &device));
            let alpha: Vec<f32> = batch.alpha.into_data().try_to_vec().unwrap();
            let slope: Vec<f32> = batch.d_sigma.into_data().try_to_vec().unwrap();
            for (i, t) in [0.1, 0.7, 1.0].into_iter().enumerate() {
                assert!((f64::from(alpha[i]) - path.at(t).alpha).abs() < 1e-6);
                assert!((f64::from(slope[i]) - path.at(t).d_sigma).abs() < 1e-6);
            }
        }
    }
}
