//! The ADM crop, posterior samples, bytes.

use anyhow::{Context, Result};
use burn::tensor::Device;
use realign::data::image::RgbImage;
use realign::data::latents::normalized_posterior_sample;
use realign::sample::{Quantization, quantize};
use serde_json::Value;

use super::case::Case;
use super::verdict::Verdict;

pub fn compare(case: &Case, device: &Device) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for i in case.names("in.image.") {
        crop(case, i, &mut verdict)?;
    }
    if case.has("in.moments") {
        let tensor = |name: &str| case.tensor(name, device);
        let z = normalized_posterior_sample(
            tensor("in.moments")?,
            tensor("in.eps")?,
            tensor("in.scale")?,
            tensor("in.bias")?,
        );
        verdict.output(case, "out.z", z)?;
    }
    if case.has("in.decoded") {
        let bytes =
            case.values("in.decoded")?.iter().map(|value| f64::from(quantize(*value as f32, Quantization::Truncate)));
        verdict.values(case, "out.uint8", &bytes.collect::<Vec<_>>())?;
    }
    Ok(verdict)
}

/// Bytes may differ by one level on at most one percent of the pixels, as the sidecar says.
fn crop(case: &Case, i: &str, verdict: &mut Verdict) -> Result<()> {
    let name = format!("in.image.{i}");
    let &[height, width, _] = case.shape(&name)? else { anyhow::bail!("`{name}` is no picture") };
    let size = *case.shape(&format!("out.crop.{i}"))?.first().context("a crop has no size")?;
    let pixels = case.values(&name)?.iter().map(|value| *value as u8).collect();
    let cropped = realign::data::crop::adm_center_crop(&RgbImage::new(width, height, pixels)?, size);
    let found: Vec<f64> = cropped.pixels().iter().map(|byte| f64::from(*byte)).collect();
    let level = case.sidecar.pointer("/tolerance/forward/crop_atol").and_then(Value::as_f64).unwrap_or(0.0);
    let recorded = format!("out.crop.{i}");
    let off = found.iter().zip(case.values(&recorded)?).filter(|(found, expected)| found != expected).count();
    if off * 100 > found.len() {
        verdict.fail(format!("`{recorded}`: {off} of {} bytes differ", found.len()));
    }
    verdict.within(case, &recorded, &found, |_, _| level)
}
