//! Spatial structure of the encoders that a figure compares, measured on the pictures that its runs are trained on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use realign::eval::spatial::{SpatialMetric, mean_of_numbers};
use realign::files::write_whole;
use realign::ops::{self, DeviceChoice};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::entry::Entry;
use super::paper_table::PaperTable;
use super::setting::Setting;
use crate::measuring::{NamedEncoder, Source, measure, read_normalizer};

const PICTURES: usize = 256; // spread evenly over the data set
const BATCH: usize = 16;

/// Metrics of each encoder of a figure, by the label of its rows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Structure(BTreeMap<String, Known>);

/// What is known of an encoder, and of what it was measured.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    subject: Measurement,
    metrics: BTreeMap<String, f64>,
}

/// Everything that decides the metrics of an encoder.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Measurement {
    encoder: Value,
    data: Value,
    image_size: usize,
    seed: u64,
    grid: [usize; 2],
    metrics: Vec<String>,
}

impl Structure {
    /// What an earlier call left in `file`; nothing where it left none.
    pub fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default() // what cannot be read is measured anew
    }

    /// Metrics of an encoder by name; nothing for one that was not measured.
    pub fn of(&self, label: &str) -> Option<&BTreeMap<String, f64>> {
        self.0.get(label).map(|known| &known.metrics)
    }

    /// Names of the metrics that were measured, in alphabetic order.
    pub fn metrics(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.values().flat_map(|known| known.metrics.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Measures the metrics that the figure correlates, of the encoders that `file` does not know yet, and writes it.
    ///
    /// # Errors
    /// An encoder cannot be built, a picture cannot be read, or the disk refuses.
    pub fn complete(table: &PaperTable, entries: &[Entry], settings: &[Vec<Setting>], file: &Path) -> Result<Self> {
        let wanted = SpatialMetric::all().into_iter().filter(|metric| table.correlates(metric.name()));
        let wanted: Vec<SpatialMetric> = wanted.collect();
        let mut structure = Self::read(file);
        if wanted.is_empty() {
            return Ok(structure);
        }
        let mut source: Option<Source> = None;
        for (entry, settings) in entries.iter().zip(settings) {
            let Some((setting, term)) = settings.first().and_then(|s| Some((s, s.plan.recipe.alignment.first()?)))
            else {
                continue;
            };
            let (Some(encoder), recipe) = (term.encoders.first(), &setting.plan.recipe) else { continue };
            let source = match &mut source {
                Some(source) => source,
                empty => {
                    let dataset = recipe.data.open(&setting.plan.dataset_context()).context("data")?;
                    empty.insert(Source::evenly(dataset.into(), PICTURES)?)
                }
            };
            let metrics: Vec<SpatialMetric> =
                wanted.iter().filter(|metric| source.has_masks || !metric.needs_mask()).copied().collect();
            let grid = setting.plan.backbone.grid;
            let subject = Measurement {
                encoder: serde_json::to_value(encoder).context("cannot write an encoder's settings")?,
                data: serde_json::to_value(&recipe.data).context("cannot write the data's settings")?,
                image_size: recipe.image_size,
                seed: recipe.seed,
                grid: [grid.rows, grid.columns],
                metrics: metrics.iter().map(|metric| metric.name().to_string()).collect(),
            };
            if structure.0.get(&entry.label).is_some_and(|known| known.subject == subject) {
                continue;
            }
            let config = serde_json::from_value(subject.encoder.clone()).context("an encoder's settings")?;
            let named = NamedEncoder { label: entry.label.clone(), config };
            let device = DeviceChoice::parse(&recipe.device).and_then(ops::open).context("device")?;
            let normalizer = read_normalizer("structure", "none")?;
            let context = setting.plan.encoder_context();
            let found = measure(&named, &*normalizer, source, &metrics, BATCH, &context, &device)?;
            let means = found.values.iter().map(|(name, values)| (name.to_string(), mean_of_numbers(values)));
            let known = Known { subject, metrics: means.filter(|(_, mean)| mean.is_finite()).collect() };
            structure.0.insert(entry.label.clone(), known);
            let text = serde_json::to_string_pretty(&structure).context("cannot write the structure")? + "\n";
            write_whole(file, text.as_bytes())?;
        }
        Ok(structure)
    }
}
