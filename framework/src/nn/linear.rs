//! Affine layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, ParamBuilder};
use crate::ops;

/// PyTorch's `nn.Linear`: `weight [out, in]`, `bias [out]`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Xavier-uniform weight and zero bias, as the reference transformers initialize every Linear.
    pub fn new(params: &ParamBuilder, inputs: usize, outputs: usize) -> Self {
        Self::with_init(params, inputs, outputs, Init::XavierUniform)
    }

    /// Zero bias and a weight drawn from `init`.
    pub fn with_init(params: &ParamBuilder, inputs: usize, outputs: usize, init: Init) -> Self {
        let weight = params.param("weight", [outputs, inputs], init);
        Self { weight, bias: Some(params.param("bias", [outputs], Init::Zeros)) }
    }

    /// PyTorch's default: weight and bias uniform in ±1/√inputs.
    pub fn as_pytorch(params: &ParamBuilder, inputs: usize, outputs: usize) -> Self {
        let bias = params.param("bias", [outputs], Init::Uniform(1.0 / (inputs as f64).sqrt()));
        Self { weight: params.param("weight", [outputs, inputs], Init::FanIn), bias: Some(bias) }
    }

    /// # Shapes
    /// * `x`: `[.., in]`, result: `[.., out]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// As [`forward`](Self::forward), for a result that goes into [`ops`] alone: under bf16 it takes half the memory
    /// (see [`ops::hidden_linear`]).
    ///
    /// # Shapes
    /// * `x`: `[.., in]`, result: `[.., out]`
    pub fn hidden<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::hidden_linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}
