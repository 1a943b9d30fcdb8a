//! Convolution of pictures, and of tokens on a grid.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, ParamBuilder};
use crate::ops::{self, ConvShape};
use crate::plugin::PatchGrid;

/// PyTorch's `nn.Conv2d` with stride 1 and zero padding `kernel / 2`, applied to tokens: it keeps their grid.
/// `weight [out, in, kernel, kernel]`, `bias [out]`.
#[derive(Module, Debug)]
pub struct GridConv2d {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl GridConv2d {
    /// PyTorch's default: weight and bias uniform in ±1/√(in · kernel²).
    pub fn new(params: &ParamBuilder, inputs: usize, outputs: usize, kernel: usize) -> Self {
        let bound = 1.0 / ((inputs * kernel * kernel) as f64).sqrt();
        let weight = params.param("weight", [outputs, inputs, kernel, kernel], Init::Uniform(bound));
        Self { weight, bias: params.param("bias", [outputs], Init::Uniform(bound)) }
    }

    /// # Shapes
    /// * `tokens`: `[batch, grid.tokens(), in]`, result: `[batch, grid.tokens(), out]`
    pub fn forward(&self, tokens: Tensor<3>, grid: PatchGrid) -> Tensor<3> {
        ops::grid_conv2d(tokens, [grid.rows, grid.columns], self.weight.val(), self.bias.val())
    }
}

/// PyTorch's `nn.Conv2d` on pictures: `weight [out, in, kernel, kernel]`, `bias [out]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Step and padding.
    #[module(skip)]
    pub shape: ConvShape,
}

impl Conv2d {
    /// PyTorch's default: weight and bias uniform in ±1/√(in · kernel²).
    pub fn new(params: &ParamBuilder, inputs: usize, outputs: usize, kernel: usize, shape: ConvShape) -> Self {
        let bound = 1.0 / ((inputs * kernel * kernel) as f64).sqrt();
        let weight = params.param("weight", [outputs, inputs, kernel, kernel], Init::Uniform(bound));
        Self { weight, bias: Some(params.param("bias", [outputs], Init::Uniform(bound))), shape }
    }

    /// # Shapes
    /// * `x`: `[batch, in, height, width]`, result: `[batch, out, rows, columns]` as [`ops::conv2d`] says
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::conv2d(x, self.weight.val(), self.bias.as_ref().map(Param::val), self.shape)
    }
}
