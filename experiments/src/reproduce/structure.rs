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
        let mut wanted: Vec<SpatialMetric> = SpatialMetric::all().into();
        wanted.retain(|metric| table.correlates(metric.name()));
        let mut structure = Self::read(file);
        let first = settings.iter().flatten().next();
        let Some(first) = first.filter(|_| !wanted.is_empty()) else { return Ok(structure) };
        let dataset = first.plan.recipe.data.open(&first.plan.dataset_context()).context("data")?;
        let source = Source::evenly(dataset.into(), PICTURES)?;
        wanted.retain(|metric| source.has_masks || !metric.needs_mask());
        for (entry, settings) in entries.iter().zip(settings) {
            let Some(setting) = settings.first() else { continue };
            let Some(subject) = Measurement::of(setting, &wanted)? else { continue };
            if structure.0.get(&entry.label).is_some_and(|known| known.subject == subject) {
                continue;
            }
            let metrics = subject.measure(&entry.label, setting, &source, &wanted)?;
            structure.0.insert(entry.label.clone(), Known { subject, metrics });
            structure.write(file)?;
        }
        Ok(structure)
    }

    fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        }
        let text = serde_json::to_string_pretty(self).context("cannot write the structure")? + "\n";
        write_whole(file, text.as_bytes())
    }
}

impl Measurement {
    /// Of the encoder that a run aligns with; nothing where it aligns with none.
    fn of(setting: &Setting, metrics: &[SpatialMetric]) -> Result<Option<Self>> {
        let recipe = &setting.plan.recipe;
        let Some(encoder) = recipe.alignment.first().and_then(|term| term.encoders.first()) else { return Ok(None) };
        let grid = setting.plan.backbone.grid;
        Ok(Some(Self {
            encoder: serde_json::to_value(encoder).context("cannot write an encoder's settings")?,
            data: serde_json::to_value(&recipe.data).context("cannot write the data's settings")?,
            image_size: recipe.image_size,
            seed: recipe.seed,
            grid: [grid.rows, grid.columns],
            metrics: metrics.iter().map(|metric| metric.name().to_string()).collect(),
        }))
    }

    /// Means over the pictures; a metric without any is left out.
    fn measure(
        &self,
        label: &str,
        setting: &Setting,
        source: &Source,
        metrics: &[SpatialMetric],
    ) -> Result<BTreeMap<String, f64>> {
        let config = serde_json::from_value(self.encoder.clone()).context("an encoder's settings")?;
        let encoder = NamedEncoder { label: label.into(), config };
        let device = DeviceChoice::parse(&setting.plan.recipe.device).and_then(ops::open).context("device")?;
        let normalizer = read_normalizer("structure", "none")?;
        let context = setting.plan.encoder_context();
        let found = measure(&encoder, &*normalizer, source, metrics, BATCH, &context, &device)?;
        let means = found.values.iter().map(|(name, values)| (name.to_string(), mean_of_numbers(values)));
        Ok(means.filter(|(_, mean)| mean.is_finite()).collect())
    }
}
