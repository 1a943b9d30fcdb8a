//! `realign plot`: curves of runs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use realign::files::write_whole;
use realign::registry::nearest;

use crate::measuring::history::{History, folder_name};
use crate::plot::{Axes, CURVES, Canvas, Curve, draw_curves, svg};
use crate::reproduce::Outcome;

/// Curves of one run or several
#[derive(Debug, Args)]
pub struct Plot {
    /// Run folders, or folders that hold run folders; `NAME=FOLDER` for another name in the legend, and runs of one name,
    /// say of several seeds, become their mean with twice its standard error
    #[arg(required = true)]
    runs: Vec<String>,
    /// What is drawn: a number of `metrics.jsonl` (`train/loss`) or of evaluations (`fid`); the first distance that runs
    /// were evaluated by when left out, else the loss
    #[arg(long)]
    metric: Option<String>,
    /// File of the figure, `.png` or `.svg`
    #[arg(long, default_value = "curves.png")]
    out: PathBuf,
    /// Axes that are logarithmic: `x`, `y`
    #[arg(long, value_delimiter = ',')]
    log: Vec<String>,
    /// Along the steps: `step`, or `hours` of training
    #[arg(long, default_value = "step")]
    x: String,
}

impl Plot {
    /// Reads and draws.
    ///
    /// # Errors
    /// A folder is no run, or no run has the metric.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let histories = self.histories()?;
        let metric = self.metric(&histories)?;
        let log = self.log_axes()?;
        let in_hours = match self.x.as_str() {
            "step" => false,
            "hours" => true,
            other => bail!("--x {other}: known: step, hours"),
        };
        let mut curves = vec![];
        for (name, history) in &histories {
            let Some(curve) = history.curve(&metric, in_hours) else {
                writeln!(out, "note: `{name}` has no `{metric}`")?;
                continue;
            };
            curves.push(Curve { name: name.clone(), ..curve });
        }
        let curves = means(curves)?;
        let title = match histories.iter().find_map(|(_, history)| history.mean_of(&metric)) {
            Some(count) if count > 1 => format!("{metric}, means of {count} values"),
            _ => metric.clone(),
        };
        let x = if in_hours { "training time (hours)" } else { "training step" };
        let axes = Axes { title, x: x.into(), y: metric, log };
        match self.out.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => {
                let text = svg(CURVES, |area| draw_curves(area, &axes, &curves))?;
                write_whole(&self.out, text.as_bytes())?;
            }
            Some("png") => {
                let mut canvas = Canvas::new(CURVES[0], CURVES[1]);
                canvas.draw(|area| draw_curves(area, &axes, &curves))?;
                canvas.save(&self.out)?;
            }
            _ => bail!("--out {}: the name must end in .png or .svg", self.out.display()),
        }
        writeln!(out, "plot: {}", self.out.display())?;
        Ok(ExitCode::SUCCESS)
    }

    fn histories(&self) -> Result<Vec<(String, History)>> {
        let mut all = vec![];
        for word in &self.runs {
            let (name, folder) = match word.split_once('=') {
                Some((name, folder)) if !Path::new(word).exists() => (Some(name.to_string()), folder),
                _ => (None, word.as_str()),
            };
            let folder = Path::new(folder);
            let found = run_folders(folder)?;
            ensure!(
                !found.is_empty(),
                "`{}` is no run folder and holds none: there is no `metrics.jsonl`",
                folder.display()
            );
            for run in &found {
                let own = name.clone().unwrap_or_else(|| {
                    let own = folder_name(run);
                    let is_taken = all.iter().any(|(other, _)| *other == own);
                    if is_taken { run.display().to_string() } else { own }
                });
                all.push((own, History::read(run)?));
            }
        }
        Ok(all)
    }

    fn metric(&self, histories: &[(String, History)]) -> Result<String> {
        let mut known = BTreeMap::new();
        for name in histories.iter().flat_map(|(_, history)| history.metrics()) {
            *known.entry(name).or_insert(0) += 1;
        }
        let names = || known.keys().map(String::as_str);
        match &self.metric {
            Some(metric) if known.contains_key(metric) => Ok(metric.clone()),
            Some(metric) => {
                let hint = nearest(metric, names()).map(|near| format!("did you mean `{near}`? "));
                let list = names().collect::<Vec<_>>().join(", ");
                bail!("--metric {metric}: no run has it\n  {}known: {list}", hint.unwrap_or_default())
            }
            None => {
                let distance = names().find(|name| *name == "fid" || name.starts_with("fd_"));
                distance
                    .or(names().find(|name| *name == "train/loss"))
                    .map(str::to_string)
                    .context("the runs have no numbers")
            }
        }
    }

    fn log_axes(&self) -> Result<[bool; 2]> {
        let mut log = [false; 2];
        for axis in &self.log {
            match axis.as_str() {
                "x" => log[0] = true,
                "y" => log[1] = true,
                other => bail!("--log {other}: known: x, y"),
            }
        }
        Ok(log)
    }
}

/// The curves of each name, in the order of their first one, as one.
fn means(curves: Vec<Curve>) -> Result<Vec<Curve>> {
    let mut groups: Vec<Vec<Curve>> = vec![];
    for curve in curves {
        match groups.iter_mut().find(|group| group[0].name == curve.name) {
            Some(group) => group.push(curve),
            None => groups.push(vec![curve]),
        }
    }
    groups.into_iter().map(mean).collect()
}

/// Mean and noise at the steps that all have.
fn mean(mut curves: Vec<Curve>) -> Result<Curve> {
    if curves.len() == 1 {
        return Ok(curves.remove(0));
    }
    let name = &curves[0].name;
    let mut whole = Curve { name: format!("{name}, {} runs", curves.len()), points: vec![], band: vec![] };
    for (step, _) in &curves[0].points {
        let at = |curve: &Curve| curve.points.iter().find(|(other, _)| other == step).map(|(_, value)| *value);
        let values = curves.iter().map(at).collect::<Option<Vec<f64>>>();
        let Some(outcome) = values.and_then(|values| Outcome::over(&values)) else { continue };
        let noise = outcome.noise().unwrap_or(0.0);
        whole.points.push((*step, outcome.mean));
        whole.band.push([outcome.mean - noise, outcome.mean + noise]);
    }
    ensure!(!whole.points.is_empty(), "the runs named `{name}` have no step in common; give each a name of its own");
    Ok(whole)
}

/// The folder itself, or the run folders in it, by name.
fn run_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_run = |folder: &Path| folder.join("metrics.jsonl").is_file();
    if is_run(folder) {
        return Ok(vec![folder.to_path_buf()]);
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_run(path)).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_name_become_their_mean_at_common_steps() {
        let curve =
            |name: &str, values: &[(f64, f64)]| Curve { name: name.into(), points: values.into(), band: vec![] };
        let found = means(vec![
            curve("b", &[(1.0, 3.0), (2.0, 4.0)]),
            curve("a", &[(1.0, 7.0)]),
            curve("b", &[(2.0, 6.0), (3.0, 9.0)]),
        ])
        .unwrap();
        let [b, a] = &found[..] else { panic!("{found:?}") };
        assert_eq!((b.name.as_str(), &b.points[..]), ("b, 2 runs", &[(2.0, 5.0)][..]));
        assert!(
            (b.band[0][0] - 3.0).abs() + (b.band[0][1] - 7.0).abs() < 1e-12,
            "the standard error is 1: {:?}",
            b.band
        );
        assert_eq!((a.name.as_str(), &a.points[..], a.band.len()), ("a", &[(1.0, 7.0)][..], 0));
        let apart = means(vec![curve("b", &[(1.0, 3.0)]), curve("b", &[(2.0, 4.0)])]).unwrap_err().to_string();
        assert!(apart.contains("`b` have no step in common"), "{apart}");
    }
}
