//! The report's figures.

use anyhow::Result;
use realign::eval::bootstrap::Interval;

use super::Findings;
use super::block::Block;
use crate::measuring::history::History;
use crate::plot::{Axes, CURVES, Curve, IntervalRow, draw_curves, draw_intervals, interval_size, svg};
use crate::reproduce::state::less_is_better;

const MOST_CURVES: usize = 12; // more cannot be told apart
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
    Ok(Some(Block::Figure("runs", figure, format!("{metric} of each run"))))
}

/// A number over steps of the first seed's runs: the metric where it was taken more than once, else a loss.
///
/// # Errors
/// Drawing fails.
pub fn curves(findings: &Findings<'_>) -> Result<Option<Block>> {
    let histories: Vec<(String, History)> = findings
        .distinct
        .iter()
        .zip(1..)
        .filter_map(|(at, number)| {
            let setting = findings.subject.settings[*at].first()?;
            Some((format!("{number}  {}", findings.run_name(*at)), History::read(&setting.run_dir).ok()?))
        })
        .take(MOST_CURVES)
        .collect();
    let of = |metric: &str| -> Vec<Curve> {
        let found = histories.iter().filter_map(|(name, history)| {
            let curve = history.curve(metric, false)?;
            Some(Curve { name: name.clone(), ..curve })
        });
        found.collect()
    };
    let logged = findings.metric.as_ref().map(|metric| (metric.clone(), of(metric)));
    let is_curve = |curves: &[Curve]| curves.iter().any(|curve| curve.points.len() > 2);
    let (metric, curves) = match logged {
        Some((metric, curves)) if is_curve(&curves) => (metric, curves),
        _ => ("train/denoising_loss".to_string(), of("train/denoising_loss")),
    };
    if !is_curve(&curves) {
        return Ok(None);
    }
    let count = histories.iter().find_map(|(_, history)| history.mean_of(&metric)).unwrap_or(1);
    let title =
        if count > 1 { format!("{metric}, means of {count} values, seed 0") } else { format!("{metric}, seed 0") };
    let (low, high) = range(&curves);
    let log = [false, low > 0.0 && high > WIDE * low];
    let axes = Axes { title, x: "training step".into(), y: metric.clone(), log };
    let figure = svg(CURVES, |area| draw_curves(area, &axes, &curves))?;
    Ok(Some(Block::Figure("curves", figure, format!("{metric} over steps"))))
}

fn range(curves: &[Curve]) -> (f64, f64) {
    let values = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)))
}
