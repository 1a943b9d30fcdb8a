//! What enters a training step: pictures, HOG features, spatial normalization.

use super::case::{Case, count};
use super::compare::Comparison;
use anyhow::{Context, Result, ensure};
use realign::burn::tensor::{Device, Tensor};
use realign::data::latents::{LatentNorm, sample_moments};
use realign::data::{RgbImage, adm_center_crop};
use realign::plugin::{EncoderConfig, EncoderContext, NormalizerConfig, PatchGrid};
use realign::sample::{Quantization, quantize};
use realign::weights::to_host;
use serde_json::json;
use std::path::PathBuf;

/// Center crops of pictures, samples of posteriors, and bytes of decoded pictures.
pub fn data_preprocess(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for i in case.names("out.crop.") {
        let [height, width, _] = case.shape::<3>(&format!("in.image.{i}"))?;
        let picture = RgbImage::new(width, height, case.bytes(&format!("in.image.{i}"))?)?;
        let name = format!("out.crop.{i}");
        let [size, columns, _] = case.shape::<3>(&name)?;
        ensure!(size == columns, "`{name}` is {size}x{columns}, and crops are square");
        found.bytes(case, &name, adm_center_crop(&picture, size).pixels())?;
    }
    if case.has("out.uint8") {
        let decoded = &case.recorded("in.decoded")?.values;
        let bytes = decoded.iter().map(|value| f64::from(quantize(*value as f32, Quantization::Truncate)));
        found.values(case, "out.uint8", &bytes.collect::<Vec<_>>())?;
    }
    if case.has("out.z") {
        let input = |name: &str| case.tensor(name, device);
        let values = |name: &str| case.tensor::<4>(name, device).map(to_host);
        let norm = LatentNorm::new(values("in.scale")?, values("in.bias")?)?;
        let z = norm.normalize(sample_moments(input("in.moments")?, input("in.eps")?));
        found.forward(case, "out.z", z)?;
    }
    Ok(())
}

/// Dense HOG tokens of pictures at a size that may differ from the encoder's.
pub fn encoder_hog(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for (i, item) in case.config.list("items").iter().enumerate() {
        let resolution = count(&item["resolution"])?;
        let encoder: Box<dyn EncoderConfig> = serde_json::from_value(hog_settings(item["model_config"].as_str())?)?;
        let backbone_grid = PatchGrid::new(16, 16);
        let context = EncoderContext { image_size: resolution, backbone_grid, weights_dir: PathBuf::new() };
        let images = case.tensor::<4>(&format!("in.{i}.raw"), device)?;
        let features = encoder.build(&context, device)?.encode(images)?;
        found.forward(case, &format!("out.{i}.patch"), features.tokens)?;
    }
    Ok(())
}

/// The reference's words `g16_d128_ppc2_cb4` as a recipe's keys; what is left out has the default.
fn hog_settings(words: Option<&str>) -> Result<serde_json::Value> {
    let mut settings = json!({ "type": "hog", "grid": 16 });
    for word in words.unwrap_or_default().split('_').filter(|word| !word.is_empty()) {
        let digits = word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len());
        let key = match &word[..digits] {
            "g" => "grid",
            "d" => "channels",
            "ppc" => "pixels_per_cell",
            "cb" => "cells_per_block",
            other => anyhow::bail!("model_config: unknown word `{other}`"),
        };
        let value: usize = word[digits..].parse().with_context(|| format!("model_config: `{word}` has no number"))?;
        settings[key] = json!(value);
    }
    Ok(settings)
}

/// Every `out.<input>.alpha<gamma>`; `default` is the class's default.
pub fn spatial_norm(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for name in case.names("out.") {
        let (input, setting) = name.split_once('.').with_context(|| format!("`out.{name}` names no setting"))?;
        let gamma = match setting.strip_prefix("alpha") {
            Some(gamma) => gamma.parse().with_context(|| format!("`out.{name}` has no number"))?,
            None => case.config.number(setting, 1.0),
        };
        let eps = case.config.number("eps", 1e-6);
        let config = json!({ "type": "spatial", "gamma": gamma, "eps": eps });
        let normalizer: Box<dyn NormalizerConfig> = serde_json::from_value(config)?;
        let features: Tensor<3> = case.tensor(&format!("in.{input}"), device)?;
        let grid = PatchGrid::new(1, features.dims()[1]);
        found.forward(case, &format!("out.{name}"), normalizer.build().normalize(features, grid))?;
    }
    Ok(())
}
