//! `realign metrics`: spatial structure of encoders' features.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use realign::eval::spatial::mean_of_numbers;
use realign::files::write_whole;
use realign::ops;
use serde_json::json;

use crate::measuring::{EncoderArgs, Measured, PictureArgs, Source, context, measure, metrics_of};
use crate::table::{Table, number};

/// Spatial structure of encoders' features on your pictures
#[derive(Debug, Args)]
pub struct Metrics {
    #[command(flatten)]
    encoders: EncoderArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    /// Metric, as in a recipe: `lds`, `{type: lds, mode: code}`, `cds`, `srss`, `rmsc`; may be repeated. All four when
    /// left out, srss only where there are masks
    #[arg(long = "metric", value_name = "METRIC")]
    metrics: Vec<String>,
    /// Write the table to this CSV file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write everything, values of each picture too, to this JSON file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Metrics {
    /// Measures, prints and writes.
    ///
    /// # Errors
    /// An encoder, a picture or a metric is not what it should be.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let (encoders, normalizer, device) =
            (self.encoders.some()?, self.encoders.normalizer()?, self.pictures.device()?);
        let source = self.pictures.open()?;
        let metrics = metrics_of(&self.metrics, &source)?;
        let context = context(self.pictures.image_size(), self.pictures.grid(), &self.encoders.weights_dir);
        let mut measured = vec![];
        for encoder in &encoders {
            measured.push(measure(encoder, &*normalizer, &source, &metrics, self.pictures.batch, &context, &device)?);
        }
        let table = table(&measured);
        write!(out, "{}", table.to_text())?;
        writeln!(out, "{}", about(&source))?;
        if let Some(path) = &self.csv {
            table.write_csv(path)?;
        }
        if let Some(path) = &self.json {
            let result = json!({
                "images": self.pictures.images,
                "image_size": self.pictures.image_size(),
                "normalizer": self.encoders.normalizer,
                "settings": serde_json::to_value(&metrics).context("cannot write the metrics")?,
                "ids": source.ids,
                "encoders": measured.iter().map(Measured::to_json).collect::<Vec<_>>(),
                "realign": env!("CARGO_PKG_VERSION"),
                "device": ops::describe(&device),
            });
            let text = serde_json::to_string_pretty(&result).context("cannot write the result")? + "\n";
            write_whole(path, text.as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How many pictures were measured.
pub(super) fn about(source: &Source) -> String {
    let left_out = match source.num_without_mask {
        0 => String::new(),
        count => format!("; {count} left out: no mask, or object or surroundings below a quarter of the tokens"),
    };
    let masks = if source.has_masks { "with object masks" } else { "without object masks" };
    format!("{} pictures {masks}{left_out}", source.indices.len())
}

fn table(measured: &[Measured]) -> Table {
    let names = measured.first().map_or(vec![], |first| first.values.iter().map(|(name, _)| *name).collect());
    let mut table =
        Table::new(["encoder"].into_iter().chain(names).chain(["grid", "channels", "ms_per_image", "num_images"]));
    for one in measured {
        let means = one.values.iter().map(|(_, values)| number(mean_of_numbers(values), 4));
        let count = one.values.first().map_or(0, |(_, values)| values.len());
        let rest =
            [one.grid.to_string(), one.channels.to_string(), number(one.seconds_per_image * 1e3, 2), count.to_string()];
        table.rows.push(std::iter::once(one.label.clone()).chain(means).chain(rest).collect());
    }
    table
}
