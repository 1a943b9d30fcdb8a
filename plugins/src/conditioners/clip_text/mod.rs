//! CLIP's text encoder in the layout of Hugging Face: the condition of the published text-to-image models.
//!
//! Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021); the protocol
//! is U-ViT's, which REPA follows: the last hidden state behind the final norm, the empty caption as null condition,
//! captions cut at the last token and filled up with the token that ends a text, which takes part as any other.

mod files;
mod network;
mod tokens;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::nn::ParamBuilder;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{Condition, ConditionSpec, Conditioner, ConditionerConfig, ConditionerContext};
use realign::recipe::Check;
use realign::weights::PublishedWeights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use files::Folder;
use network::TextTransformer;
use tokens::ClipTokenizer;

const PUBLISHED: &str = "clip-vit-large-patch14"; // folder of the files below

/// Sizes, weights and tokenizer, in the order of [`Folder::needed`].
fn published() -> Vec<PublishedWeights> {
    let file = |name: &str, file: &str, layout: &str| {
        let url = format!("https://huggingface.co/openai/{PUBLISHED}/resolve/main/{file}");
        PublishedWeights::new(name, &format!("{PUBLISHED}/{file}"), &url, layout, "MIT")
    };
    vec![
        file("clip-vit-large-patch14-config", "config.json", "JSON"),
        file("clip-vit-large-patch14", "model.safetensors", "Hugging Face"),
        file("clip-vit-large-patch14-tokenizer", "tokenizer.json", "JSON"),
    ]
}

realign::publish_weights!(published);

/// `clip_text`: features of CLIP's text encoder, which stays as it is; by default that of ViT-L/14.
///
/// The empty caption is the null condition. Captions are cut at `tokens` and filled up with the token that ends a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClipTextConfig {
    /// Folder with `config.json`, `model.safetensors` (or `pytorch_model.bin`), and `tokenizer.json` (or `vocab.json`
    /// and `merges.txt`); `clip-vit-large-patch14` in the folder of published weights when left out.
    pub path: Option<PathBuf>,
    /// Tokens of a caption with those that begin and end it, at most the encoder's positions.
    #[schemars(range(min = 2, max = 4096))]
    pub tokens: usize,
    /// Channels of a token, the encoder's width.
    #[schemars(range(min = 1, max = 65_536))]
    pub channels: usize,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self { path: None, tokens: 77, channels: 768 }
    }
}

impl ClipTextConfig {
    fn folder(&self, weights_dir: &Path) -> Folder {
        Folder { path: self.path.clone().unwrap_or_else(|| weights_dir.join(PUBLISHED)) }
    }
}

/// The conditioner.
#[derive(Module, Debug)]
pub struct ClipText {
    network: TextTransformer,
    #[module(skip)]
    tokenizer: ClipTokenizer,
    /// Features of the empty caption, `[1, tokens, channels]`.
    #[module(skip)]
    null: Tensor<3>,
}

impl Conditioner for ClipText {
    fn condition(&self, _labels: &[i64], captions: &[Option<String>], device: &Device) -> Result<Condition> {
        let captions: Option<Vec<&str>> = captions.iter().map(Option::as_deref).collect();
        let tokens = self.tokenizer.encode(&captions.context("an example has no caption")?)?;
        Ok(Condition::Text(on(device, self.network.forward(tokens))))
    }

    fn null(&self, batch: usize, device: &Device) -> Condition {
        let [_, tokens, channels] = self.null.dims();
        Condition::Text(on(device, self.null.clone().expand([batch, tokens, channels])))
    }
}

/// Frozen features for a network that may be differentiated.
fn on(device: &Device, features: Tensor<3>) -> Tensor<3> {
    if device.is_autodiff() { Tensor::from_inner(features) } else { features }
}

#[typetag::serde(name = "clip_text")]
impl ConditionerConfig for ClipTextConfig {
    fn spec(&self, _num_classes: usize) -> ConditionSpec {
        ConditionSpec::Text { tokens: self.tokens, channels: self.channels }
    }

    fn weights(&self, weights_dir: &Path) -> Vec<WeightFile> {
        let needed = self.folder(weights_dir).needed();
        published().iter().zip(needed).map(|(file, path)| file.file_at(Some(&path), weights_dir)).collect()
    }

    fn build(&self, ctx: &ConditionerContext, params: &ParamBuilder) -> Result<Box<dyn Conditioner>> {
        let folder = self.folder(&ctx.weights_dir);
        let shape = folder.shape()?;
        let place = folder.path.display();
        ensure!(
            self.channels == shape.hidden_size,
            "conditioner.channels is `{}` and the encoder in `{place}` has `{}`",
            self.channels,
            shape.hidden_size
        );
        ensure!(
            (2..=shape.max_position_embeddings).contains(&self.tokens),
            "conditioner.tokens is `{}` and the encoder in `{place}` has positions for 2 to {}",
            self.tokens,
            shape.max_position_embeddings
        );
        let tokenizer = folder.tokenizer(self.tokens)?;
        ensure!(
            tokenizer.num_tokens() == shape.vocab_size,
            "the tokenizer in `{place}` knows {} tokens and the encoder {}; both must come from one model",
            tokenizer.num_tokens(),
            shape.vocab_size
        );
        let network = folder.network(&shape, params)?;
        let null = network.forward(tokenizer.encode(&[""])?);
        Ok(Box::new(ClipText { network, tokenizer, null }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("tokens", self.tokens, 2, 4096);
        check.range("channels", self.channels, 1, 65_536);
    }
}

realign::register!(ConditionerConfig as "conditioner": ClipTextConfig);
