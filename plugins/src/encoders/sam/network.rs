//! SAM's image encoder: a plain vision transformer with attention in windows, and a neck. All in f32.
//!
//! Source: Kirillov et al., 2023; Li et al., 2022 (ViTDet); transformers `SamVisionEncoder`, whose names parameters have.

use anyhow::{Result, ensure};
use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::module::conv2d;
use realign::burn::tensor::ops::ConvOptions;
use realign::burn::tensor::{Tensor, activation::gelu};
use realign::nn::{Init, LayerNorm, Linear, ParamBuilder, PatchEmbed};

use super::super::windows::{cut, join};
use super::attention::RelativeAttention;

const NORM_EPS: f64 = 1e-6;
const POSITION_DEVIATION: f64 = 0.02; // of random weights

/// Sizes of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SamSizes {
    /// Channels of the transformer.
    pub hidden_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of an MLP.
    pub mlp_size: usize,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Side of an attention window, in tokens.
    pub window: usize,
    /// Blocks with attention over the whole map, counted from 0.
    pub global_blocks: Vec<usize>,
    /// Channels of the result.
    pub channels: usize,
    /// Whether there is a table of absolute positions.
    pub has_positions: bool,
    /// Whether attention has tables of relative places.
    pub has_places: bool,
}

impl SamSizes {
    /// Rows of the map, and columns.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// # Errors
    /// Sizes of 0, or channels that do not come apart in heads.
    pub fn check(&self) -> Result<()> {
        let sizes = [self.heads, self.side(), self.window, self.channels, self.hidden_size];
        ensure!(sizes.iter().all(|size| *size > 0), "{self:?}: sizes must be at least 1");
        let (channels, heads) = (self.hidden_size, self.heads);
        ensure!(channels.is_multiple_of(heads), "{channels} channels do not come apart in {heads} heads");
        Ok(())
    }
}

/// The network with its neck.
#[derive(Module, Debug)]
pub struct ImageEncoder {
    patch_embed: PatchEmbedding,
    pos_embed: Option<Param<Tensor<4>>>,
    layers: Vec<Layer>,
    neck: Neck,
}

impl ImageEncoder {
    /// Declares the parameters.
    ///
    /// # Errors
    /// As [`SamSizes::check`].
    pub fn new(sizes: &SamSizes, params: &ParamBuilder) -> Result<Self> {
        sizes.check()?;
        let (side, width) = (sizes.side(), sizes.hidden_size);
        let layer = |i: usize| {
            let window = if sizes.global_blocks.contains(&i) { 0 } else { sizes.window };
            Layer::new(&params.child("layers").child(i), sizes, window)
        };
        let positions = || params.param("pos_embed", [1, side, side, width], Init::Normal(POSITION_DEVIATION));
        Ok(Self {
            patch_embed: PatchEmbedding {
                projection: PatchEmbed::new(&params.child("patch_embed.projection"), 3, width, sizes.patch_size),
            },
            pos_embed: sizes.has_positions.then(positions),
            layers: (0..sizes.depth).map(layer).collect(),
            neck: Neck::new(&params.child("neck"), width, sizes.channels),
        })
    }

    /// # Shapes
    /// * `pixels`: `[batch, 3, side · patch, side · patch]`
    /// * result: `[batch, channels, side, side]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let patch_size = self.patch_embed.projection.weight.dims()[3];
        let [_, _, height, width] = pixels.dims();
        let tokens = self.patch_embed.projection.forward(pixels);
        let [batch, _, channels] = tokens.dims();
        let map = tokens.reshape([batch, height / patch_size, width / patch_size, channels]);
        let map = match &self.pos_embed {
            Some(positions) => map + positions.val(),
            None => map,
        };
        self.neck.forward(self.layers.iter().fold(map, |map, layer| layer.forward(map)))
    }
}

/// Holds the projection under its published name.
#[derive(Module, Debug)]
struct PatchEmbedding {
    projection: PatchEmbed,
}

#[derive(Module, Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    attn: RelativeAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
    window: usize,
}

impl Layer {
    fn new(params: &ParamBuilder, sizes: &SamSizes, window: usize) -> Self {
        let (width, hidden) = (sizes.hidden_size, sizes.mlp_size);
        let side = if window == 0 { sizes.side() } else { window };
        Self {
            layer_norm1: LayerNorm::new(&params.child("layer_norm1"), width, NORM_EPS),
            attn: RelativeAttention::new(&params.child("attn"), width, sizes.heads, side, sizes.has_places),
            layer_norm2: LayerNorm::new(&params.child("layer_norm2"), width, NORM_EPS),
            mlp: Mlp {
                lin1: Linear::new(&params.child("mlp.lin1"), width, hidden),
                lin2: Linear::new(&params.child("mlp.lin2"), hidden, width),
            },
            window,
        }
    }

    /// # Shapes
    /// * `map` and result: `[batch, height, width, channels]`
    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let [_, height, width, _] = map.dims();
        let (windows, layout) = cut(self.layer_norm1.forward(map.clone()), self.window);
        let map = map + join(self.attn.forward(windows), layout, [height, width]);
        map.clone() + self.mlp.forward(self.layer_norm2.forward(map))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    lin1: Linear,
    lin2: Linear,
}

impl Mlp {
    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        self.lin2.forward(gelu(self.lin1.forward(map)))
    }
}

/// From the transformer's channels to the result's.
#[derive(Module, Debug)]
struct Neck {
    conv1: Convolution,
    layer_norm1: LayerNorm,
    conv2: Convolution,
    layer_norm2: LayerNorm,
}

impl Neck {
    fn new(params: &ParamBuilder, inputs: usize, outputs: usize) -> Self {
        let conv = |name: &str, inputs, side| Convolution {
            weight: params.child(name).param("weight", [outputs, inputs, side, side], Init::FanIn),
        };
        Self {
            conv1: conv("conv1", inputs, 1),
            layer_norm1: LayerNorm::new(&params.child("layer_norm1"), outputs, NORM_EPS),
            conv2: conv("conv2", outputs, 3),
            layer_norm2: LayerNorm::new(&params.child("layer_norm2"), outputs, NORM_EPS),
        }
    }

    /// # Shapes
    /// * `map`: `[batch, height, width, in]`; result: `[batch, out, height, width]`
    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let normed = |norm: &LayerNorm, map: Tensor<4>| norm.forward(map.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]);
        let map = normed(&self.layer_norm1, self.conv1.forward(map.permute([0, 3, 1, 2])));
        normed(&self.layer_norm2, self.conv2.forward(map))
    }
}

/// A convolution without bias that keeps the size.
#[derive(Module, Debug)]
struct Convolution {
    weight: Param<Tensor<4>>,
}

impl Convolution {
    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let padding = weight.dims()[3] / 2;
        conv2d(map, weight, None, ConvOptions::new([1, 1], [padding; 2], [1, 1], 1))
    }
}
