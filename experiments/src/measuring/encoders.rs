//! Naming encoders on the command line: as a recipe writes them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use realign::burn::tensor::Device;
use realign::erase::Slot;
use realign::plugin::{
    EncoderConfig, EncoderContext, EncoderKind, EncoderSpec, Normalizer, NormalizerConfig, PatchGrid,
};
use realign::recipe::Layered;
use serde::Deserialize;

/// Encoders, and what happens to their features.
#[derive(Debug, Args)]
pub struct EncoderArgs {
    /// Encoder, as in a recipe: `hog` or `{type: hog, channels: 64}`, with `NAME=` before it for another name; may be
    /// repeated
    #[arg(long = "encoder", value_name = "ENCODER")]
    pub encoders: Vec<String>,
    /// YAML file with a list `encoders:` of such sections
    #[arg(long = "encoders", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Folder of published weights
    #[arg(long, default_value = "pretrained_models")]
    pub weights_dir: PathBuf,
    /// What happens to the features first, as in a recipe: `spatial`, `{type: spatial, gamma: 0.8}`
    #[arg(long, default_value = "none")]
    pub normalizer: String,
}

/// An encoder with a name for tables.
#[derive(Debug)]
pub struct NamedEncoder {
    /// Its name: what the user called it, its preset or its type.
    pub label: String,
    /// The encoder.
    pub config: Box<dyn EncoderConfig>,
}

#[derive(Deserialize)]
struct Listed {
    encoders: Vec<Box<dyn EncoderConfig>>,
}

#[derive(Deserialize)]
struct Typed {
    encoder: Box<dyn EncoderConfig>,
}

#[derive(Deserialize)]
struct TypedNormalizer {
    normalizer: Box<dyn NormalizerConfig>,
}

impl EncoderArgs {
    /// The encoders in the order given, those of the file last.
    ///
    /// # Errors
    /// A section is wrong; the message repeats it, or names file and line.
    pub fn named(&self) -> Result<Vec<NamedEncoder>> {
        let mut named = vec![];
        for text in &self.encoders {
            let (label, section) = split_label(text);
            let layered = Layered::typed("--encoder", "encoder", section)?;
            let Typed { encoder } = layered.extract()?;
            layered.check(|check| check.within("encoder", |check| encoder.validate(check)))?;
            named.push((label.map(str::to_string), encoder));
        }
        if let Some(file) = &self.file {
            let layered = Layered::load(file, Some("none"), &[])?;
            let Listed { encoders } = layered.extract()?;
            for (i, encoder) in encoders.iter().enumerate() {
                layered.check(|check| check.within(&format!("encoders.{i}"), |check| encoder.validate(check)))?;
            }
            named.extend(encoders.into_iter().map(|encoder| (None, encoder)));
        }
        let mut found: Vec<NamedEncoder> = vec![];
        for (label, config) in named {
            let plain = match label {
                Some(label) => label,
                None => label_of(&serde_json::to_value(&config).context("cannot write an encoder's settings")?),
            };
            let is_taken = |label: &str| found.iter().any(|other: &NamedEncoder| other.label == label);
            let numbered = (2..).map(|n| format!("{plain} {n}"));
            let label = std::iter::once(plain.clone()).chain(numbered).find(|label| !is_taken(label)).unwrap_or(plain);
            found.push(NamedEncoder { label, config });
        }
        Ok(found)
    }

    /// As [`named`](Self::named), but at least one.
    ///
    /// # Errors
    /// As there; or none is given.
    pub fn some(&self) -> Result<Vec<NamedEncoder>> {
        let named = self.named()?;
        ensure!(!named.is_empty(), "name at least one encoder: `--encoder hog`, or `--encoders FILE`");
        Ok(named)
    }

    /// The normalizer.
    ///
    /// # Errors
    /// Its section is wrong.
    pub fn normalizer(&self) -> Result<Box<dyn Normalizer>> {
        read_normalizer("--normalizer", &self.normalizer)
    }
}

/// A normalizer given as `option text`.
///
/// # Errors
/// Its section is wrong.
pub fn read_normalizer(option: &str, text: &str) -> Result<Box<dyn Normalizer>> {
    let layered = Layered::typed(option, "normalizer", text)?;
    let TypedNormalizer { normalizer } = layered.extract()?;
    layered.check(|check| check.within("normalizer", |check| normalizer.validate(check)))?;
    Ok(normalizer.build())
}

impl NamedEncoder {
    /// Its sizes, and the encoder itself.
    ///
    /// # Errors
    /// The picture size does not fit, or weights are missing; the message says how to get them.
    pub fn build(&self, context: &EncoderContext, device: &Device) -> Result<(EncoderSpec, Slot<EncoderKind>)> {
        let spec = self.config.spec(context).with_context(|| format!("encoder `{}`", self.label))?;
        if let Some(file) = spec.weights.iter().find(|file| !file.path.exists()) {
            bail!(
                "encoder `{}` needs `{}`, which does not exist; get it with\n  {}",
                self.label,
                file.path.display(),
                file.command
            );
        }
        let encoder = self.config.build(context, device).with_context(|| format!("encoder `{}`", self.label))?;
        Ok((spec, Slot::new(encoder)))
    }
}

/// What encoders are told, for pictures of this size.
pub fn context(image_size: usize, grid: usize, weights_dir: &std::path::Path) -> EncoderContext {
    EncoderContext { image_size, backbone_grid: PatchGrid::new(grid, grid), weights_dir: weights_dir.to_path_buf() }
}

/// `NAME=section` in its parts; a `=` inside of a section is no name.
fn split_label(text: &str) -> (Option<&str>, &str) {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || " ._-+()/".contains(c));
    match text.split_once('=') {
        Some((name, section)) if is_name(name) => (Some(name.trim()), section),
        _ => (None, text),
    }
}

/// The preset or type, with what is wrapped; random weights are said, for they have nothing of the preset's but shapes.
fn label_of(config: &serde_json::Value) -> String {
    let word = |key: &str| config[key].as_str();
    let name = word("preset").or(word("type")).unwrap_or("encoder").to_string();
    let inner = config.get("encoder").filter(|inner| inner.is_object()).map(|inner| format!("({})", label_of(inner)));
    let random = if word("weights") == Some("random") { " (random)" } else { "" };
    format!("{name}{}{random}", inner.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(encoders: &[&str]) -> Result<Vec<String>> {
        let args = EncoderArgs {
            encoders: encoders.iter().map(|text| text.to_string()).collect(),
            file: None,
            weights_dir: "w".into(),
            normalizer: "none".into(),
        };
        Ok(args.named()?.into_iter().map(|encoder| encoder.label).collect())
    }

    #[test]
    fn encoders_are_called_by_name_or_by_what_they_are() {
        let texts = ["hog", "{type: hog, channels: 64}", "fine=hog", "{type: offset, encoder: {type: hog}}"];
        assert_eq!(labels(&texts).unwrap(), ["hog", "hog 2", "fine", "offset(hog)"]);
        assert_eq!(label_of(&serde_json::json!({"type": "vit", "preset": "x-b", "weights": "random"})), "x-b (random)");
    }

    #[test]
    fn wrong_sections_are_refused_with_what_was_typed() {
        let refused = |text: &str| labels(&[text]).unwrap_err().to_string();
        assert!(refused("hgo").contains("--encoder hgo: encoder.type: unknown encoder `hgo`\n  did you mean `hog`?"));
        assert!(refused("{type: hog, channels: 7}").contains("encoder.channels: `7`"));
        assert!(refused("{type: offset, encoder: {type: hog, channels: 7}}").contains("encoder.encoder.channels"));
        assert!(refused("offset").contains("encoder.encoder: missing"));
    }
}
