//! The report's figures.

use std::collections::BTreeSet;

use anyhow::Result;
use realign::eval::bootstrap::Interval;

use super::Findings;
use super::block::Block;
use crate::measuring::history::History;
use crate::plot::{Axes, CURVES, Curve, IntervalRow, draw_curves, draw_intervals, interval_size, svg};
use crate::reproduce::state::less_is_better;

const MOST_CURVES: usize = 12; // more cannot be told apart
const MOST_SPATIAL: usize = 8; // figures of the structure of tokens
const WIDE: f64 = 10.0; // from this ratio on, a logarithmic axis

/// Our numbers with their noise, one line for each evaluation, in the order of the runs.
///
/// # Errors
/// Drawing fails.
pub fn intervals(findings: &Findings<'_>) -> Result<Option<Block>> {
    let Some(metric) = &findings.metric else { return Ok(None) };
    let mut rows = vec![];
    for (at, number) in findings.distinct.iter().zip(1..) {
        let Some(outcome) = findings.ours[*at].outcome(metric) else { continue };
        let noise = outcome.noise();
        let [low, high] = match (outcome.interval, noise) {
            (Some(interval), _) => interval,
            (None, Some(noise)) => [outcome.mean - noise, outcome.mean + noise],
            (None, None) => [f64::NAN; 2],
        };
        let block = findings.subject.settings[*at].first().and_then(|setting| setting.plan.recipe.alignment.first());
        let block = block.map(|term| format!(", block {}", term.encoder_depth)).unwrap_or_default();
        rows.push(IntervalRow {
            name: format!("{number}  {}{block}", findings.run_name(*at)),
            note: super::numbers::shown(crate::reproduce::Outcome { spread: None, interval: None, ..outcome }),
            interval: Interval { mean: outcome.mean, low, high },
        });
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let better = if less_is_better(metric) { "less is better" } else { "more is better" };
    let bars = match findings.subject.seeds {
        1 => "one seed; bars: 95 % over the samples of the evaluation",
        _ => "mean over seeds; bars: twice the standard error",
    };
    let axis = format!("{metric} ({better})");
    let figure = svg(interval_size(rows.len()), |area| draw_intervals(area, ["Our runs", bars, &axis], &rows))?;
    Ok(Some(Block::Figure("runs".into(), figure, format!("{metric} of each run"))))
}

/// Numbers over steps of the first seed's runs: the metric where it was taken more than once, else a loss; and the spatial
/// structure of the network's tokens where it was measured.
///
/// # Errors
/// Drawing fails.
pub fn curves(findings: &Findings<'_>) -> Result<Vec<Block>> {
    let histories = histories(findings);
    let of = |metric: &str| {
        let curves = curves_of(&histories, metric);
        curves.iter().any(|curve| curve.points.len() > 2).then_some((metric.to_string(), curves))
    };
    let loss = || of("train/denoising_loss");
    let first = findings.metric.as_ref().and_then(|metric| of(metric)).or_else(loss);
    let tags: BTreeSet<String> = histories.iter().flat_map(|(_, history)| history.metrics()).collect();
    let spatial = tags.iter().filter(|tag| tag.starts_with("spatial/")).filter_map(|tag| of(tag)).take(MOST_SPATIAL);
    first.into_iter().chain(spatial).map(|(metric, curves)| figure(&histories, &metric, &curves)).collect()
}

/// Runs of the first seed, by name.
fn histories(findings: &Findings<'_>) -> Vec<(String, History)> {
    let numbered = findings.distinct.iter().zip(1..);
    let found = numbered.filter_map(|(at, number)| {
        let setting = findings.subject.settings[*at].first()?;
        Some((format!("{number}  {}", findings.run_name(*at)), History::read(&setting.run_dir).ok()?))
    });
    found.take(MOST_CURVES).collect()
}

fn curves_of(histories: &[(String, History)], metric: &str) -> Vec<Curve> {
    let found = histories.iter().filter_map(|(name, history)| {
        let curve = history.curve(metric, false)?;
        Some(Curve { name: name.clone(), ..curve })
    });
    found.collect()
}

fn figure(histories: &[(String, History)], metric: &str, curves: &[Curve]) -> Result<Block> {
    let count = histories.iter().find_map(|(_, history)| history.mean_of(metric)).unwrap_or(1);
    let title =
        if count > 1 { format!("{metric}, means of {count} values, seed 0") } else { format!("{metric}, seed 0") };
    let (low, high) = range(curves);
    let log = [false, low > 0.0 && high > WIDE * low];
    let axes = Axes { title, x: "training step".into(), y: metric.into(), log };
    let figure = svg(CURVES, |area| draw_curves(area, &axes, curves))?;
    let name = metric.strip_prefix("spatial/").map_or("curves".into(), |tag| format!("spatial-{tag}"));
    Ok(Block::Figure(name, figure, format!("{metric} over steps")))
}

fn range(curves: &[Curve]) -> (f64, f64) {
    let values = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)))
}
