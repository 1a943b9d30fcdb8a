//! The network that is trained.

use std::fmt::Debug;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Tensor;

use super::condition::{Condition, ConditionSpec};
use super::grid::PatchGrid;
use crate::erase::{Erased, Slot};
use crate::nn::ParamBuilder;
use crate::ops::Precision;
use crate::recipe::Check;
use crate::registry::Described;

/// Times of a batch, in the objective's own convention.
#[derive(Debug, Clone)]
pub struct Times {
    /// Time of each sample in [0, 1], `[batch]`.
    pub t: Tensor<1>,
    /// Start of the interval for average velocities, from 0 to `t`, `[batch]`.
    pub r: Option<Tensor<1>>,
}

impl Times {
    /// Instants.
    pub fn at(t: Tensor<1>) -> Self {
        Self { t, r: None }
    }
}

/// What a backbone is given.
///
/// # Shapes
/// * `x`: `[batch, channels, height, width]`
#[derive(Debug, Clone)]
pub struct BackboneInput<'a> {
    /// Noisy samples.
    pub x: Tensor<4>,
    /// Their times.
    pub times: Times,
    /// What they shall show.
    pub condition: Condition,
    /// Blocks whose output tokens are wanted, from 1 to the depth, in ascending order.
    pub taps: &'a [usize],
}

/// What a backbone returns.
///
/// # Shapes
/// * `prediction`: as the input `x`
/// * `taps`: `[batch, tokens, hidden_size]` each, in the order asked for
#[derive(Debug, Clone)]
pub struct BackboneOutput {
    /// The network's prediction; the objective knows of what.
    pub prediction: Tensor<4>,
    /// Tokens after the wanted blocks, before any norm.
    pub taps: Vec<Tensor<3>>,
}

/// A network over noisy samples. What it returns is f32.
///
/// ```
/// use realign::plugin::{Backbone, BackboneInput, Condition, Times};
/// use burn::tensor::Tensor;
/// fn velocity(backbone: &dyn Backbone, x: Tensor<4>, t: Tensor<1>, condition: Condition) -> Tensor<4> {
///     backbone.forward(BackboneInput { x, times: Times::at(t), condition, taps: &[] }).prediction
/// }
/// ```
pub trait Backbone: Erased<BackboneKind> {
    /// One forward pass. Draws nothing: label dropout has already happened.
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput;

    /// Tokens after the wanted blocks, for whoever needs no prediction; worth saying where the blocks behind the last of
    /// them can be left out.
    fn taps(&self, input: BackboneInput<'_>) -> Vec<Tensor<3>> {
        self.forward(input).taps
    }
}
crate::module_kind!(
    /// Backbones as a kind of plugin.
    BackboneKind, "backbone", Backbone
);

/// A backbone that an objective asks for taps alone: it predicts zero.
#[derive(Module, Debug)]
pub struct TapsOnly {
    /// The network.
    pub backbone: Slot<BackboneKind>,
}

impl Backbone for TapsOnly {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        let prediction = input.x.clone() * 0.0;
        BackboneOutput { prediction, taps: self.backbone.taps(input) }
    }
}

/// Sizes that a backbone states before any weight exists.
#[derive(Debug, Clone, PartialEq)]
pub struct BackboneSpec {
    /// Grid of its patch tokens.
    pub grid: PatchGrid,
    /// Channels of its tokens.
    pub hidden_size: usize,
    /// Number of blocks that can be tapped.
    pub depth: usize,
    /// Floating-point operations of one forward pass of one sample, a multiply-add counted as two.
    pub forward_flops: f64,
    /// Values kept for the backward pass of one sample that are f32 under every precision: the residual stream.
    pub saved_floats: f64,
    /// Values kept for it that layers hand on inside a block ([`Linear::hidden`](crate::nn::Linear::hidden)): bf16 under
    /// that precision, else f32.
    pub saved_hidden: f64,
}

impl BackboneSpec {
    /// Bytes kept for the backward pass of one sample.
    pub fn saved_bytes(&self, precision: Precision) -> f64 {
        let hidden = if precision == Precision::Bf16 { 2.0 } else { 4.0 };
        4.0 * self.saved_floats + hidden * self.saved_hidden
    }
}

/// What a backbone is told about the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackboneContext {
    /// Channels, height and width of its input.
    pub input: [usize; 3],
    /// Kind of condition it gets.
    pub condition: ConditionSpec,
    /// Whether the objective passes the interval start `r`.
    pub has_interval: bool,
    /// Whether blocks keep their inputs only and are [computed again](crate::ops::recomputed) in the backward pass.
    pub recomputes: bool,
}

/// A backbone as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait BackboneConfig: Described + Debug + Send + Sync {
    /// Sizes for this input.
    ///
    /// # Errors
    /// The input or condition does not fit the network.
    fn spec(&self, ctx: &BackboneContext) -> Result<BackboneSpec>;

    /// Declares the parameters; their values are made when first used.
    ///
    /// # Errors
    /// As [`spec`](Self::spec).
    fn build(&self, ctx: &BackboneContext, params: &ParamBuilder) -> Result<Box<dyn Backbone>>;

    /// Whether it can take the interval start `r` beside `t`; if not, recipes that need it are refused.
    fn accepts_interval(&self) -> bool {
        false
    }

    /// Whether its blocks can be computed again in the backward pass; if not, recipes that ask for it are refused.
    fn can_recompute(&self) -> bool {
        false
    }

    /// Factor on times before the network sees them. Derivatives by time grow with it; a central difference of them
    /// (see [`ops::jvp`](crate::ops::jvp)) is refused above 10.
    fn time_scale(&self) -> f64 {
        1.0
    }

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
