//! The network of `trained_text`: a table of tokens, positions, and transformer blocks with norms in front.

use anyhow::{Context, Result};
use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::{Device, Tensor};
use realign::nn::{Embedding, Init, LayerNorm, Linear, ParamBuilder};
use realign::ops;
use realign::plugin::{Condition, Conditioner};

use super::TrainedTextConfig;

const EPS: f64 = 1e-5;

/// The encoder.
#[derive(Module, Debug)]
pub struct TrainedText {
    token_embedding: Embedding,
    position_embedding: Param<Tensor<3>>,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    #[module(skip)]
    config: TrainedTextConfig,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    num_heads: usize,
}

impl TrainedText {
    pub(super) fn new(config: &TrainedTextConfig, params: &ParamBuilder) -> Self {
        let (tokens, d) = (config.max_tokens, config.channels);
        let table = params.child("token_embedding");
        let block = |n: usize| Block::new(d, config.num_heads, &params.child("blocks").child(n));
        Self {
            token_embedding: Embedding::new(&table, config.num_tokens(), d, Init::Normal(0.5)),
            position_embedding: params.param("position_embedding", [1, tokens, d], Init::Normal(0.1)),
            blocks: (0..config.depth).map(block).collect(),
            final_norm: LayerNorm::new(&params.child("final_norm"), d, EPS),
            config: config.clone(),
        }
    }

    /// Features of captions, `[captions, max_tokens, channels]`.
    fn encode(&self, captions: &[&str]) -> Result<Tensor<3>> {
        let mut tokens = vec![];
        for caption in captions {
            tokens.extend(self.config.tokens(caption)?);
        }
        let (count, d) = (tokens.len(), self.config.channels);
        let device = self.position_embedding.val().device();
        let tokens = ops::upload_ints(&tokens, [count], &device);
        let table = self.token_embedding.forward(tokens).reshape([captions.len(), self.config.max_tokens, d]);
        let mut x = table + self.position_embedding.val();
        for block in &self.blocks {
            x = block.forward(x);
        }
        Ok(self.final_norm.forward(x))
    }
}

impl Conditioner for TrainedText {
    fn condition(&self, _labels: &[i64], captions: &[Option<String>], _device: &Device) -> Result<Condition> {
        let captions: Option<Vec<&str>> = captions.iter().map(Option::as_deref).collect();
        Ok(Condition::Text(self.encode(&captions.context("an example has no caption")?)?))
    }

    fn null(&self, batch: usize, device: &Device) -> Condition {
        let TrainedTextConfig { max_tokens, channels, .. } = self.config;
        // The empty caption has no word to be unknown and no length.
        let text = self.encode(&[""]).unwrap_or_else(|_| Tensor::zeros([1, max_tokens, channels], device));
        Condition::Text(text.expand([batch, max_tokens, channels]))
    }
}

impl Block {
    fn new(d: usize, num_heads: usize, params: &ParamBuilder) -> Self {
        let linear = |name: &str, inputs, outputs| Linear::new(&params.child(name), inputs, outputs);
        let norm = |name: &str| LayerNorm::new(&params.child(name), d, EPS);
        Self {
            norm1: norm("norm1"),
            qkv: linear("qkv", d, 3 * d),
            proj: linear("proj", d, d),
            norm2: norm("norm2"),
            fc1: linear("fc1", d, 4 * d),
            fc2: linear("fc2", 4 * d, d),
            num_heads,
        }
    }

    /// `x`: `[captions, tokens, channels]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let h = ops::attention_packed(self.qkv.forward(self.norm1.forward(x.clone())), self.num_heads);
        let x = x + self.proj.forward(h);
        let h = self.fc2.forward(ops::gelu_tanh(self.fc1.forward(self.norm2.forward(x.clone()))));
        x + h
    }
}
