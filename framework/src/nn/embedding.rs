//! Table of trained vectors.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};

use super::init::{Init, ParamBuilder};

/// PyTorch's `nn.Embedding`: `weight [rows, channels]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, channels]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// A table drawn from `init`.
    pub fn new(params: &ParamBuilder, rows: usize, channels: usize, init: Init) -> Self {
        Self { weight: params.param("weight", [rows, channels], init) }
    }

    /// # Shapes
    /// * `rows`: `[batch]`, result: `[batch, channels]`
    pub fn forward(&self, rows: Tensor<1, Int>) -> Tensor<2> {
        self.weight.val().select(0, rows)
    }
}
