//! An encoder whose tokens all carry one large common vector: what a strong global component does, made to order.

use anyhow::{Context, Result};
use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::{Device, Tensor};
use realign::erase::Slot;
use realign::nn::ParamBuilder;
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, EncoderKind, Features};
use realign::recipe::Check;
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `offset`: another encoder, with the same vector added to every token of every picture.
///
/// The vector stands for global information (the paper, section 4): it makes all tokens alike, hides their spatial
/// structure, and is what spatial normalization takes away again. For trying out metrics and figures.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OffsetConfig {
    /// The other encoder, a section with its `type`; it has to be given.
    #[schemars(with = "Option<realign::serde_json::Value>")]
    pub encoder: Option<Box<dyn EncoderConfig>>,
    /// Length of the vector; tokens of `hog` are about 0.5 to 1 long.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub scale: f64,
    /// Decides the vector's direction.
    pub seed: u64,
}

impl Default for OffsetConfig {
    fn default() -> Self {
        Self { encoder: None, scale: 3.0, seed: 0 }
    }
}

const ABSENT: &str = "encoder: missing; name the encoder that the vector is added to, `encoder: {type: hog}`";

#[typetag::serde(name = "offset")]
impl EncoderConfig for OffsetConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        self.encoder.as_ref().context(ABSENT)?.spec(ctx)
    }

    fn build(&self, ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>> {
        let inner = self.encoder.as_ref().context(ABSENT)?;
        let channels = inner.spec(ctx)?.channels;
        let (scale, seed) = (self.scale, self.seed);
        let vector = move || {
            let direction = Streams::new(seed).normal("offset", channels);
            let length = direction.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            direction.into_iter().map(|x| (scale * f64::from(x) / length) as f32).collect()
        };
        let vector = ParamBuilder::new(device, seed).constant([channels], vector);
        Ok(Box::new(Offset { encoder: Slot::new(inner.build(ctx, device)?), vector }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("scale", self.scale, 0.0, 1e6);
        match &self.encoder {
            Some(encoder) => check.within("encoder", |check| encoder.validate(check)),
            None => check.bad("encoder", ABSENT.trim_start_matches("encoder: ")),
        }
    }
}

realign::register!(EncoderConfig as "encoder": OffsetConfig);

/// The encoder.
#[derive(Module, Debug)]
pub struct Offset {
    encoder: Slot<EncoderKind>,
    vector: Param<Tensor<1>>,
}

impl Encoder for Offset {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let Features { tokens, class_token } = self.encoder.encode(images)?;
        let channels = tokens.dims()[2];
        let vector = self.vector.val();
        Ok(Features {
            tokens: tokens + vector.clone().reshape([1, 1, channels]),
            class_token: class_token.map(|token| token + vector.reshape([1, channels])),
        })
    }
}

#[cfg(test)]
mod tests {
    use realign::burn::tensor::TensorData;
    use realign::plugin::PatchGrid;
    use realign::weights::to_host;

    use super::*;

    fn tokens(text: &str) -> Vec<f32> {
        let config: Box<dyn EncoderConfig> = serde_json::from_str(text).unwrap();
        let ctx = EncoderContext { image_size: 32, backbone_grid: PatchGrid::new(5, 7), weights_dir: "w".into() };
        let encoder = config.build(&ctx, &Device::flex()).unwrap();
        let values = Streams::new(3).uniform("pictures", 2 * 3 * 32 * 32);
        let pictures = Tensor::<4>::from_data(TensorData::new(values, [2, 3, 32, 32]), &Device::flex()) * 255.0;
        to_host(encoder.encode(pictures).unwrap().tokens)
    }

    #[test]
    fn every_token_moves_by_one_vector_of_the_stated_length() {
        let plain = tokens(r#"{"type": "hog"}"#);
        let moved = tokens(r#"{"type": "offset", "scale": 2.5, "encoder": {"type": "hog"}}"#);
        let moves: Vec<f32> = moved.iter().zip(&plain).map(|(a, b)| a - b).collect();
        for token in moves.chunks_exact(128) {
            assert!(token.iter().zip(&moves[..128]).all(|(a, b)| (a - b).abs() < 1e-6));
            assert!((token.iter().map(|x| x * x).sum::<f32>().sqrt() - 2.5).abs() < 1e-5);
        }
    }

    #[test]
    fn without_an_encoder_it_says_what_is_missing() {
        let config = OffsetConfig::default();
        let ctx = EncoderContext { image_size: 32, backbone_grid: PatchGrid::new(5, 7), weights_dir: "w".into() };
        assert!(config.spec(&ctx).unwrap_err().to_string().contains("encoder: {type: hog}"));
        assert!(config.build(&ctx, &Device::flex()).is_err());
    }
}
