//! LayerNorm, RMSNorm and GroupNorm with parameters.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, ParamBuilder};
use crate::ops;

/// PyTorch's `nn.LayerNorm` over the last axis: `weight [channels]`, `bias [channels]`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    eps: f64,
}

impl LayerNorm {
    /// Weight one, bias zero.
    pub fn new(params: &ParamBuilder, channels: usize, eps: f64) -> Self {
        let weight = params.param("weight", [channels], Init::Ones);
        Self { weight, bias: params.param("bias", [channels], Init::Zeros), eps }
    }

    /// # Shapes
    /// * `x` and result: `[.., channels]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}

/// RMSNorm over the last axis: `weight [channels]`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    /// Weight one.
    pub fn new(params: &ParamBuilder, channels: usize, eps: f64) -> Self {
        Self { weight: params.param("weight", [channels], Init::Ones), eps }
    }

    /// # Shapes
    /// * `x` and result: `[.., channels]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.val(), self.eps)
    }

    /// The norm, then `x · (1 + scale) + shift` (adaLN).
    ///
    /// # Shapes
    /// * `x` and result: `[batch, tokens, channels]`
    /// * `shift`, `scale`: `[batch, channels]`
    pub fn modulated(&self, x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>) -> Tensor<3> {
        ops::modulated_rms_norm(x, self.weight.val(), shift, scale, self.eps)
    }

    /// A residual stream, and its modulated norm for the branch that leaves it (see [`ops::forked_rms_norm`]).
    ///
    /// # Shapes
    /// As [`modulated`](Self::modulated).
    pub fn forked(&self, x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        ops::forked_rms_norm(x, self.weight.val(), shift, scale, self.eps)
    }
}

/// PyTorch's `nn.GroupNorm` on pictures: `weight [channels]`, `bias [channels]`.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    num_groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Weight one, bias zero; `channels` a multiple of `num_groups`.
    pub fn new(params: &ParamBuilder, channels: usize, num_groups: usize, eps: f64) -> Self {
        let weight = params.param("weight", [channels], Init::Ones);
        Self { weight, bias: params.param("bias", [channels], Init::Zeros), num_groups, eps }
    }

    /// # Shapes
    /// * `x` and result: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::group_norm(x, self.num_groups, self.weight.val(), self.bias.val(), self.eps)
    }

    /// The norm, then SiLU.
    ///
    /// # Shapes
    /// * `x` and result: `[batch, channels, height, width]`
    pub fn forward_silu(&self, x: Tensor<4>) -> Tensor<4> {
        ops::group_norm_silu(x, self.num_groups, self.weight.val(), self.bias.val(), self.eps)
    }
}
