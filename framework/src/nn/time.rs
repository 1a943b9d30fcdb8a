//! Embedding of continuous times.

use burn::module::Module;
use burn::tensor::Tensor;

use super::init::{Init, ParamBuilder};
use super::linear::Linear;
use crate::ops;

const NUM_FEATURES: usize = 256;

/// Sinusoidal features and a two-layer MLP (DiT): Linear(256, D), SiLU, Linear(D, D); names `mlp.0`, `mlp.2`.
#[derive(Module, Debug)]
pub struct TimestepEmbedder {
    mlp: Mlp,
    time_scale: f64,
}

#[derive(Module, Debug)]
struct Mlp {
    _0: Linear,
    _2: Linear,
}

impl TimestepEmbedder {
    /// `time_scale` multiplies the time before the sinusoids: 1 in the published SiT.
    pub fn new(params: &ParamBuilder, channels: usize, time_scale: f64) -> Self {
        let linear = |params: &ParamBuilder, inputs| Linear::with_init(params, inputs, channels, Init::Normal(0.02));
        Self::with_layers(params, channels, time_scale, linear)
    }

    /// The same with layers as PyTorch's defaults, as in MMDiT.
    pub fn as_pytorch(params: &ParamBuilder, channels: usize, time_scale: f64) -> Self {
        let linear = |params: &ParamBuilder, inputs| Linear::as_pytorch(params, inputs, channels);
        Self::with_layers(params, channels, time_scale, linear)
    }

    fn with_layers(
        params: &ParamBuilder,
        channels: usize,
        time_scale: f64,
        linear: impl Fn(&ParamBuilder, usize) -> Linear,
    ) -> Self {
        let params = params.child("mlp");
        let mlp = Mlp { _0: linear(&params.child(0), NUM_FEATURES), _2: linear(&params.child(2), channels) };
        Self { mlp, time_scale }
    }

    /// # Shapes
    /// * `t`: `[batch]`, result: `[batch, channels]`
    pub fn forward(&self, t: Tensor<1>) -> Tensor<2> {
        let features = time_features(t * self.time_scale, NUM_FEATURES);
        self.mlp._2.forward(ops::silu(self.mlp._0.forward(features)))
    }
}

/// `[cos(t f), sin(t f)]` for `channels / 2` frequencies `f = exp(−ln(10000) k / (channels / 2))`.
///
/// # Shapes
/// * `t`: `[batch]`, result: `[batch, channels]`, channels even
pub fn time_features(t: Tensor<1>, channels: usize) -> Tensor<2> {
    let half = channels / 2;
    // In f32, as the reference: at large t one unit in the last place of a frequency shows.
    let frequency = |k: usize| (-(10000f64.ln() as f32) * k as f32 / half as f32).exp();
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let frequencies = ops::upload(&frequencies, [1, half], &t.device());
    let angles = t.unsqueeze_dim::<2>(1) * frequencies;
    Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1)
}
