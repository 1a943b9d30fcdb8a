//! Encoder features and their normalization.

use anyhow::{Context, Result};
use burn::tensor::Device;
use realign::plugin::{EncoderConfig, EncoderContext, NormalizerConfig, PatchGrid};
use serde_json::{Value, json};

use super::case::Case;
use super::sit::plugin;
use super::verdict::Verdict;

/// `out.<input>.alpha<gamma>`, and `out.<input>.default` at gamma 1.
pub fn spatial_norm(case: &Case, device: &Device) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for name in case.names("out.") {
        let (input, gamma) = name.split_once('.').with_context(|| format!("out.{name}"))?;
        let gamma: f64 = match gamma.strip_prefix("alpha") {
            Some(gamma) => gamma.parse()?,
            None => 1.0, // the reference function's own default
        };
        let eps = case.number("eps").unwrap_or(1e-6);
        let normalizer: Box<dyn NormalizerConfig> = plugin(json!({"type": "spatial", "gamma": gamma, "eps": eps}))?;
        let features = case.tensor::<3>(&format!("in.{input}"), device)?;
        let grid = PatchGrid::new(features.dims()[1], 1);
        verdict.output(case, &format!("out.{name}"), normalizer.build().normalize(features, grid))?;
    }
    Ok(verdict)
}

/// Items with a resolution and a name like `g16_d128_ppc2_cb4`.
pub fn hog(case: &Case, device: &Device) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let items = case.config["items"].as_array().context("config has no `items`")?;
    for (i, item) in items.iter().enumerate() {
        let option = |key: &str| {
            let parts = item["model_config"].as_str().unwrap_or_default().split('_');
            parts.filter_map(|part| part.strip_prefix(key)?.parse::<usize>().ok()).next()
        };
        let resolution = item.get("resolution").and_then(Value::as_u64).context("item has no `resolution`")? as usize;
        let mut config = json!({"type": "hog"});
        for (key, name, default) in
            [("grid", "g", 16), ("channels", "d", 128), ("pixels_per_cell", "ppc", 2), ("cells_per_block", "cb", 4)]
        {
            config[key] = json!(option(name).unwrap_or(default));
        }
        let config: Box<dyn EncoderConfig> = plugin(config)?;
        let backbone_grid = PatchGrid::new(1, 1); // the grid is given
        let encoder =
            config.build(&EncoderContext { image_size: resolution, backbone_grid, device: device.clone() })?;
        let features = encoder.encode(case.tensor(&format!("in.{i}.raw"), device)?)?;
        verdict.output(case, &format!("out.{i}.patch"), features.tokens)?;
    }
    Ok(verdict)
}
