//! Spatial metrics of an encoder's features over pictures.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor, TensorData};
use realign::data::{image_tensor, in_order};
use realign::eval::spatial::{SpatialMetric, mean_of_numbers};
use realign::ops;
use realign::plugin::{EncoderContext, Normalizer, PatchGrid};
use realign::recipe::Layered;
use realign::weights::to_host;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{NamedEncoder, Source};
use crate::progress::pictures_bar;

/// What was measured of one encoder.
#[derive(Debug)]
pub struct Measured {
    /// The encoder's name.
    pub label: String,
    /// Grid of its tokens.
    pub grid: PatchGrid,
    /// Channels of its tokens.
    pub channels: usize,
    /// Parameters it computes with.
    pub num_params: usize,
    /// Seconds for one picture, without reading it; the first batch, which warms up, counts only where it is the only one.
    pub seconds_per_image: f64,
    /// Metric, and its value for each picture; NaN where it has none.
    pub values: Vec<(&'static str, Vec<f64>)>,
}

impl Measured {
    /// Values of a metric, one per picture; empty for one that was not measured.
    pub fn of(&self, metric: &str) -> &[f64] {
        self.values.iter().find(|(name, _)| *name == metric).map_or(&[], |(_, values)| values)
    }

    /// For a file of results: means and values per picture, null where there is none.
    pub fn to_json(&self) -> Value {
        let metrics: serde_json::Map<String, Value> = self
            .values
            .iter()
            .map(|(name, values)| {
                let count = values.iter().filter(|value| !value.is_nan()).count();
                let entry = json!({ "mean": mean_of_numbers(values), "count": count, "values": values });
                (name.to_string(), entry)
            })
            .collect();
        json!({
            "encoder": self.label,
            "grid": [self.grid.rows, self.grid.columns],
            "channels": self.channels,
            "num_params": self.num_params,
            "seconds_per_image": self.seconds_per_image,
            "metrics": metrics,
        })
    }
}

/// Measures one encoder on all pictures of a source.
///
/// # Errors
/// The encoder cannot be built or fails, or a picture cannot be read.
pub fn measure(
    encoder: &NamedEncoder,
    normalizer: &dyn Normalizer,
    source: &Source,
    metrics: &[SpatialMetric],
    batch_size: usize,
    context: &EncoderContext,
    device: &Device,
) -> Result<Measured> {
    let (spec, built) = encoder.build(context, device)?;
    let mut values: Vec<(&'static str, Vec<f64>)> = metrics.iter().map(|metric| (metric.name(), vec![])).collect();
    let mut times: Vec<(f64, usize)> = vec![];
    let bar = pictures_bar(source.indices.len());
    bar.set_message(format!("pictures, {}", encoder.label));
    let done = in_order(&*source.dataset, &source.indices, batch_size, |batch, examples| {
        ops::guard(|| {
            let images = image_tensor(&examples, device)?;
            let start = Instant::now();
            let tokens = built.encode(images)?.tokens;
            to_host(tokens.clone().mean()); // waits for the device
            times.push((start.elapsed().as_secs_f64(), batch.len()));
            let tokens = normalizer.normalize(tokens, spec.grid);
            let masks: Option<Vec<Vec<f32>>> =
                batch.iter().zip(&examples).map(|(idx, example)| source.mask(*idx, example, spec.grid)).collect();
            let mask = masks.map(|masks| {
                let shape = [batch.len(), spec.grid.tokens()];
                Tensor::<2>::from_data(TensorData::new(masks.concat(), shape), device)
            });
            for (metric, (_, values)) in metrics.iter().zip(&mut values) {
                let found = metric.measure(tokens.clone(), mask.clone(), spec.grid)?;
                values.extend(to_host(found).into_iter().map(f64::from));
            }
            Ok(())
        })?;
        bar.inc(batch.len() as u64);
        Ok(())
    });
    bar.finish_and_clear();
    done.with_context(|| format!("encoder `{}`", encoder.label))?;
    let timed = times.get(1..).filter(|warm| !warm.is_empty()).unwrap_or(&times);
    let (seconds, num_timed) = timed.iter().fold((0.0, 0), |(sum, count), (time, num)| (sum + time, count + num));
    Ok(Measured {
        label: encoder.label.clone(),
        grid: spec.grid,
        channels: spec.channels,
        num_params: built.num_params(),
        seconds_per_image: seconds / num_timed.max(1) as f64,
        values,
    })
}

#[derive(Deserialize)]
struct Typed {
    metric: SpatialMetric,
}

/// Metrics given as `--metric lds` or `--metric '{type: lds, mode: code}'`.
fn parse_metrics(texts: &[String], source: &Source) -> Result<Vec<SpatialMetric>> {
    let mut metrics: Vec<SpatialMetric> = vec![];
    for text in texts {
        let Typed { metric } = Layered::typed("--metric", "metric", text)?.extract()?;
        ensure!(
            source.has_masks || !metric.needs_mask(),
            "--metric {text}: it compares an object with what is around it; give masks with --masks, or pictures that \
             have them: --images shapes"
        );
        let is_new = metrics.iter().all(|other| other.name() != metric.name());
        ensure!(is_new, "--metric {text}: `{}` is given twice", metric.name());
        metrics.push(metric);
    }
    Ok(metrics)
}

/// The metrics given; without any, the paper's four as far as there are masks.
///
/// # Errors
/// One is unknown, needs masks that are not there, or is given twice.
pub fn metrics_of(texts: &[String], source: &Source) -> Result<Vec<SpatialMetric>> {
    if texts.is_empty() {
        let fits = |metric: &SpatialMetric| source.has_masks || !metric.needs_mask();
        return Ok(SpatialMetric::all().into_iter().filter(fits).collect());
    }
    parse_metrics(texts, source)
}
