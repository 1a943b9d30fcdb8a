//! The network of CLIP's text encoder: a transformer whose tokens see those before them.

use anyhow::{Result, bail};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Bool, Tensor, activation};
use realign::nn::{Embedding, Init, LayerNorm, Linear, ParamBuilder};
use realign::ops;

use super::files::Shape;

/// The encoder, with the names of Hugging Face.
#[derive(Module, Debug)]
pub struct TextTransformer {
    embeddings: Embeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
}

#[derive(Module, Debug)]
struct Embeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

#[derive(Module, Debug)]
struct Encoder {
    layers: Vec<Layer>,
}

#[derive(Module, Debug)]
struct Layer {
    layer_norm1: LayerNorm,
    self_attn: Attention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    num_heads: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

#[derive(Debug, Clone, Copy)]
enum Activation {
    /// `x · sigmoid(1.702 x)`, of OpenAI's models.
    QuickGelu,
    Gelu,
    GeluTanh,
}

impl TextTransformer {
    /// # Errors
    /// The activation is not known.
    pub fn new(shape: &Shape, params: &ParamBuilder) -> Result<Self> {
        let activation = match shape.hidden_act.as_str() {
            "quick_gelu" => Activation::QuickGelu,
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            other => bail!("hidden_act `{other}` of the text encoder is unknown; known: quick_gelu, gelu, gelu_new"),
        };
        let d = shape.hidden_size;
        let table = |name: &str, rows| Embedding::new(&params.child("embeddings").child(name), rows, d, Init::Zeros);
        let layer = |n: usize| Layer::new(shape, activation, &params.child("encoder.layers").child(n));
        Ok(Self {
            embeddings: Embeddings {
                token_embedding: table("token_embedding", shape.vocab_size),
                position_embedding: table("position_embedding", shape.max_position_embeddings),
            },
            encoder: Encoder { layers: (0..shape.num_hidden_layers).map(layer).collect() },
            final_layer_norm: LayerNorm::new(&params.child("final_layer_norm"), d, shape.layer_norm_eps),
        })
    }

    /// The last hidden state behind the final norm, `[captions, tokens, channels]`, of as many numbers for each caption.
    pub fn forward(&self, captions: Vec<Vec<i64>>) -> Tensor<3> {
        let (count, tokens) = (captions.len(), captions.first().map_or(0, Vec::len));
        let table = &self.embeddings.token_embedding;
        let [_, d] = table.weight.dims();
        let numbers = ops::upload_ints(&captions.concat(), [count * tokens], &table.weight.val().device());
        let positions = self.embeddings.position_embedding.weight.val().narrow(0, 0, tokens);
        let mut x = table.forward(numbers).reshape([count, tokens, d]) + positions.unsqueeze::<3>();
        let hidden = Tensor::<2, Bool>::tril_mask([tokens, tokens], 0, &x.device()); // later tokens
        for layer in &self.encoder.layers {
            x = layer.forward(x, &hidden);
        }
        self.final_layer_norm.forward(x)
    }
}

impl Layer {
    fn new(shape: &Shape, activation: Activation, params: &ParamBuilder) -> Self {
        let (d, m) = (shape.hidden_size, shape.intermediate_size);
        let linear = |name: &str, inputs, outputs| Linear::new(&params.child(name), inputs, outputs);
        let norm = |name: &str| LayerNorm::new(&params.child(name), d, shape.layer_norm_eps);
        Self {
            layer_norm1: norm("layer_norm1"),
            self_attn: Attention {
                q_proj: linear("self_attn.q_proj", d, d),
                k_proj: linear("self_attn.k_proj", d, d),
                v_proj: linear("self_attn.v_proj", d, d),
                out_proj: linear("self_attn.out_proj", d, d),
                num_heads: shape.num_attention_heads,
            },
            layer_norm2: norm("layer_norm2"),
            mlp: Mlp { fc1: linear("mlp.fc1", d, m), fc2: linear("mlp.fc2", m, d), activation },
        }
    }

    /// `x`: `[captions, tokens, channels]`, `hidden`: which token is not seen by which.
    fn forward(&self, x: Tensor<3>, hidden: &Tensor<2, Bool>) -> Tensor<3> {
        let x = x.clone() + self.self_attn.forward(self.layer_norm1.forward(x), hidden);
        x.clone() + self.mlp.forward(self.layer_norm2.forward(x))
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>, hidden: &Tensor<2, Bool>) -> Tensor<3> {
        let [captions, tokens, d] = x.dims();
        let head_dim = d / self.num_heads;
        let heads = |layer: &Linear| {
            layer.forward(x.clone()).reshape([captions, tokens, self.num_heads, head_dim]).swap_dims(1, 2)
        };
        let [q, k, v] = [&self.q_proj, &self.k_proj, &self.v_proj].map(heads);
        let scores = q.matmul(k.swap_dims(2, 3)) / (head_dim as f64).sqrt(); // [captions, heads, tokens, tokens]
        let hidden = hidden.clone().unsqueeze::<4>().expand(scores.dims());
        let weights = activation::softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 3);
        self.out_proj.forward(weights.matmul(v).swap_dims(1, 2).reshape([captions, tokens, d]))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let h = self.fc1.forward(x);
        let h = match self.activation {
            Activation::QuickGelu => h.clone() * activation::sigmoid(h * 1.702),
            Activation::Gelu => activation::gelu(h),
            Activation::GeluTanh => ops::gelu_tanh(h),
        };
        self.fc2.forward(h)
    }
}
