//! The network of JiT.
#![allow(non_snake_case)] // parameter names are the official checkpoints'

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::Tensor;
use realign::erase::At;
use realign::nn::{
    Embedding, Init, Linear, ParamBuilder, PatchEmbed, RmsNorm, RotaryTable, TimestepEmbedder, sincos_position_table,
    unpatchify,
};
use realign::ops;
use realign::plugin::{Backbone, BackboneContext, BackboneInput, BackboneOutput, Condition, PatchGrid};

use super::config::{JiTConfig, Sizes};

const EPS: f64 = 1e-6; // of every RMSNorm

/// The network. Computes in the precision of its parameters.
#[derive(Module, Debug)]
pub struct JiT {
    pos_embed: Param<Tensor<3>>,
    in_context_posemb: Option<Param<Tensor<3>>>,
    x_embedder: Bottleneck,
    t_embedder: TimestepEmbedder,
    r_embedder: Option<TimestepEmbedder>,
    y_embedder: Labels,
    blocks: Vec<Block>,
    final_layer: FinalLayer,
    #[module(skip)]
    rotation: RotaryTable,
    #[module(skip)]
    rotation_with_context: RotaryTable,
    #[module(skip)]
    grid: PatchGrid,
    patch_size: usize,
    context_start: usize,
    recomputes: bool,
}

/// Patches to tokens through a narrow layer; the second is a convolution of one pixel.
#[derive(Module, Debug)]
struct Bottleneck {
    proj1: PatchEmbed,
    proj2: PatchEmbed,
}

#[derive(Module, Debug)]
struct Labels {
    embedding_table: Embedding,
}

#[derive(Module, Debug)]
struct Block {
    norm1: RmsNorm,
    attn: Attention,
    norm2: RmsNorm,
    mlp: SwiGlu,
    adaLN_modulation: At<1, Linear>,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    proj: Linear,
    num_heads: usize,
}

#[derive(Module, Debug)]
struct SwiGlu {
    w12: Linear,
    w3: Linear,
}

#[derive(Module, Debug)]
struct FinalLayer {
    norm_final: RmsNorm,
    linear: Linear,
    adaLN_modulation: At<1, Linear>,
}

/// Cosines and sines of the rotary embedding, `[tokens, head_dim / 2]`.
type Rotation = [Tensor<2>; 2];

impl JiT {
    pub(super) fn new(
        config: &JiTConfig,
        sizes: Sizes,
        grid: PatchGrid,
        num_classes: usize,
        ctx: &BackboneContext,
        params: &ParamBuilder,
    ) -> Self {
        let (d, patch_size, channels) = (sizes.hidden_size, sizes.patch_size, ctx.input[0]);
        let time = |name: &str| TimestepEmbedder::new(&params.child(name), d, config.time_scale);
        let table = params.child("y_embedder.embedding_table");
        let (embed, bottleneck) = (params.child("x_embedder"), sizes.bottleneck_size);
        let num_context = config.num_context_tokens;
        let context =
            (num_context > 0).then(|| params.param("in_context_posemb", [1, num_context, d], Init::Normal(0.02)));
        let head_dim = d / sizes.num_heads;
        Self {
            pos_embed: params.constant([1, grid.tokens(), d], move || sincos_position_table(grid, d)),
            in_context_posemb: context,
            x_embedder: Bottleneck {
                proj1: PatchEmbed::without_bias(&embed.child("proj1"), channels, bottleneck, patch_size),
                proj2: PatchEmbed::new(&embed.child("proj2"), bottleneck, d, 1),
            },
            t_embedder: time("t_embedder"),
            r_embedder: ctx.has_interval.then(|| time("r_embedder")),
            y_embedder: Labels { embedding_table: Embedding::new(&table, num_classes + 1, d, Init::Normal(0.02)) },
            blocks: (0..sizes.depth).map(|n| Block::new(&params.child("blocks").child(n), sizes)).collect(),
            final_layer: FinalLayer::new(&params.child("final_layer"), d, patch_size * patch_size * channels),
            rotation: RotaryTable::new(grid, head_dim, 0),
            rotation_with_context: RotaryTable::new(grid, head_dim, num_context),
            grid,
            patch_size,
            context_start: sizes.context_start,
            recomputes: ctx.recomputes,
        }
    }

    /// Embeddings of the label, and of label, time and interval together, `[batch, hidden_size]` each.
    fn embed_condition(&self, input: &BackboneInput<'_>) -> (Tensor<2>, Tensor<2>) {
        let mut c = self.t_embedder.forward(input.times.t.clone());
        if let Some(embedder) = &self.r_embedder {
            let t = input.times.t.clone();
            // An instant is the empty interval: its embedding is that of zero, not nothing.
            let r = input.times.r.clone().unwrap_or_else(|| t.clone());
            c = c + embedder.forward(t - r);
        }
        let label = match &input.condition {
            Condition::Labels(labels) => self.y_embedder.embedding_table.forward(labels.clone()),
            // Refused when the network is built.
            Condition::Text(_) => c.zeros_like(),
        };
        (label.clone(), c + label)
    }

    /// The label's tokens, `[batch, num_context_tokens, hidden_size]`.
    fn context(&self, label: Tensor<2>) -> Option<Tensor<3>> {
        let positions = self.in_context_posemb.as_ref()?.val();
        Some(label.unsqueeze_dim::<3>(1) + positions)
    }
}

impl Backbone for JiT {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        let (label, c) = self.embed_condition(&input);
        let c = ops::silu(c);
        let device = input.x.device();
        let mut x = self.x_embedder.proj2.project(self.x_embedder.proj1.forward(input.x)) + self.pos_embed.val();
        let [_, num_patches, _] = x.dims();
        let mut context = self.context(label);
        let mut rotation = self.rotation.tensors(&device);
        let mut taps = Vec::with_capacity(input.taps.len());
        for (n, block) in self.blocks.iter().enumerate() {
            if n == self.context_start
                && let Some(context) = context.take()
            {
                x = Tensor::cat(vec![context, x], 1);
                rotation = self.rotation_with_context.tensors(&device);
            }
            let modulation = block.adaLN_modulation.forward(c.clone());
            let [cos, sin] = rotation.clone();
            x = match self.recomputes {
                true => ops::recomputed(block, (x, modulation, cos, sin), |block, (x, modulation, cos, sin)| {
                    block.forward(x, modulation, [cos, sin])
                }),
                false => block.forward(x, modulation, [cos, sin]),
            };
            if input.taps.contains(&(n + 1)) {
                taps.push(last_tokens(x.clone(), num_patches));
            }
        }
        let x = self.final_layer.forward(last_tokens(x, num_patches), c);
        BackboneOutput { prediction: unpatchify(x, self.grid, self.patch_size), taps }
    }
}

/// The patches' tokens, behind those of the label.
fn last_tokens(x: Tensor<3>, count: usize) -> Tensor<3> {
    let [_, tokens, _] = x.dims();
    if tokens == count { x } else { x.narrow(1, tokens - count, count) }
}

impl Block {
    fn new(params: &ParamBuilder, sizes: Sizes) -> Self {
        let (d, num_heads) = (sizes.hidden_size, sizes.num_heads);
        let linear = |name: &str, inputs, outputs| Linear::new(&params.child(name), inputs, outputs);
        let norm = |name: &str, channels| RmsNorm::new(&params.child(name), channels, EPS);
        let modulation = Linear::with_init(&params.child("adaLN_modulation.1"), d, 6 * d, Init::Zeros);
        Self {
            norm1: norm("norm1", d),
            attn: Attention {
                qkv: linear("attn.qkv", d, 3 * d),
                q_norm: norm("attn.q_norm", d / num_heads),
                k_norm: norm("attn.k_norm", d / num_heads),
                proj: linear("attn.proj", d, d),
                num_heads,
            },
            norm2: norm("norm2", d),
            mlp: SwiGlu { w12: linear("mlp.w12", d, 2 * sizes.mlp_size), w3: linear("mlp.w3", sizes.mlp_size, d) },
            adaLN_modulation: At(modulation),
        }
    }

    /// `x`: `[batch, tokens, hidden_size]`, `modulation`: shifts, scales and gates, `[batch, 6 · hidden_size]`.
    fn forward(&self, x: Tensor<3>, modulation: Tensor<2>, rotation: Rotation) -> Tensor<3> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = ops::chunk(modulation);
        let (x, h) = self.norm1.forked(x, shift1, scale1);
        let x = ops::gated_residual(x, gate1, self.attn.forward(h, rotation));
        let (x, h) = self.norm2.forked(x, shift2, scale2);
        ops::gated_residual(x, gate2, self.mlp.forward(h))
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>, rotation: Rotation) -> Tensor<3> {
        let weights = [&self.q_norm, &self.k_norm].map(|norm| norm.weight.val());
        let qkv = ops::rotary_qk_norm(self.qkv.hidden(x), self.num_heads, weights, rotation, EPS);
        self.proj.hidden(ops::attention_packed(qkv, self.num_heads))
    }
}

impl SwiGlu {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.w3.hidden(ops::swiglu(self.w12.hidden(x)))
    }
}

impl FinalLayer {
    fn new(params: &ParamBuilder, d: usize, outputs: usize) -> Self {
        let modulation = Linear::with_init(&params.child("adaLN_modulation.1"), d, 2 * d, Init::Zeros);
        let linear = Linear::with_init(&params.child("linear"), d, outputs, Init::Zeros);
        let norm_final = RmsNorm::new(&params.child("norm_final"), d, EPS);
        Self { norm_final, linear, adaLN_modulation: At(modulation) }
    }

    fn forward(&self, x: Tensor<3>, c: Tensor<2>) -> Tensor<3> {
        let [shift, scale] = ops::chunk(self.adaLN_modulation.forward(c));
        self.linear.forward(self.norm_final.modulated(x, shift, scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::{Device, Distribution};
    use realign::erase::Slot;
    use realign::plugin::{BackboneConfig, BackboneKind, ConditionSpec, Times};
    use realign::weights::state_dict;

    fn network(num_context_tokens: usize) -> Slot<BackboneKind> {
        let config = JiTConfig {
            size: None,
            hidden_size: Some(24),
            depth: Some(3),
            num_heads: Some(3),
            patch_size: Some(5),
            bottleneck_size: Some(7),
            context_start: Some(1),
            num_context_tokens,
            ..Default::default()
        };
        let condition = ConditionSpec::Labels { num_classes: 7 };
        let ctx = BackboneContext { input: [3, 20, 35], condition, has_interval: false, recomputes: false };
        Slot::new(config.build(&ctx, &ParamBuilder::new(&Device::flex(), 1)).unwrap())
    }

    #[test]
    fn taps_hold_patches_alone_on_an_oblong_grid_and_the_output_starts_at_zero() {
        let device = Device::flex();
        for num_context_tokens in [0, 4] {
            let x = Tensor::random([2, 3, 20, 35], Distribution::Normal(0.0, 1.0), &device);
            let times = Times::at(Tensor::from_floats([0.3, 0.9], &device));
            let condition = Condition::labels(&[0, 7], &device);
            let output = network(num_context_tokens).forward(BackboneInput { x, times, condition, taps: &[1, 3] });
            assert_eq!(output.prediction.dims(), [2, 3, 20, 35]);
            assert_eq!(output.prediction.abs().max().into_scalar::<f32>(), 0.0);
            assert!(output.taps.iter().all(|tap| tap.dims() == [2, 28, 24]));
            // Every block is the identity at initialization.
            let moved = (output.taps[0].clone() - output.taps[1].clone()).abs().max();
            assert_eq!(moved.into_scalar::<f32>(), 0.0);
        }
    }

    #[test]
    fn parameters_have_the_published_names() {
        let names = state_dict(&network(4));
        for name in [
            "in_context_posemb",
            "x_embedder.proj1.weight",
            "x_embedder.proj2.bias",
            "blocks.2.attn.q_norm.weight",
            "blocks.0.norm1.weight",
            "blocks.1.mlp.w12.bias",
            "final_layer.norm_final.weight",
        ] {
            assert!(names.contains_key(name), "{name}");
        }
        assert_eq!(names["x_embedder.proj2.weight"].shape, [24, 7, 1, 1]);
        assert!(!names.contains_key("x_embedder.proj1.bias"));
    }
}
