//! The network of MMDiT.
#![allow(non_snake_case)] // parameter names are the official checkpoints'

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::Tensor;
use realign::erase::At;
use realign::nn::{Init, Linear, ParamBuilder, PatchEmbed, TimestepEmbedder, sincos_position_table, unpatchify};
use realign::ops;
use realign::plugin::{Backbone, BackboneContext, BackboneInput, BackboneOutput, Condition, PatchGrid};

use super::config::{MmDitConfig, Sizes};
use super::stream::{EPS, Stream, linear_or_zero, modulation};

/// The network. Computes in the precision of its parameters.
#[derive(Module, Debug)]
pub struct MmDit {
    pos_embed: Param<Tensor<3>>,
    x_embedder: Named<PatchEmbed>,
    t_embedder: TimestepEmbedder,
    r_embedder: Option<TimestepEmbedder>,
    context_embedder: Linear,
    register: Option<Param<Tensor<3>>>,
    joint_blocks: Vec<JointBlock>,
    final_layer: FinalLayer,
    #[module(skip)]
    grid: PatchGrid,
    patch_size: usize,
    position_side: usize,
    recomputes: bool,
}

/// The patch embedding lies under `x_embedder.proj`.
#[derive(Module, Debug)]
struct Named<M: Module> {
    proj: M,
}

#[derive(Module, Debug)]
struct JointBlock {
    context_block: Stream,
    x_block: Stream,
    num_heads: usize,
}

#[derive(Module, Debug)]
struct FinalLayer {
    linear: Linear,
    adaLN_modulation: At<1, Linear>,
}

impl MmDit {
    pub(super) fn new(config: &MmDitConfig, sizes: Sizes, ctx: &BackboneContext, params: &ParamBuilder) -> Self {
        let (d, patch_size, channels) = (sizes.hidden_size, sizes.patch_size, ctx.input[0]);
        let time = |name: &str| TimestepEmbedder::as_pytorch(&params.child(name), d, config.time_scale);
        let table = PatchGrid::new(config.position_side, config.position_side);
        let block = |n: usize| {
            let (params, is_last) = (params.child("joint_blocks").child(n), n + 1 == sizes.depth);
            let stream = |name: &str, ends_early| Stream::new(config, sizes, ends_early, &params.child(name));
            JointBlock {
                context_block: stream("context_block", is_last),
                x_block: stream("x_block", false),
                num_heads: sizes.num_heads,
            }
        };
        let last = params.child("final_layer");
        let outputs = patch_size * patch_size * channels;
        Self {
            pos_embed: params.constant([1, table.tokens(), d], move || sincos_position_table(table, d)),
            x_embedder: Named {
                proj: PatchEmbed::as_pytorch(&params.child("x_embedder.proj"), channels, d, patch_size),
            },
            t_embedder: time("t_embedder"),
            r_embedder: ctx.has_interval.then(|| time("r_embedder")),
            context_embedder: Linear::as_pytorch(&params.child("context_embedder"), sizes.text_channels, d),
            register: (config.num_registers > 0)
                .then(|| params.param("register", [1, config.num_registers, d], Init::Normal(1.0))),
            joint_blocks: (0..sizes.depth).map(block).collect(),
            final_layer: FinalLayer {
                linear: linear_or_zero(config.zero_init_adaln, d, outputs, &last.child("linear")),
                adaLN_modulation: At(modulation(config, d, 2, &last.child("adaLN_modulation.1"))),
            },
            grid: sizes.grid,
            patch_size,
            position_side: config.position_side,
            recomputes: ctx.recomputes,
        }
    }

    /// The prediction; `watch` sees the tokens of text and image after every block, counted from 1.
    ///
    /// # Shapes
    /// * text: `[batch, registers + text tokens, hidden_size]`; the last block leaves it as it was
    /// * image: `[batch, tokens, hidden_size]`
    pub fn watched(&self, input: BackboneInput<'_>, mut watch: impl FnMut(usize, &Tensor<3>, &Tensor<3>)) -> Tensor<4> {
        let c = ops::silu(self.embed_times(&input));
        let mut context = self.context(input.condition);
        let mut x = self.x_embedder.proj.forward(input.x) + self.positions();
        for (block, n) in self.joint_blocks.iter().zip(1..) {
            let modulations = [&block.context_block, &block.x_block].map(|stream| stream.modulation(c.clone()));
            (context, x) = match self.recomputes {
                true => block.recomputed(context, x, modulations),
                false => block.forward(context, x, modulations),
            };
            watch(n, &context, &x);
        }
        unpatchify(self.final_layer.forward(x, c), self.grid, self.patch_size)
    }

    /// Sum of the embeddings of time and interval, `[batch, hidden_size]`.
    fn embed_times(&self, input: &BackboneInput<'_>) -> Tensor<2> {
        let t = input.times.t.clone();
        let c = self.t_embedder.forward(t.clone());
        let Some(embedder) = &self.r_embedder else { return c };
        // An instant is the empty interval: its embedding is that of zero, not nothing.
        let r = input.times.r.clone().unwrap_or_else(|| t.clone());
        c + embedder.forward(t - r)
    }

    /// The center of the position table, `[1, tokens, hidden_size]`.
    fn positions(&self) -> Tensor<3> {
        let (side, PatchGrid { rows, columns }) = (self.position_side, self.grid);
        let [_, _, d] = self.pos_embed.dims();
        self.pos_embed
            .val()
            .reshape([1, side, side, d])
            .narrow(1, (side - rows) / 2, rows)
            .narrow(2, (side - columns) / 2, columns)
            .reshape([1, rows * columns, d])
    }

    /// The text's tokens behind the registers, `[batch, registers + text tokens, hidden_size]`.
    fn context(&self, condition: Condition) -> Tensor<3> {
        let text = match condition {
            Condition::Text(text) => self.context_embedder.forward(text),
            // Refused when the network is built.
            Condition::Labels(labels) => {
                let [batch] = labels.dims();
                Tensor::zeros([batch, 1, self.pos_embed.dims()[2]], &self.pos_embed.val().device())
            }
        };
        let Some(register) = &self.register else { return text };
        let [batch, _, d] = text.dims();
        let [_, count, _] = register.dims();
        Tensor::cat(vec![register.val().expand([batch, count, d]), text], 1)
    }
}

impl Backbone for MmDit {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        let (wanted, mut taps) = (input.taps, Vec::with_capacity(input.taps.len()));
        let prediction = self.watched(input, |block, _, x| {
            if wanted.contains(&block) {
                taps.push(x.clone());
            }
        });
        BackboneOutput { prediction, taps }
    }
}

impl JointBlock {
    /// `context`, `x`: `[batch, tokens, hidden_size]` of text and image; `modulations`: those of both streams.
    fn forward(&self, context: Tensor<3>, x: Tensor<3>, modulations: [Tensor<2>; 2]) -> (Tensor<3>, Tensor<3>) {
        let [[_, num_text, _], [_, num_patches, _]] = [context.dims(), x.dims()];
        let [for_text, for_image] = modulations;
        let (context, of_text, after_text) = self.context_block.before_attention(context, for_text);
        let (x, of_image, after_image) = self.x_block.before_attention(x, for_image);
        let h = self.attend(of_text, of_image); // [batch, text tokens + patches, hidden_size]
        let context = match after_text {
            Some(after) => self.context_block.after_attention(context, h.clone().narrow(1, 0, num_text), after),
            None => context,
        };
        let x = match after_image {
            Some(after) => self.x_block.after_attention(x, h.narrow(1, num_text, num_patches), after),
            None => x,
        };
        (context, x)
    }

    /// As [`forward`](Self::forward), computed again in the backward pass.
    fn recomputed(&self, context: Tensor<3>, x: Tensor<3>, modulations: [Tensor<2>; 2]) -> (Tensor<3>, Tensor<3>) {
        let [text, image] = [context.dims(), x.dims()];
        let [for_text, for_image] = modulations;
        // In the order in which the gradients of the condition are summed without recomputation.
        let inputs = (for_text, context, x, for_image);
        let both = ops::recomputed(self, inputs, |block, (for_text, context, x, for_image)| {
            let (context, x) = block.forward(context, x, [for_text, for_image]);
            Tensor::cat(vec![context.flatten::<1>(0, 2), x.flatten::<1>(0, 2)], 0)
        });
        let [num_text, num_image] = [text, image].map(|shape| shape.iter().product::<usize>());
        let context = both.clone().narrow(0, 0, num_text).reshape(text);
        (context, both.narrow(0, num_text, num_image).reshape(image))
    }

    /// Attention of all tokens with all, the text's first; without mask, so that padding takes part.
    ///
    /// `text`, `image`: `[batch, tokens, 3 · hidden_size]`.
    fn attend(&self, text: Tensor<3>, image: Tensor<3>) -> Tensor<3> {
        if !self.x_block.has_qk_norm() {
            return ops::attention_packed(Tensor::cat(vec![text, image], 1), self.num_heads);
        }
        let [text_q, text_k, text_v] = self.context_block.heads(text); // [batch, heads, tokens, head_dim]
        let [q, k, v] = self.x_block.heads(image);
        let join = |text: Tensor<4>, image: Tensor<4>| Tensor::cat(vec![text, image], 2);
        let h = ops::attention(join(text_q, q), join(text_k, k), join(text_v, v));
        let [batch, heads, tokens, head_dim] = h.dims();
        h.swap_dims(1, 2).reshape([batch, tokens, heads * head_dim])
    }
}

impl FinalLayer {
    fn forward(&self, x: Tensor<3>, c: Tensor<2>) -> Tensor<3> {
        let [shift, scale] = ops::chunk(self.adaLN_modulation.forward(c));
        self.linear.forward(ops::modulated_layer_norm(x, shift, scale, EPS))
    }
}
