//! `realign rank`: which encoder to align with, by spatial structure on the pictures that will be trained on.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use realign::eval::bootstrap::{Bootstrap, Interval};
use realign::eval::spatial::mean_of_numbers;
use realign::files::write_whole;
use realign::ops;
use realign::registry::nearest;
use serde_json::json;

use super::metrics::about;
use crate::measuring::paper::{Paper, PaperEncoder};
use crate::measuring::{EncoderArgs, Measured, PictureArgs, context, measure, metrics_of};
use crate::plot::{IntervalRow, interval_chart};
use crate::table::{Table, number};

const MOST_DRAWS: usize = 100_000;

/// Which encoder to align with: by spatial structure on your pictures, with intervals and costs
#[derive(Debug, Args)]
pub struct Rank {
    #[command(flatten)]
    encoders: EncoderArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    /// Further metrics beside it, as for `metrics`; all four when left out, srss only where there are masks
    #[arg(long = "metric", value_name = "METRIC")]
    metrics: Vec<String>,
    /// The metric that decides
    #[arg(long, default_value = "lds")]
    by: String,
    /// Draws of the bootstrap over pictures
    #[arg(long, default_value_t = 1000)]
    draws: usize,
    /// Folder for `rank.csv`, `rank.json` and `rank.png`
    #[arg(long, default_value = "rank")]
    out: PathBuf,
}

struct Ranked {
    measured: Measured,
    interval: Interval,
    /// Share of the draws in which it stays ahead of the next.
    ahead: Option<f64>,
}

/// A number that the paper has of an encoder: name, value, digits.
type Column = (&'static str, fn(&PaperEncoder) -> Option<f64>, usize);

impl Rank {
    /// Measures, orders, prints and draws.
    ///
    /// # Errors
    /// An encoder, a picture or a metric is not what it should be, or the disk refuses.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let (encoders, normalizer, device) =
            (self.encoders.some()?, self.encoders.normalizer()?, self.pictures.device()?);
        let source = self.pictures.open()?;
        let metrics = metrics_of(&self.metrics, &source)?;
        if !metrics.iter().any(|metric| metric.name() == self.by) {
            let known: Vec<&str> = metrics.iter().map(|metric| metric.name()).collect();
            let hint = nearest(&self.by, known.iter().copied()).map(|word| format!("did you mean `{word}`? "));
            bail!(
                "--by {}: it is not measured here\n  {}known: {}; others with --metric, srss with --masks",
                self.by,
                hint.unwrap_or_default(),
                known.join(", ")
            );
        }
        let context = context(self.pictures.image_size(), self.pictures.grid(), &self.encoders.weights_dir);
        ensure!(
            (1..=MOST_DRAWS).contains(&self.draws),
            "--draws: `{}` is out of range; allowed is 1 to {MOST_DRAWS}",
            self.draws
        );
        let batch = self.pictures.batch;
        let measured = encoders
            .iter()
            .map(|encoder| measure(encoder, &*normalizer, &source, &metrics, batch, &context, &device))
            .collect::<Result<Vec<_>>>()?;
        let bootstrap = Bootstrap::new(source.indices.len(), self.draws, self.pictures.seed);
        let ranked = self.order(measured, &bootstrap);
        let paper = Paper::read()?;
        let table = self.table(&ranked, &paper);
        write!(out, "{}", table.to_text())?;
        let reason = reason(&self.by, &paper);
        writeln!(out, "{}; {}", about(&source), ops::describe(&device))?;
        writeln!(out, "{} decides: {reason}", self.by)?;
        self.write(&ranked, &table, &reason, &source.ids, &ops::describe(&device))?;
        writeln!(out, "table and plot: {}", self.out.join("rank.png").display())?;
        Ok(ExitCode::SUCCESS)
    }

    /// Best first; an encoder without a number is last.
    fn order(&self, measured: Vec<Measured>, bootstrap: &Bootstrap) -> Vec<Ranked> {
        let interval = |measured: &Measured| bootstrap.interval(measured.of(&self.by));
        let mut ranked: Vec<Ranked> = measured
            .into_iter()
            .map(|measured| Ranked { interval: interval(&measured), measured, ahead: None })
            .collect();
        let key =
            |ranked: &Ranked| if ranked.interval.mean.is_nan() { f64::NEG_INFINITY } else { ranked.interval.mean };
        ranked.sort_by(|a, b| key(b).total_cmp(&key(a)));
        for i in 1..ranked.len() {
            let [a, b] = [&ranked[i - 1], &ranked[i]].map(|ranked| ranked.measured.of(&self.by));
            ranked[i - 1].ahead = Some(bootstrap.share_above(a, b));
        }
        ranked
    }

    fn table(&self, ranked: &[Ranked], paper: &Paper) -> Table {
        let others = |ranked: &Ranked| {
            let values = ranked.measured.values.iter().filter(|(name, _)| *name != self.by);
            values.map(|(name, values)| (*name, mean_of_numbers(values))).collect::<Vec<_>>()
        };
        let mut header: Vec<String> = ["rank", "encoder", &self.by, "95%", "ahead_of_next"].map(str::to_string).into();
        header.extend(ranked.first().map_or(vec![], others).into_iter().map(|(name, _)| name.to_string()));
        header.extend(["ms_per_image", "params"].map(str::to_string));
        let known: Vec<Option<&PaperEncoder>> =
            ranked.iter().map(|ranked| paper.encoder(&ranked.measured.label)).collect();
        let columns: [Column; 4] = [
            ("paper_linear_probe", |known| known.linear_probe, 1),
            ("paper_lds", |known| known.lds, 1),
            ("paper_fid", |known| known.fid, 2),
            ("paper_fid_irepa", |known| known.fid_irepa, 2),
        ];
        let is_known = known.iter().any(Option::is_some);
        if is_known {
            header.extend(columns.iter().map(|(name, ..)| name.to_string()));
        }
        let mut table = Table::new(header);
        for (i, (ranked, known)) in ranked.iter().zip(known).enumerate() {
            let Interval { mean, low, high } = ranked.interval;
            let ahead = ranked.ahead.map_or_else(|| "-".into(), |share| format!("{share:.3}"));
            let interval = format!("{} to {}", number(low, 4), number(high, 4));
            let mut row = vec![(i + 1).to_string(), ranked.measured.label.clone(), number(mean, 4), interval, ahead];
            row.extend(others(ranked).into_iter().map(|(_, mean)| number(mean, 4)));
            row.push(number(ranked.measured.seconds_per_image * 1e3, 2));
            row.push(count(ranked.measured.num_params));
            if is_known {
                let value = |read: fn(&PaperEncoder) -> Option<f64>| known.and_then(read).unwrap_or(f64::NAN);
                row.extend(columns.iter().map(|(_, read, digits)| number(value(*read), *digits)));
            }
            table.rows.push(row);
        }
        table
    }

    fn write(&self, ranked: &[Ranked], table: &Table, reason: &str, ids: &[String], device: &str) -> Result<()> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make the folder `{}`", self.out.display()))?;
        table.write_csv(&self.out.join("rank.csv"))?;
        let entry = |ranked: &Ranked| {
            let Interval { mean, low, high } = ranked.interval;
            json!({ "mean": mean, "interval_95": [low, high], "ahead_of_next": ranked.ahead,
                    "measured": ranked.measured.to_json() })
        };
        let result = json!({
            "by": self.by,
            "reason": reason,
            "images": self.pictures.images,
            "image_size": self.pictures.image_size(),
            "normalizer": self.encoders.normalizer,
            "bootstrap_draws": self.draws,
            "ids": ids,
            "ranked": ranked.iter().map(entry).collect::<Vec<_>>(),
            "realign": env!("CARGO_PKG_VERSION"),
            "device": device,
        });
        let text = serde_json::to_string_pretty(&result).context("cannot write the result")? + "\n";
        write_whole(&self.out.join("rank.json"), text.as_bytes())?;
        let rows: Vec<IntervalRow> = ranked
            .iter()
            .map(|ranked| IntervalRow {
                name: ranked.measured.label.clone(),
                note: format!("{} ms/image", number(ranked.measured.seconds_per_image * 1e3, 1)),
                interval: ranked.interval,
            })
            .collect();
        let title = format!("Spatial structure ({}) of encoders as alignment targets", self.by);
        let subtitle = format!("mean over {} pictures and 95% bootstrap interval; more is better", ids.len());
        interval_chart(&title, &subtitle, &self.by, &rows)?.save(&self.out.join("rank.png"))
    }
}

/// Why this metric decides, with what the paper found of it.
fn reason(by: &str, paper: &Paper) -> String {
    let found: Vec<String> = ["SiT-XL/2", "SiT-B/2"]
        .iter()
        .filter_map(|model| paper.r(by, "fid", model))
        .map(|known| format!("r = {:.2} with FID over {} encoders ({})", known.r, known.encoders, known.model))
        .collect();
    let found = if found.is_empty() { "the paper gives no correlation".into() } else { found.join(", ") };
    match by {
        "lds" | "lds_code" => {
            format!("{found}; needs no masks, and unlike rmsc it gives noise, which has no structure, nothing")
        }
        "rmsc" => format!("{found}; note that tokens of pure noise have a high rmsc"),
        _ => found,
    }
}

fn count(params: usize) -> String {
    match params {
        0..1_000_000 => params.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1}M", params as f64 / 1e6),
        _ => format!("{:.2}B", params as f64 / 1e9),
    }
}
