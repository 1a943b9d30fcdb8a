//! From noise to samples.

use std::fmt::Debug;

use anyhow::Result;
use burn::tensor::Tensor;

use super::backbone::Backbone;
use super::condition::Condition;
use super::objective::{Dynamics, Objective};
use crate::recipe::Check;
use crate::registry::Described;

/// Classifier-free guidance: `u + scale · (c − u)` while `low <= t <= high`, in the objective's time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// Guidance scale; 1 is none.
    pub scale: f64,
    /// First time of the interval.
    pub low: f64,
    /// Last time of the interval.
    pub high: f64,
}

impl Guidance {
    /// No guidance.
    pub const NONE: Self = Self { scale: 1.0, low: 0.0, high: 1.0 };
}

/// What a sampler is given.
pub struct SampleRequest<'a> {
    /// The network.
    pub backbone: &'a dyn Backbone,
    /// How its prediction becomes a velocity.
    pub objective: &'a dyn Objective,
    /// Initial noise, `[batch, channels, height, width]`.
    pub noise: Tensor<4>,
    /// What to show.
    pub condition: Condition,
    /// The null condition, as many times.
    pub null: Condition,
    /// Guidance.
    pub guidance: Guidance,
    /// Standard normal noise of the initial noise's shape for step `k`, for samplers that draw.
    pub step_noise: &'a dyn Fn(usize) -> Tensor<4>,
}

/// Turns noise into samples of the objective's data distribution.
pub trait Sampler: Debug + Send + Sync {
    /// Samples, `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// The network returned values that are not finite.
    fn sample(&self, request: SampleRequest<'_>) -> Result<Tensor<4>>;

    /// Evaluations of the network per sample, without guidance.
    fn num_evaluations(&self) -> usize;
}

/// A sampler as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait SamplerConfig: Described + Debug + Send + Sync {
    /// Builds it.
    fn build(&self) -> Box<dyn Sampler>;

    /// What it needs from a network; a recipe whose objective does not offer that is refused.
    fn dynamics(&self) -> Dynamics {
        Dynamics::Velocity
    }

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
