//! Spatial metrics of recorded features and masks.

use super::case::Case;
use super::compare::{Comparison, widen};
use anyhow::{Context, Result, bail};
use realign::burn::tensor::{Device, Tensor};
use realign::eval::spatial::{SpatialMetric, mean_of_numbers};
use realign::plugin::PatchGrid;
use realign::weights::to_host;
use serde_json::{Map, Value, json};

/// Every `out.<input>.<result>`: a metric with the code's defaults, its mean `<metric>_mean`, the paper's LDS, or an
/// entry of the input's `extra`, which names a metric and its settings.
pub fn spatial_metrics(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for name in case.names("out.") {
        let (input, result) = name.split_once('.').with_context(|| format!("`out.{name}` names no result"))?;
        let settings = &case.config.0["inputs"][input];
        let base = result.strip_suffix("_mean").unwrap_or(result);
        let metric = match settings["extra"][base].as_array().map(Vec::as_slice) {
            Some([metric, settings]) => metric_of(metric.as_str().unwrap_or_default(), settings)?,
            Some(_) => bail!("`{base}` of `{input}` is no metric with settings"),
            None if base == "lds_paper" => metric_of("lds_paper", &Value::Null)?,
            None => metric_of(base, &Value::Null)?,
        };
        let tokens: Tensor<3> = case.tensor(&format!("in.{input}.feats"), device)?;
        let mask: Tensor<2> = case.tensor(&format!("in.{input}.mask"), device)?;
        let grid = grid(settings, tokens.dims()[1])?;
        let values = widen(to_host(metric.measure(tokens, Some(mask), grid)?));
        let values = if base == result { values } else { vec![mean_of_numbers(&values)] };
        found.values(case, &format!("out.{name}"), &values)?;
    }
    Ok(())
}

/// The reference's arguments as a recipe's keys.
fn metric_of(name: &str, settings: &Value) -> Result<SpatialMetric> {
    let mut keys = match name {
        "lds" => json!({ "type": "lds", "mode": "code" }),
        "lds_paper" => json!({ "type": "lds", "mode": "paper" }),
        name => json!({ "type": name }),
    };
    for (key, value) in settings.as_object().unwrap_or(&Map::new()) {
        let key = match key.as_str() {
            "far_dist" | "d_neg" => "far",
            "near_dist" | "d_pos" => "near",
            "d_pos_min" => "nearest",
            "dmax" => "max_distance",
            "sqrt" => "sqrt",
            other => bail!("unknown argument `{other}` of `{name}`"),
        };
        keys[key] = value.clone();
    }
    Ok(serde_json::from_value(keys)?)
}

/// A grid that is not stated is square.
fn grid(settings: &Value, tokens: usize) -> Result<PatchGrid> {
    let side = |key: &str| settings[key].as_u64().and_then(|side| usize::try_from(side).ok());
    let square = tokens.isqrt();
    match (side("H"), side("W")) {
        (Some(rows), Some(columns)) => Ok(PatchGrid::new(rows, columns)),
        (None, None) if square * square == tokens => Ok(PatchGrid::new(square, square)),
        _ => bail!("{tokens} tokens need a grid, and the config states none"),
    }
}
