//! What the tokens of one kind, image or text, have of their own in a joint block.
#![allow(non_snake_case)] // parameter names are the official checkpoints'

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::Tensor;
use realign::erase::At;
use realign::nn::{Init, Linear, ParamBuilder};
use realign::ops;

use super::config::{MmDitConfig, MmDitMlp, MmDitNorm, QkNorm, Sizes};

pub(super) const EPS: f64 = 1e-6; // of every norm

/// Weights of one kind of tokens. The text of the last block ends with its queries, keys and values.
#[derive(Module, Debug)]
pub(super) struct Stream {
    attn: Attention,
    mlp: Option<Mlp>,
    adaLN_modulation: At<1, Linear>,
    has_rms_norm: bool,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Option<Linear>,
    ln_q: Option<HeadNorm>,
    ln_k: Option<HeadNorm>,
    num_heads: usize,
}

/// RMSNorm, or LayerNorm where it has a bias.
#[derive(Module, Debug)]
struct HeadNorm {
    weight: Param<Tensor<1>>,
    bias: Option<Param<Tensor<1>>>,
}

/// Names `fc1`, `fc2`, or those of a SwiGLU: `w1`, `w2`, `w3`.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Option<Linear>,
    fc2: Option<Linear>,
    w1: Option<Linear>,
    w2: Option<Linear>,
    w3: Option<Linear>,
}

/// Gates and modulation of what follows the attention, `[batch, hidden_size]` each.
pub(super) struct After {
    gate1: Tensor<2>,
    shift2: Tensor<2>,
    scale2: Tensor<2>,
    gate2: Tensor<2>,
}

impl Stream {
    /// `ends_early`: nothing follows the attention.
    pub(super) fn new(config: &MmDitConfig, sizes: Sizes, ends_early: bool, params: &ParamBuilder) -> Self {
        let d = sizes.hidden_size;
        let linear = |name: &str, outputs: usize| Linear::as_pytorch(&params.child(name), d, outputs);
        let head_norm = |name: &str| HeadNorm::new(config.qk_norm, d / sizes.num_heads, &params.child(name));
        let mut qkv = linear("attn.qkv", 3 * d);
        qkv.bias = qkv.bias.filter(|_| config.qkv_bias);
        let num_modulations = if ends_early { 2 } else { 6 };
        Self {
            attn: Attention {
                qkv,
                proj: (!ends_early).then(|| linear("attn.proj", d)),
                ln_q: head_norm("attn.ln_q"),
                ln_k: head_norm("attn.ln_k"),
                num_heads: sizes.num_heads,
            },
            mlp: (!ends_early).then(|| Mlp::new(config.mlp, d, sizes.mlp_size, &params.child("mlp"))),
            adaLN_modulation: At(modulation(config, d, num_modulations, &params.child("adaLN_modulation.1"))),
            has_rms_norm: config.norm == MmDitNorm::Rms,
        }
    }

    /// Shifts, scales and gates, `[batch, 6 · hidden_size]`; of a stream that ends early one shift and scale.
    ///
    /// `c`: SiLU of the time's embedding, `[batch, hidden_size]`.
    pub(super) fn modulation(&self, c: Tensor<2>) -> Tensor<2> {
        self.adaLN_modulation.forward(c)
    }

    /// Queries, keys and values, `[batch, tokens, 3 · hidden_size]`, and what the rest of the block needs, with the stream
    /// that goes on.
    ///
    /// `x`: `[batch, tokens, hidden_size]`, `modulation`: as [`modulation`](Self::modulation) returns it.
    pub(super) fn before_attention(
        &self,
        x: Tensor<3>,
        modulation: Tensor<2>,
    ) -> (Tensor<3>, Tensor<3>, Option<After>) {
        if self.mlp.is_none() {
            let [shift, scale] = ops::chunk(modulation);
            return (x.clone(), self.attn.qkv.hidden(self.forked(x, shift, scale).1), None);
        }
        let [shift1, scale1, gate1, shift2, scale2, gate2] = ops::chunk(modulation);
        let (x, h) = self.forked(x, shift1, scale1);
        (x, self.attn.qkv.hidden(h), Some(After { gate1, shift2, scale2, gate2 }))
    }

    pub(super) fn has_qk_norm(&self) -> bool {
        self.attn.ln_q.is_some()
    }

    /// Queries, keys and values by head, the first two normalized: `[batch, heads, tokens, head_dim]` each.
    pub(super) fn heads(&self, qkv: Tensor<3>) -> [Tensor<4>; 3] {
        let normed = |norm: &Option<HeadNorm>, x: Tensor<4>| norm.as_ref().map_or(x.clone(), |norm| norm.forward(x));
        let [q, k, v] = ops::unpack_heads(qkv, self.attn.num_heads);
        [normed(&self.attn.ln_q, q), normed(&self.attn.ln_k, k), v]
    }

    /// The residual branches of attention and MLP; `h` is the attention's result, of `x`'s shape.
    pub(super) fn after_attention(&self, x: Tensor<3>, h: Tensor<3>, after: After) -> Tensor<3> {
        let (Some(proj), Some(mlp)) = (&self.attn.proj, &self.mlp) else { return x };
        let x = ops::gated_residual(x, after.gate1, proj.hidden(h));
        let (x, h) = self.forked(x, after.shift2, after.scale2);
        ops::gated_residual(x, after.gate2, mlp.forward(h))
    }

    /// A residual stream, and its modulated norm for the branch that leaves it.
    fn forked(&self, x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        if !self.has_rms_norm {
            return ops::forked_layer_norm(x, shift, scale, EPS);
        }
        let [_, _, channels] = x.dims();
        let ones = Tensor::ones([channels], &x.device());
        ops::forked_rms_norm(x, ones, shift, scale, EPS)
    }
}

/// The layer that makes `count` shifts, scales and gates.
pub(super) fn modulation(config: &MmDitConfig, d: usize, count: usize, params: &ParamBuilder) -> Linear {
    linear_or_zero(config.zero_init_adaln, d, count * d, params)
}

/// A layer that starts at zero, or as PyTorch's.
pub(super) fn linear_or_zero(is_zero: bool, inputs: usize, outputs: usize, params: &ParamBuilder) -> Linear {
    if is_zero {
        Linear::with_init(params, inputs, outputs, Init::Zeros)
    } else {
        Linear::as_pytorch(params, inputs, outputs)
    }
}

impl HeadNorm {
    fn new(kind: QkNorm, head_dim: usize, params: &ParamBuilder) -> Option<Self> {
        let bias = (kind == QkNorm::Layer).then(|| params.param("bias", [head_dim], Init::Zeros));
        (kind != QkNorm::None).then(|| Self { weight: params.param("weight", [head_dim], Init::Ones), bias })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.bias {
            Some(bias) => ops::layer_norm(x, self.weight.val(), bias.val(), EPS),
            None => ops::rms_norm(x, self.weight.val(), EPS),
        }
    }
}

impl Mlp {
    fn new(kind: MmDitMlp, d: usize, hidden: usize, params: &ParamBuilder) -> Self {
        let linear = |name: &str, inputs, outputs| Some(Linear::as_pytorch(&params.child(name), inputs, outputs));
        let without_bias = |layer: Option<Linear>| layer.map(|layer| Linear { bias: None, ..layer });
        match kind {
            MmDitMlp::Gelu => {
                let (fc1, fc2) = (linear("fc1", d, hidden), linear("fc2", hidden, d));
                Self { fc1, fc2, w1: None, w2: None, w3: None }
            }
            MmDitMlp::Swiglu => {
                let [w1, w3] = ["w1", "w3"].map(|name| without_bias(linear(name, d, hidden)));
                Self { fc1: None, fc2: None, w1, w2: without_bias(linear("w2", hidden, d)), w3 }
            }
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match (&self.fc1, &self.fc2, &self.w1, &self.w2, &self.w3) {
            (Some(fc1), Some(fc2), ..) => fc2.hidden(ops::gelu_tanh(fc1.hidden(x))),
            (_, _, Some(w1), Some(w2), Some(w3)) => w2.hidden(ops::silu(w1.forward(x.clone())) * w3.forward(x)),
            _ => x,
        }
    }
}
