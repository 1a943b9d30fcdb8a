//! Pictures to patch tokens and back.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, ParamBuilder};
use crate::ops;
use crate::plugin::PatchGrid;

/// Patch embedding: a convolution whose stride is its kernel. `weight [out, in, patch, patch]`, `bias [out]`.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `[out, in, patch, patch]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl PatchEmbed {
    /// Xavier-uniform on the `[out, in · patch²]` view, zero bias.
    pub fn new(params: &ParamBuilder, inputs: usize, outputs: usize, patch_size: usize) -> Self {
        let weight = params.param("weight", [outputs, inputs, patch_size, patch_size], Init::XavierUniform);
        Self { weight, bias: Some(params.param("bias", [outputs], Init::Zeros)) }
    }

    /// The same without bias.
    pub fn without_bias(params: &ParamBuilder, inputs: usize, outputs: usize, patch_size: usize) -> Self {
        Self { bias: None, ..Self::new(params, inputs, outputs, patch_size) }
    }

    /// PyTorch's default: weight and bias uniform in ±1/√(in · patch²).
    pub fn as_pytorch(params: &ParamBuilder, inputs: usize, outputs: usize, patch_size: usize) -> Self {
        let bound = 1.0 / ((inputs * patch_size * patch_size) as f64).sqrt();
        let weight = params.param("weight", [outputs, inputs, patch_size, patch_size], Init::FanIn);
        Self { weight, bias: Some(params.param("bias", [outputs], Init::Uniform(bound))) }
    }

    /// # Shapes
    /// * `x`: `[batch, in, rows · patch, columns · patch]`
    /// * result: `[batch, rows · columns, out]`, row-major
    pub fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let [_, _, patch_size, _] = self.weight.dims();
        self.project(patchify(x, patch_size))
    }

    /// The convolution on patches that are cut already.
    ///
    /// # Shapes
    /// * `patches`: `[batch, tokens, in · patch²]`, as [`patchify`] makes them
    /// * result: `[batch, tokens, out]`
    pub fn project(&self, patches: Tensor<3>) -> Tensor<3> {
        let [outputs, inputs, patch_size, _] = self.weight.dims();
        let weight = self.weight.val().reshape([outputs, inputs * patch_size * patch_size]);
        ops::linear(patches, weight, self.bias.as_ref().map(Param::val))
    }
}

/// Cuts pictures into patches, channel slowest and column fastest inside a patch.
///
/// # Shapes
/// * `x`: `[batch, channels, rows · patch, columns · patch]`
/// * result: `[batch, rows · columns, channels · patch²]`
pub fn patchify(x: Tensor<4>, patch_size: usize) -> Tensor<3> {
    let [batch, channels, height, width] = x.dims();
    let (p, rows, columns) = (patch_size, height / patch_size, width / patch_size);
    x.reshape([batch, channels, rows, p, columns, p])
        .permute([0, 2, 4, 1, 3, 5]) // [batch, rows, columns, channels, p, p]
        .reshape([batch, rows * columns, channels * p * p])
}

/// Puts the last layer's patches back into pictures; inside a patch the channel is fastest (DiT's order, not
/// [`patchify`]'s).
///
/// # Shapes
/// * `tokens`: `[batch, rows · columns, patch² · channels]`
/// * result: `[batch, channels, rows · patch, columns · patch]`
pub fn unpatchify(tokens: Tensor<3>, grid: PatchGrid, patch_size: usize) -> Tensor<4> {
    let [batch, _, width] = tokens.dims();
    let (p, channels) = (patch_size, width / (patch_size * patch_size));
    tokens
        .reshape([batch, grid.rows, grid.columns, p, p, channels])
        .permute([0, 5, 1, 3, 2, 4]) // [batch, channels, rows, p, columns, p]
        .reshape([batch, channels, grid.rows * p, grid.columns * p])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn a_pixel_keeps_its_place_through_both_orders() {
        let (channels, p, grid) = (3, 2, PatchGrid::new(2, 3));
        let shape = [1, channels, grid.rows * p, grid.columns * p];
        let count: usize = shape.iter().product();
        let pixels: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let x = Tensor::<4>::from_data(TensorData::new(pixels.clone(), shape), &Device::flex());
        let tokens = patchify(x, p);
        // Channel slowest to channel fastest, then the inverse must be the identity.
        let last = tokens.reshape([1, 6, channels, p * p]).swap_dims(2, 3).reshape([1, 6, channels * p * p]);
        let back: Vec<f32> = unpatchify(last, grid, p).into_data().try_to_vec().unwrap();
        assert_eq!(back, pixels);
    }
}
