//! The folder of a published text encoder.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use realign::data::files::read_file;
use realign::nn::ParamBuilder;
use realign::weights::KeyMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::network::TextTransformer;
use super::tokens::{BEGIN, ClipTokenizer, END};

const MAX_LAYERS: usize = 1000;

/// Where an encoder lies.
pub struct Folder {
    pub path: PathBuf,
}

/// Sizes in `config.json`, with the defaults that the format leaves out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Shape {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: String,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            layer_norm_eps: 1e-5,
            hidden_act: "quick_gelu".into(),
        }
    }
}

impl Folder {
    /// The files that a run reads.
    pub fn needed(&self) -> Vec<PathBuf> {
        vec![self.path.join("config.json"), self.weights(), self.path.join(self.tokenizer_files()[0])]
    }

    fn weights(&self) -> PathBuf {
        let pickled = self.path.join("pytorch_model.bin");
        let file = self.path.join("model.safetensors");
        if !file.exists() && pickled.exists() { pickled } else { file }
    }

    fn tokenizer_files(&self) -> &'static [&'static str] {
        let has = |name: &str| self.path.join(name).exists();
        if !has("tokenizer.json") && has("vocab.json") { &["vocab.json", "merges.txt"] } else { &["tokenizer.json"] }
    }

    /// Sizes of the encoder; those of a whole CLIP lie under `text_config`.
    ///
    /// # Errors
    /// Names the file that cannot be read or the value that cannot be.
    pub fn shape(&self) -> Result<Shape> {
        let path = self.path.join("config.json");
        let read = || -> Result<Shape> {
            let mut config: Value = serde_json::from_slice(&read_file(&path)?)?;
            let sizes = if config["text_config"].is_object() { config["text_config"].take() } else { config };
            let shape: Shape = serde_json::from_value(sizes)?;
            let sizes = [
                ("vocab_size", shape.vocab_size, 1 << 24),
                ("hidden_size", shape.hidden_size, 1 << 16),
                ("intermediate_size", shape.intermediate_size, 1 << 18),
                ("num_hidden_layers", shape.num_hidden_layers, MAX_LAYERS),
                ("max_position_embeddings", shape.max_position_embeddings, 1 << 16),
            ];
            for (key, value, most) in sizes {
                ensure!((1..=most).contains(&value), "{key} is `{value}`; allowed is 1 to {most}");
            }
            ensure!(
                shape.num_attention_heads > 0 && shape.hidden_size.is_multiple_of(shape.num_attention_heads),
                "num_attention_heads `{}` does not divide hidden_size `{}`",
                shape.num_attention_heads,
                shape.hidden_size
            );
            Ok(shape)
        };
        read().with_context(|| format!("`{}`", path.display()))
    }

    /// The encoder with its published weights.
    ///
    /// # Errors
    /// The file lacks a tensor, has one that is not expected, or one of another shape.
    pub fn network(&self, shape: &Shape, params: &ParamBuilder) -> Result<TextTransformer> {
        // A whole CLIP holds the vision tower and the projections beside it.
        let layout = KeyMap::new().strip(&["text_model."]).ignore(&["embeddings.position_ids"]);
        layout.fill(TextTransformer::new(shape, params)?, &self.weights())
    }

    /// The tokenizer, which makes `num_tokens` numbers of a caption.
    ///
    /// # Errors
    /// Names the file that is absent or no tokenizer.
    pub fn tokenizer(&self, num_tokens: usize) -> Result<ClipTokenizer> {
        let place = || format!("tokenizer in `{}`", self.path.display());
        let read = |name: &str| read_file(&self.path.join(name)).with_context(|| name.to_string());
        let json = match self.tokenizer_files() {
            [vocab, merges] => from_vocabulary(&read(vocab)?, &read(merges)?).with_context(place)?,
            _ => read("tokenizer.json")?,
        };
        ClipTokenizer::new(&json, num_tokens).with_context(place)
    }
}

/// The tokenizer that `vocab.json` and `merges.txt` of a CLIP stand for, in the format of `tokenizer.json`.
fn from_vocabulary(vocab: &[u8], merges: &[u8]) -> Result<Vec<u8>> {
    let vocab: Value = serde_json::from_slice(vocab).context("vocab.json is no JSON")?;
    let merges = std::str::from_utf8(merges).context("merges.txt is no text")?;
    let mut pairs = vec![];
    for (line, number) in merges.lines().zip(1..) {
        if line.starts_with("#version") || line.trim().is_empty() {
            continue;
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => pairs.push(json!([left, right])),
            _ => bail!("merges.txt:{number}: `{line}` is not a pair of tokens with a space between"),
        }
    }
    // Written out in a caption they are what they are, as in Hugging Face's tokenizer.
    let special = |token: &str| {
        let entry = |id| {
            json!({
                "id": id, "content": token, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        };
        vocab[token].as_u64().map(entry)
    };
    let words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let added: Vec<_> = [BEGIN, END].into_iter().filter_map(special).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": words }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] },
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": false,
            "vocab": vocab,
            "merges": pairs,
        },
    });
    Ok(serde_json::to_vec(&tokenizer)?)
}
