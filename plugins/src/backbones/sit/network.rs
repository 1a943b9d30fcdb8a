//! The network of SiT.
#![allow(non_snake_case)] // parameter names are the official checkpoints'

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::Tensor;
use realign::erase::At;
use realign::nn::{
    Embedding, Init, LayerNorm, Linear, ParamBuilder, PatchEmbed, TimestepEmbedder, sincos_position_table, unpatchify,
};
use realign::ops;
use realign::plugin::{Backbone, BackboneContext, BackboneInput, BackboneOutput, Condition, PatchGrid};

use super::config::{SiTConfig, Sizes};

const EPS: f64 = 1e-6; // of the norms without parameters
const QK_EPS: f64 = 1e-5; // of the optional norms of queries and keys: PyTorch's default

/// The network. Computes in the precision of its parameters.
#[derive(Module, Debug)]
pub struct SiT {
    pos_embed: Param<Tensor<3>>,
    x_embedder: Named<PatchEmbed>,
    t_embedder: TimestepEmbedder,
    r_embedder: Option<TimestepEmbedder>,
    y_embedder: Labels,
    blocks: Vec<Block>,
    final_layer: FinalLayer,
    #[module(skip)]
    grid: PatchGrid,
    patch_size: usize,
    time_reversed: bool,
    recomputes: bool,
}

/// The patch embedding lies under `x_embedder.proj`.
#[derive(Module, Debug)]
struct Named<M: Module> {
    proj: M,
}

#[derive(Module, Debug)]
struct Labels {
    embedding_table: Embedding,
}

#[derive(Module, Debug)]
struct Block {
    attn: Attention,
    mlp: Mlp,
    adaLN_modulation: At<1, Linear>,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    q_norm: Option<LayerNorm>,
    k_norm: Option<LayerNorm>,
    proj: Linear,
    num_heads: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

#[derive(Module, Debug)]
struct FinalLayer {
    linear: Linear,
    adaLN_modulation: At<1, Linear>,
}

impl SiT {
    pub(super) fn new(
        config: &SiTConfig,
        sizes: Sizes,
        grid: PatchGrid,
        num_classes: usize,
        ctx: &BackboneContext,
        params: &ParamBuilder,
    ) -> Self {
        let (d, patch_size, channels) = (sizes.hidden_size, sizes.patch_size, ctx.input[0]);
        let time = |name: &str| TimestepEmbedder::new(&params.child(name), d, config.time_scale);
        let patches = PatchEmbed::new(&params.child("x_embedder.proj"), channels, d, patch_size);
        let table = params.child("y_embedder.embedding_table");
        let block = |n: usize| Block::new(&params.child("blocks").child(n), sizes, config.qk_norm);
        Self {
            pos_embed: params.constant([1, grid.tokens(), d], move || sincos_position_table(grid, d)),
            x_embedder: Named { proj: patches },
            t_embedder: time("t_embedder"),
            r_embedder: ctx.has_interval.then(|| time("r_embedder")),
            y_embedder: Labels { embedding_table: Embedding::new(&table, num_classes + 1, d, Init::Normal(0.02)) },
            blocks: (0..sizes.depth).map(block).collect(),
            final_layer: FinalLayer::new(&params.child("final_layer"), d, patch_size * patch_size * channels),
            grid,
            patch_size,
            time_reversed: config.time_reversed,
            recomputes: ctx.recomputes,
        }
    }

    /// Sum of the embeddings of time, interval and label, `[batch, hidden_size]`.
    fn embed_condition(&self, input: &BackboneInput<'_>) -> Tensor<2> {
        let t = input.times.t.clone();
        let mut c = self.t_embedder.forward(if self.time_reversed { 1.0 - t } else { t });
        if let Some(embedder) = &self.r_embedder {
            let t = input.times.t.clone();
            // An instant is the empty interval: its embedding is that of zero, not nothing.
            let r = input.times.r.clone().unwrap_or_else(|| t.clone());
            c = c + embedder.forward(t - r);
        }
        match &input.condition {
            Condition::Labels(labels) => c + self.y_embedder.embedding_table.forward(labels.clone()),
            // Refused when the network is built.
            Condition::Text(_) => c,
        }
    }
}

impl SiT {
    /// The tokens after the first `depth` blocks, the condition of all, and the wanted tokens on the way.
    fn tokens(&self, input: BackboneInput<'_>, depth: usize) -> (Tensor<3>, Tensor<2>, Vec<Tensor<3>>) {
        let c = ops::silu(self.embed_condition(&input));
        let mut x = self.x_embedder.proj.forward(input.x) + self.pos_embed.val();
        let mut taps = Vec::with_capacity(input.taps.len());
        for (n, block) in self.blocks.iter().take(depth).enumerate() {
            let modulation = block.adaLN_modulation.forward(c.clone());
            x = match self.recomputes {
                true => ops::recomputed(block, (x, modulation), |block, (x, modulation)| block.forward(x, modulation)),
                false => block.forward(x, modulation),
            };
            if input.taps.contains(&(n + 1)) {
                taps.push(x.clone());
            }
        }
        (x, c, taps)
    }
}

impl Backbone for SiT {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        let (x, c, taps) = self.tokens(input, self.blocks.len());
        let prediction = unpatchify(self.final_layer.forward(x, c), self.grid, self.patch_size);
        BackboneOutput { prediction: if self.time_reversed { -prediction } else { prediction }, taps }
    }

    fn taps(&self, input: BackboneInput<'_>) -> Vec<Tensor<3>> {
        let deepest = input.taps.iter().copied().max().unwrap_or(0);
        self.tokens(input, deepest).2
    }
}

impl Block {
    fn new(params: &ParamBuilder, sizes: Sizes, has_qk_norm: bool) -> Self {
        let (d, num_heads) = (sizes.hidden_size, sizes.num_heads);
        let linear = |name: &str, inputs, outputs| Linear::new(&params.child(name), inputs, outputs);
        let norm = |name: &str| has_qk_norm.then(|| LayerNorm::new(&params.child(name), d / num_heads, QK_EPS));
        let modulation = Linear::with_init(&params.child("adaLN_modulation.1"), d, 6 * d, Init::Zeros);
        Self {
            attn: Attention {
                qkv: linear("attn.qkv", d, 3 * d),
                q_norm: norm("attn.q_norm"),
                k_norm: norm("attn.k_norm"),
                proj: linear("attn.proj", d, d),
                num_heads,
            },
            mlp: Mlp { fc1: linear("mlp.fc1", d, sizes.mlp_size), fc2: linear("mlp.fc2", sizes.mlp_size, d) },
            adaLN_modulation: At(modulation),
        }
    }

    /// `x`: `[batch, tokens, hidden_size]`, `modulation`: shifts, scales and gates, `[batch, 6 · hidden_size]`.
    fn forward(&self, x: Tensor<3>, modulation: Tensor<2>) -> Tensor<3> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = ops::chunk(modulation);
        let (x, h) = ops::forked_layer_norm(x, shift1, scale1, EPS);
        let x = ops::gated_residual(x, gate1, self.attn.forward(h));
        let (x, h) = ops::forked_layer_norm(x, shift2, scale2, EPS);
        ops::gated_residual(x, gate2, self.mlp.forward(h))
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let qkv = self.qkv.hidden(x);
        let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) else {
            return self.proj.hidden(ops::attention_packed(qkv, self.num_heads));
        };
        let [batch, tokens, channels] = qkv.dims();
        let [q, k, v] = ops::unpack_heads(qkv, self.num_heads); // [batch, heads, tokens, head_dim]
        let h = ops::attention(q_norm.forward(q), k_norm.forward(k), v);
        self.proj.hidden(h.swap_dims(1, 2).reshape([batch, tokens, channels / 3]))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.hidden(ops::gelu_tanh(self.fc1.hidden(x)))
    }
}

impl FinalLayer {
    fn new(params: &ParamBuilder, d: usize, outputs: usize) -> Self {
        let modulation = Linear::with_init(&params.child("adaLN_modulation.1"), d, 2 * d, Init::Zeros);
        let linear = Linear::with_init(&params.child("linear"), d, outputs, Init::Zeros);
        Self { linear, adaLN_modulation: At(modulation) }
    }

    fn forward(&self, x: Tensor<3>, c: Tensor<2>) -> Tensor<3> {
        let [shift, scale] = ops::chunk(self.adaLN_modulation.forward(c));
        self.linear.forward(ops::modulated_layer_norm(x, shift, scale, EPS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::{Device, Distribution};
    use realign::erase::Slot;
    use realign::plugin::{BackboneConfig, BackboneKind, ConditionSpec, Times};
    use realign::weights::{HostTensor, StateDict, load_state_dict, parameters, state_dict};

    fn tiny() -> SiTConfig {
        let sizes = |hidden, depth, heads, patch| (Some(hidden), Some(depth), Some(heads), Some(patch));
        let (hidden_size, depth, num_heads, patch_size) = sizes(24, 3, 3, 2);
        SiTConfig { size: None, hidden_size, depth, num_heads, patch_size, ..Default::default() }
    }

    const CTX: BackboneContext = BackboneContext {
        input: [3, 10, 14],
        condition: ConditionSpec::Labels { num_classes: 7 },
        has_interval: false,
        recomputes: false,
    };

    fn slot(config: &SiTConfig, has_interval: bool) -> Slot<BackboneKind> {
        let ctx = BackboneContext { has_interval, ..CTX };
        Slot::new(config.build(&ctx, &ParamBuilder::new(&Device::flex(), 1)).unwrap())
    }

    fn forward(taps: &[usize]) -> BackboneOutput {
        let device = Device::flex();
        let network = slot(&tiny(), false);
        let x = Tensor::random([2, 3, 10, 14], Distribution::Normal(0.0, 1.0), &device);
        let times = Times::at(Tensor::from_floats([0.3, 0.9], &device));
        network.forward(BackboneInput { x, times, condition: Condition::labels(&[0, 7], &device), taps })
    }

    #[test]
    fn the_output_is_zero_at_initialization_on_an_oblong_grid() {
        let output = forward(&[]);
        assert_eq!(output.prediction.dims(), [2, 3, 10, 14]);
        assert_eq!(output.prediction.abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn taps_come_in_order_and_every_block_is_the_identity_at_initialization() {
        let output = forward(&[1, 3]);
        assert_eq!(output.taps.len(), 2);
        assert_eq!(output.taps[0].dims(), [2, 35, 24]);
        let moved = (output.taps[0].clone() - output.taps[1].clone()).abs().max();
        assert_eq!(moved.into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn taps_alone_are_those_of_the_whole_pass() {
        let device = Device::flex();
        let network = slot(&tiny(), false);
        let input = || BackboneInput {
            x: Tensor::<4>::ones([2, 3, 10, 14], &device),
            times: Times::at(Tensor::from_floats([0.3, 0.9], &device)),
            condition: Condition::labels(&[0, 7], &device),
            taps: &[2],
        };
        let (alone, whole) = (network.taps(input()), network.forward(input()).taps);
        assert_eq!(alone.len(), 1);
        assert_eq!((alone[0].clone() - whole[0].clone()).abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn optional_parts_add_their_names_and_leave_the_other_values_alone() {
        let plain = state_dict(&slot(&tiny(), false));
        let all = state_dict(&slot(&SiTConfig { qk_norm: true, ..tiny() }, true));
        let added: Vec<&String> = all.keys().filter(|name| !plain.contains_key(*name)).collect();
        assert_eq!(added.len(), 3 * 4 + 4, "{added:?}");
        assert!(all.contains_key("blocks.2.attn.k_norm.bias") && all.contains_key("r_embedder.mlp.2.weight"));
        for (name, tensor) in &plain {
            assert_eq!(tensor.values, all[name].values, "{name}");
        }
    }

    #[test]
    fn reversed_time_is_the_same_network_at_one_minus_t_with_its_velocity_turned_around() {
        let device = Device::flex();
        let shake = |tensor: HostTensor| HostTensor {
            values: (0..tensor.values.len()).map(|i| (i as f32 * 0.7).sin() * 0.2).collect(),
            ..tensor
        };
        let dict: StateDict = state_dict(&slot(&tiny(), false)).into_iter().map(|(n, v)| (n, shake(v))).collect();
        let predict = |time_reversed: bool, t: [f32; 2]| {
            let network = slot(&SiTConfig { time_reversed, time_scale: 100.0, ..tiny() }, false);
            let network = load_state_dict(network, dict.clone()).unwrap();
            let x = Tensor::<4>::ones([2, 3, 10, 14], &device);
            let times = Times::at(Tensor::from_floats(t, &device));
            let condition = Condition::labels(&[0, 7], &device);
            network.forward(BackboneInput { x, times, condition, taps: &[] }).prediction
        };
        let gap = |a: Tensor<4>, b: Tensor<4>| (a - b).abs().max().into_scalar::<f32>();
        assert_eq!(gap(predict(true, [0.25, 0.5]), -predict(false, [0.75, 0.5])), 0.0);
        assert!(gap(predict(true, [0.25, 0.5]), -predict(false, [0.25, 0.5])) > 1e-4);
    }

    #[test]
    fn the_position_table_alone_is_frozen() {
        let params = ParamBuilder::new(&Device::flex().autodiff(), 1);
        let network = Slot::<BackboneKind>::new(tiny().build(&CTX, &params).unwrap());
        let frozen = parameters(&network).into_iter().filter(|param| !param.is_trainable);
        assert_eq!(
            frozen.map(|param| (param.name, param.shape)).collect::<Vec<_>>(),
            [("pos_embed".to_string(), vec![1, 35, 24])]
        );
    }

    #[test]
    fn an_instant_is_the_empty_interval_and_an_interval_is_seen() {
        let device = Device::flex();
        // Gates and the last layer start at zero and would hide the condition.
        let shake = |tensor: HostTensor| HostTensor {
            values: (0..tensor.values.len()).map(|i| (i as f32 * 0.7).sin() * 0.2).collect(),
            ..tensor
        };
        let dict: StateDict = state_dict(&slot(&tiny(), true)).into_iter().map(|(n, v)| (n, shake(v))).collect();
        let network = load_state_dict(slot(&tiny(), true), dict).unwrap();
        let predict = |r: Option<[f32; 2]>| {
            let x = Tensor::<4>::ones([2, 3, 10, 14], &device);
            let times =
                Times { t: Tensor::from_floats([0.3, 0.9], &device), r: r.map(|r| Tensor::from_floats(r, &device)) };
            let condition = Condition::labels(&[0, 7], &device);
            network.forward(BackboneInput { x, times, condition, taps: &[] }).prediction
        };
        let gap = |a: Tensor<4>, b: Tensor<4>| (a - b).abs().max().into_scalar::<f32>();
        assert_eq!(gap(predict(None), predict(Some([0.3, 0.9]))), 0.0);
        assert!(gap(predict(None), predict(Some([0.1, 0.2]))) > 1e-4);
    }
}
