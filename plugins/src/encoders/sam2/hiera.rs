//! Hiera: a vision transformer in stages, with attention in windows and queries pooled between stages.
//!
//! Source: Ryali et al., 2023, and Bolya et al., 2023 (window positions); SAM 2 `modeling/backbones/hieradet.py`,
//! transformers `Sam2HieraDetModel`. Parameter names are those of transformers. All in f32.

use anyhow::{Result, ensure};
use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::module::{conv2d, max_pool2d};
use realign::burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use realign::burn::tensor::{Tensor, activation::gelu};
use realign::nn::{Init, LayerNorm, Linear, ParamBuilder, Resampling};
use realign::ops;

use super::super::windows::{cut, join};

const NORM_EPS: f64 = 1e-6;
const POSITION_DEVIATION: f64 = 0.02; // of random weights

/// Sizes of a network; lists have one entry for each stage.
#[derive(Debug, Clone, PartialEq)]
pub struct HieraSizes {
    /// Channels.
    pub widths: Vec<usize>,
    /// Attention heads.
    pub heads: Vec<usize>,
    /// Blocks.
    pub blocks: Vec<usize>,
    /// Side of an attention window, in tokens. The first block of a stage still has the one of the stage before.
    pub windows: Vec<usize>,
    /// Blocks with attention over the whole map, counted from 0 over all stages.
    pub global_blocks: Vec<usize>,
    /// Stages after the first that begin by pooling queries, first ones first.
    pub num_pooled_stages: usize,
    /// Rows and columns of the table of coarse positions.
    pub background: [usize; 2],
    /// Hidden width of an MLP over its channels.
    pub mlp_ratio: f64,
    /// Side, stride and padding of the patch embedding, in pixels.
    pub patch: [usize; 3],
}

impl HieraSizes {
    /// Sizes of one block: of which stage it is, and how it differs from the others of the stage.
    fn plan(&self) -> Vec<BlockSizes> {
        let mut plan = vec![];
        for (stage, count) in self.blocks.iter().enumerate() {
            for place in 0..*count {
                let before = if place == 0 { stage.saturating_sub(1) } else { stage };
                let is_global = self.global_blocks.contains(&plan.len());
                plan.push(BlockSizes {
                    inputs: self.widths[before],
                    outputs: self.widths[stage],
                    heads: self.heads[stage],
                    window: if is_global { 0 } else { self.windows[before] },
                    is_pooled: place == 0 && (1..=self.num_pooled_stages).contains(&stage),
                    hidden: (self.widths[stage] as f64 * self.mlp_ratio) as usize,
                });
            }
        }
        plan
    }

    /// Pixels of the picture for one token of the result.
    pub fn stride(&self) -> usize {
        let num_pooled = self.num_pooled_stages.min(self.blocks.len().saturating_sub(1));
        self.patch[1] << num_pooled
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.widths.last().copied().unwrap_or(0)
    }

    /// # Errors
    /// Lists of unequal lengths, sizes of 0, or heads, windows and pooling that do not fit.
    pub fn check(&self) -> Result<()> {
        let lengths = [self.widths.len(), self.heads.len(), self.blocks.len(), self.windows.len()];
        ensure!(
            lengths[0] > 0 && lengths.iter().all(|length| *length == lengths[0]),
            "widths, heads, blocks and windows have {lengths:?} stages; they must have equally many"
        );
        let has_zero =
            lengths[0] == 0 || self.heads.contains(&0) || self.windows.contains(&0) || self.blocks.contains(&0);
        ensure!(!has_zero && !self.background.contains(&0) && self.patch[1] > 0, "{self:?}: sizes must be at least 1");
        for block in self.plan() {
            ensure!(
                block.outputs > 0 && block.outputs.is_multiple_of(block.heads),
                "{} channels do not come apart in {} heads",
                block.outputs,
                block.heads
            );
            ensure!(!block.is_pooled || block.inputs != block.outputs, "a stage that pools must change its width");
            ensure!(!block.is_pooled || block.window.is_multiple_of(2), "windows that are pooled need an even side");
        }
        Ok(())
    }
}

/// The network up to its last stage.
#[derive(Module, Debug)]
pub struct Hiera {
    /// Overlapping patches.
    pub patch_embed: PatchEmbedding,
    /// Coarse positions, `[1, channels, rows, columns]`.
    pub pos_embed: Param<Tensor<4>>,
    /// Positions inside a window of the first stage, `[1, channels, side, side]`.
    pub pos_embed_window: Param<Tensor<4>>,
    /// The blocks of all stages.
    pub blocks: Vec<Block>,
}

impl Hiera {
    /// Declares the parameters.
    ///
    /// # Errors
    /// As [`HieraSizes::check`].
    pub fn new(sizes: &HieraSizes, params: &ParamBuilder) -> Result<Self> {
        sizes.check()?;
        let (width, [rows, columns], window) = (sizes.widths[0], sizes.background, sizes.windows[0]);
        let normal = Init::Normal(POSITION_DEVIATION);
        let blocks = sizes.plan().into_iter().enumerate();
        Ok(Self {
            patch_embed: PatchEmbedding {
                projection: Projection::new(&params.child("patch_embed.projection"), width, sizes.patch),
            },
            pos_embed: params.param("pos_embed", [1, width, rows, columns], normal),
            pos_embed_window: params.param("pos_embed_window", [1, width, window, window], normal),
            blocks: blocks.map(|(i, block)| Block::new(&params.child("blocks").child(i), block)).collect(),
        })
    }

    /// # Shapes
    /// * `pixels`: `[batch, 3, height, width]`; the patches must fill whole windows of the first stage
    /// * result: `[batch, rows, columns, channels]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let map = self.patch_embed.projection.forward(pixels); // [batch, channels, rows, columns]
        let [_, _, rows, columns] = map.dims();
        let window = self.pos_embed_window.val();
        let [_, _, tall, wide] = window.dims();
        let positions = Resampling::Bicubic.resize(self.pos_embed.val(), [rows, columns]);
        let map = map + positions + window.repeat(&[1, 1, rows / tall, columns / wide]);
        self.blocks.iter().fold(map.permute([0, 2, 3, 1]), |map, block| block.forward(map))
    }
}

/// Holds the projection under its published name.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// The convolution.
    pub projection: Projection,
}

/// A convolution over pixels.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[out, 3, side, side]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
    stride: usize,
    padding: usize,
}

impl Projection {
    fn new(params: &ParamBuilder, outputs: usize, [side, stride, padding]: [usize; 3]) -> Self {
        let weight = params.param("weight", [outputs, 3, side, side], Init::FanIn);
        Self { weight, bias: params.param("bias", [outputs], Init::Zeros), stride, padding }
    }

    fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1, 1], 1);
        conv2d(pixels, self.weight.val(), Some(self.bias.val()), options)
    }
}

#[derive(Debug, Clone, Copy)]
struct BlockSizes {
    inputs: usize,
    outputs: usize,
    heads: usize,
    window: usize,
    is_pooled: bool,
    hidden: usize,
}

/// A transformer block, which may change width and pool its map by two.
#[derive(Module, Debug)]
pub struct Block {
    layer_norm1: LayerNorm,
    attn: WindowAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
    proj: Option<Linear>,
    window: usize,
    is_pooled: bool,
}

impl Block {
    fn new(params: &ParamBuilder, sizes: BlockSizes) -> Self {
        let BlockSizes { inputs, outputs, heads, window, is_pooled, hidden } = sizes;
        let linear = |name: &str, inputs, outputs| Linear::new(&params.child(name), inputs, outputs);
        Self {
            layer_norm1: LayerNorm::new(&params.child("layer_norm1"), inputs, NORM_EPS),
            attn: WindowAttention {
                qkv: linear("attn.qkv", inputs, 3 * outputs),
                proj: linear("attn.proj", outputs, outputs),
                heads,
                is_pooled,
            },
            layer_norm2: LayerNorm::new(&params.child("layer_norm2"), outputs, NORM_EPS),
            mlp: Mlp {
                proj_in: linear("mlp.proj_in", outputs, hidden),
                proj_out: linear("mlp.proj_out", hidden, outputs),
            },
            proj: (inputs != outputs).then(|| linear("proj", inputs, outputs)),
            window,
            is_pooled,
        }
    }

    /// # Shapes
    /// * `map`: `[batch, height, width, in]`
    /// * result: `[batch, height, width, out]`, both sides halved where the block pools
    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let normed = self.layer_norm1.forward(map.clone());
        let shortcut = match &self.proj {
            Some(proj) if self.is_pooled => halve(proj.forward(normed.clone())),
            Some(proj) => proj.forward(normed.clone()),
            None => map,
        };
        let [_, height, width, _] = shortcut.dims();
        let (windows, layout) = cut(normed, self.window);
        let map = shortcut + join(self.attn.forward(windows), layout, [height, width]);
        map.clone() + self.mlp.forward(self.layer_norm2.forward(map))
    }
}

/// Attention of every token of a window with every other.
#[derive(Module, Debug)]
struct WindowAttention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
    is_pooled: bool,
}

impl WindowAttention {
    /// # Shapes
    /// * `windows`: `[count, height, width, in]`
    /// * result: `[count, height, width, out]`, both sides halved where queries are pooled
    fn forward(&self, windows: Tensor<4>) -> Tensor<4> {
        let qkv = self.qkv.forward(windows);
        let channels = qkv.dims()[3] / 3;
        let [q, k, v] = [0, 1, 2].map(|part| qkv.clone().narrow(3, part * channels, channels));
        let q = if self.is_pooled { halve(q) } else { q };
        let [count, height, width, _] = q.dims();
        let heads = |map: Tensor<4>| {
            let [count, height, width, channels] = map.dims();
            map.reshape([count, height * width, self.heads, channels / self.heads]).swap_dims(1, 2)
        };
        let attended = ops::attention(heads(q), heads(k), heads(v)); // [count, heads, tokens, head_dim]
        self.proj.forward(attended.swap_dims(1, 2).reshape([count, height, width, channels]))
    }
}

#[derive(Module, Debug)]
struct Mlp {
    proj_in: Linear,
    proj_out: Linear,
}

impl Mlp {
    fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        self.proj_out.forward(gelu(self.proj_in.forward(map)))
    }
}

/// The largest of each two by two tokens, channel by channel; an odd last row or column is dropped.
///
/// # Shapes
/// * `map`: `[batch, height, width, channels]`; result: `[batch, height / 2, width / 2, channels]`
fn halve(map: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions::new([2, 2]);
    max_pool2d(map.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
}
