//! The network: one pre-norm vision transformer that all families are settings of.

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::{Tensor, activation};
use realign::nn::{Init, LayerNorm, Linear, ParamBuilder, PatchEmbed};
use realign::ops;
use realign::plugin::PatchGrid;
use realign::weights::to_host;

use super::architecture::{Activation, Architecture, Positions, QkvBias, Rotary};
use super::places::{angles, dinov3_periods, on_grid, rotation};
use super::preprocess::Normalization;

/// The network. Parameter names are timm's and DINOv2's; f32.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    input_conditioner: Option<InputConditioner>,
    patch_embed: PatchProjection,
    cls_token: Option<Param<Tensor<3>>>,
    register_tokens: Option<Param<Tensor<3>>>,
    pos_embed: Option<Param<Tensor<3>>>,
    rope_embed: Option<Periods>,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    #[module(skip)]
    rotation: Option<Rotation>,
}

/// Mean and deviation of the pictures, as C-RADIO's file brings them.
#[derive(Module, Debug)]
struct InputConditioner {
    norm_mean: Param<Tensor<1>>,
    norm_std: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct PatchProjection {
    proj: PatchEmbed,
}

/// DINOv3's periods: its published file holds them rounded to bf16.
#[derive(Module, Debug)]
struct Periods {
    periods: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: Option<LayerScale>,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    num_heads: usize,
}

#[derive(Module, Debug)]
struct LayerScale {
    gamma: Param<Tensor<1>>,
}

/// Either `fc1` and `fc2`, or the two parts of a gated MLP in `w12` and its way back in `w3`.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Option<Linear>,
    fc2: Option<Linear>,
    w12: Option<Linear>,
    w3: Option<Linear>,
    #[module(skip)]
    activation: Activation,
}

/// Cosines and sines, and which channels are pairs.
#[derive(Debug, Clone)]
struct Rotation {
    cos: Tensor<2>,
    sin: Tensor<2>,
    rotary: Rotary,
}

/// Tokens behind the last block and norm.
///
/// # Shapes
/// * `prefix`: `[batch, prefix tokens, channels]`, the class token first where there is one
/// * `patches`: `[batch, grid.tokens(), channels]`
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Class token and registers; none where there are none.
    pub prefix: Option<Tensor<3>>,
    /// Patch tokens in row-major order.
    pub patches: Tensor<3>,
}

impl VisionTransformer {
    /// Declares the network up to block `num_blocks` with the parameters' published shapes.
    pub fn new(architecture: &Architecture, num_blocks: usize, params: &ParamBuilder) -> Self {
        let (a, d) = (architecture, architecture.hidden_size);
        let token = |name: &str, count: usize| params.param(name, [1, count, d], Init::Normal(0.02));
        let norm = |name: &str| LayerNorm::new(&params.child(name), d, a.norm_eps);
        let embed = params.child("patch_embed.proj");
        let proj = match a.patch_bias {
            true => PatchEmbed::new(&embed, 3, d, a.patch_size),
            false => PatchEmbed::without_bias(&embed, 3, d, a.patch_size),
        };
        let head_dim = a.head_dim();
        let constant = |values: [f32; 3]| params.constant([3], move || values.to_vec());
        let [mean, deviation] = Normalization::Clip.constants();
        Self {
            input_conditioner: a
                .input_conditioner
                .then(|| InputConditioner { norm_mean: constant(mean), norm_std: constant(deviation) }),
            patch_embed: PatchProjection { proj },
            cls_token: a.class_token.then(|| token("cls_token", 1)),
            register_tokens: (a.num_registers > 0).then(|| token("register_tokens", a.num_registers)),
            pos_embed: (a.positions != Positions::None).then(|| token("pos_embed", a.position_rows())),
            rope_embed: (a.rotary == Rotary::Dinov3)
                .then(|| Periods { periods: params.constant([head_dim / 4], move || dinov3_periods(head_dim)) }),
            norm_pre: a.pre_norm.then(|| norm("norm_pre")),
            blocks: (0..num_blocks).map(|n| Block::new(a, &params.child("blocks").child(n))).collect(),
            norm: a.norm.then(|| norm("norm")),
            rotation: None,
        }
    }

    /// Brings trained positions and rotary angles to the run's grid; once, before the first forward.
    pub fn on_grid(mut self, architecture: &Architecture, grid: PatchGrid) -> Self {
        let (side, positions) = (architecture.position_grid, architecture.positions);
        let resampled = |table: Param<Tensor<3>>| on_grid(table.val(), side, grid, positions).detach();
        self.pos_embed = self.pos_embed.map(|table| Param::from_tensor(resampled(table)));
        if architecture.rotary != Rotary::None {
            let periods = self.rope_embed.as_ref().map(|rope| to_host(rope.periods.val())).unwrap_or_default();
            let angles = angles(architecture, grid, &periods);
            let device = self.patch_embed.proj.weight.val().device();
            let [cos, sin] = rotation(&angles, architecture.head_dim() / 2, &device);
            self.rotation = Some(Rotation { cos, sin, rotary: architecture.rotary });
        }
        self
    }

    /// # Shapes
    /// * `pixels`: `[batch, 3, grid.rows · patch_size, grid.columns · patch_size]`, normalized
    pub fn forward(&self, pixels: Tensor<4>) -> Tokens {
        let pixels = match &self.input_conditioner {
            Some(InputConditioner { norm_mean, norm_std }) => {
                let [mean, deviation] = [norm_mean, norm_std].map(|values| values.val().reshape([1, 3, 1, 1]));
                (pixels - mean) / deviation
            }
            None => pixels,
        };
        let mut x = self.patch_embed.proj.forward(pixels);
        let [batch, num_patches, _] = x.dims();
        let repeated = |token: &Param<Tensor<3>>| token.val().repeat_dim(0, batch);
        if let Some(class_token) = &self.cls_token {
            x = Tensor::cat(vec![repeated(class_token), x], 1);
        }
        if let Some(positions) = &self.pos_embed {
            x = x + positions.val();
        }
        if let Some(registers) = &self.register_tokens {
            let patches = x.clone().narrow(1, x.dims()[1] - num_patches, num_patches);
            let behind = Tensor::cat(vec![repeated(registers), patches], 1);
            x = if self.cls_token.is_some() { Tensor::cat(vec![x.narrow(1, 0, 1), behind], 1) } else { behind };
        }
        if let Some(norm) = &self.norm_pre {
            x = norm.forward(x);
        }
        for block in &self.blocks {
            x = block.forward(x, self.rotation.as_ref());
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(x);
        }
        let num_prefix = x.dims()[1] - num_patches;
        Tokens {
            prefix: (num_prefix > 0).then(|| x.clone().narrow(1, 0, num_prefix)),
            patches: if num_prefix > 0 { x.narrow(1, num_prefix, num_patches) } else { x },
        }
    }
}

impl Block {
    fn new(a: &Architecture, params: &ParamBuilder) -> Self {
        let (d, m) = (a.hidden_size, a.mlp_size);
        let norm = |name: &str| LayerNorm::new(&params.child(name), d, a.norm_eps);
        let linear = |name: &str, inputs, outputs| Linear::new(&params.child(name), inputs, outputs);
        let scale = |name: &str| {
            a.layer_scale.then(|| LayerScale { gamma: params.child(name).param("gamma", [d], Init::Ones) })
        };
        let mut qkv = linear("attn.qkv", d, 3 * d);
        if a.qkv_bias == QkvBias::None {
            qkv.bias = None;
        }
        let is_gated = a.activation == Activation::SwiGlu;
        let plain = |name: &str, inputs, outputs| (!is_gated).then(|| linear(name, inputs, outputs));
        let gated = |name: &str, inputs, outputs| is_gated.then(|| linear(name, inputs, outputs));
        Self {
            norm1: norm("norm1"),
            attn: Attention { qkv, proj: linear("attn.proj", d, d), num_heads: a.num_heads },
            ls1: scale("ls1"),
            norm2: norm("norm2"),
            mlp: Mlp {
                fc1: plain("mlp.fc1", d, m),
                fc2: plain("mlp.fc2", m, d),
                w12: gated("mlp.w12", d, 2 * m),
                w3: gated("mlp.w3", m, d),
                activation: a.activation,
            },
            ls2: scale("ls2"),
        }
    }

    fn forward(&self, x: Tensor<3>, rotation: Option<&Rotation>) -> Tensor<3> {
        let scaled = |branch: Tensor<3>, scale: &Option<LayerScale>| match scale {
            Some(scale) => branch * scale.gamma.val().unsqueeze::<3>(),
            None => branch,
        };
        let attended = self.attn.forward(self.norm1.forward(x.clone()), rotation);
        let x = x + scaled(attended, &self.ls1);
        let mixed = self.mlp.forward(self.norm2.forward(x.clone()));
        x + scaled(mixed, &self.ls2)
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>, rotation: Option<&Rotation>) -> Tensor<3> {
        let [batch, tokens, channels] = x.dims();
        let mixed = match rotation {
            None => ops::attention_packed(self.qkv.hidden(x), self.num_heads),
            Some(Rotation { cos, sin, rotary }) => {
                let [q, k, v] = ops::unpack_heads(self.qkv.forward(x), self.num_heads);
                let turn = if *rotary == Rotary::Dinov3 { ops::rotate_halves } else { ops::rotate_pairs };
                let [q, k] = [q, k].map(|x| turn(x, cos.clone(), sin.clone()));
                ops::attention(q, k, v).swap_dims(1, 2).reshape([batch, tokens, channels])
            }
        };
        self.proj.forward(mixed)
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let layer = |x, linear: &Option<Linear>| match linear {
            Some(linear) => linear.forward(x),
            None => x,
        };
        let hidden = |x, linear: &Option<Linear>| match linear {
            Some(linear) => linear.hidden(x),
            None => x,
        };
        let x = match self.activation {
            Activation::SwiGlu => return layer(ops::swiglu(hidden(x, &self.w12)), &self.w3),
            Activation::Gelu => activation::gelu(layer(x, &self.fc1)),
            Activation::GeluTanh => ops::gelu_tanh(hidden(x, &self.fc1)),
            Activation::QuickGelu => {
                let x = layer(x, &self.fc1);
                x.clone() * activation::sigmoid(x * 1.702)
            }
        };
        layer(x, &self.fc2)
    }
}
