//! What a run folder tells of a run over its steps.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::evaluation::result::Evaluation;
use crate::plot::Curve;

/// Points of a curve; more are drawn as means of neighbors, for a step's loss is mostly noise.
const MOST: usize = 120;

/// Scalars of `metrics.jsonl`, and the evaluations in `eval`.
#[derive(Debug, Default)]
pub struct History {
    /// By tag: step, hours, value.
    logged: BTreeMap<String, Vec<[f64; 3]>>,
    /// By the digest of their settings in the file's name, which is empty for the recipe's own.
    evaluations: BTreeMap<String, Vec<Evaluation>>,
}

impl History {
    /// Reads a run folder. Lines of a step that was trained again after a crash count once: the later ones.
    ///
    /// # Errors
    /// There is no `metrics.jsonl`.
    pub fn read(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let mut history = Self::default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let Some((step, time)) = line["step"].as_f64().zip(line["time_s"].as_f64()) else { continue };
            for (tag, value) in line.as_object().into_iter().flatten().filter(|(tag, _)| tag.contains('/')) {
                let Some(value) = value.as_f64() else { continue };
                let values = history.logged.entry(tag.clone()).or_default();
                while values.last().is_some_and(|last| last[0] >= step) {
                    values.pop();
                }
                values.push([step, time / 3600.0, value]);
            }
        }
        history.evaluations = evaluations(run_dir);
        Ok(history)
    }

    /// Everything that can be drawn.
    pub fn metrics(&self) -> Vec<String> {
        let evaluated = self.evaluations.values().flatten().flat_map(|found| found.metrics.keys());
        let mut names: Vec<String> = self.logged.keys().chain(evaluated).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// A number over steps, or over hours of training; nothing where the run has none.
    pub fn curve(&self, metric: &str, in_hours: bool) -> Option<Curve> {
        if let Some(values) = self.logged.get(metric) {
            let chunks = values.chunks(values.len().div_ceil(MOST).max(1));
            let mean =
                |chunk: &[[f64; 3]], at: usize| chunk.iter().map(|one| one[at]).sum::<f64>() / chunk.len() as f64;
            let x = usize::from(in_hours);
            let points = chunks.map(|chunk| (mean(chunk, x), mean(chunk, 2))).collect();
            return Some(Curve { points, ..Curve::default() });
        }
        // One curve is of one group of settings: the recipe's own, else the one with the most steps.
        let groups = self.evaluations.iter().map(|(digest, all)| {
            let found = all.iter().filter_map(|one| Some((one.step? as f64, one.metrics.get(metric)?)));
            (digest.is_empty(), found.collect::<Vec<_>>())
        });
        let groups = groups.filter(|(_, found)| !found.is_empty());
        let mut found = groups.max_by_key(|(is_own, found)| (*is_own, found.len()))?.1;
        found.sort_by(|one, other| one.0.total_cmp(&other.0));
        let points: Vec<_> = found.iter().map(|(step, number)| (self.place(*step, in_hours), number.value)).collect();
        let band: Vec<_> = found.iter().filter_map(|(_, number)| Some([number.low?, number.high?])).collect();
        let band = if band.len() == points.len() { band } else { vec![] };
        (!points.is_empty()).then(|| Curve { name: String::new(), points, band })
    }

    /// Values behind each point of a curve.
    pub fn mean_of(&self, metric: &str) -> Option<usize> {
        self.logged.get(metric).map(|values| values.len().div_ceil(MOST).max(1))
    }

    /// Hours at a step, by the nearest line before it.
    fn place(&self, step: f64, in_hours: bool) -> f64 {
        if !in_hours {
            return step;
        }
        let lines = self.logged.values().next().into_iter().flatten();
        lines.take_while(|line| line[0] <= step).last().map_or(0.0, |line| line[1])
    }
}

/// Evaluations of a run folder, those with the same settings together.
fn evaluations(run_dir: &Path) -> BTreeMap<String, Vec<Evaluation>> {
    let mut groups: BTreeMap<String, Vec<Evaluation>> = BTreeMap::new();
    for path in fs::read_dir(run_dir.join("eval")).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else { continue };
        if let Ok(found) = Evaluation::read(&path) {
            groups.entry(name.splitn(3, '-').nth(2).unwrap_or_default().into()).or_default().push(found);
        }
    }
    groups
}

/// The last part of a path.
pub fn folder_name(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(lines: &str) -> History {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), lines).unwrap();
        History::read(folder.path()).unwrap()
    }

    #[test]
    fn steps_that_were_trained_again_count_once() {
        let lines = "{\"step\":1,\"time_s\":3.6,\"a/b\":5}\n{\"step\":2,\"time_s\":7.2,\"a/b\":6}\n\
                     {\"step\":2,\"time_s\":9,\"a/b\":7}\n{\"step\":3,\"time_s\":10.8,\"a/b\":null}\nbroken";
        let history = history(lines);
        assert_eq!(history.curve("a/b", false).unwrap().points, [(1.0, 5.0), (2.0, 7.0)]);
        assert_eq!(history.curve("a/b", true).unwrap().points[0].0, 0.001);
        assert_eq!(history.metrics(), ["a/b"]);
        assert!(history.curve("a/c", false).is_none());
    }

    #[test]
    fn many_values_become_means_of_neighbors() {
        let lines: String =
            (1..=600).map(|step| format!("{{\"step\":{step},\"time_s\":1,\"a/b\":{step}}}\n")).collect();
        let history = history(&lines);
        let points = history.curve("a/b", false).unwrap().points;
        assert_eq!((points.len(), points[0]), (120, (3.0, 3.0)));
        assert_eq!(history.mean_of("a/b"), Some(5));
    }

    #[test]
    fn a_curve_is_of_one_group_of_settings_the_recipes_own_first() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, step: u64, value: f64| {
            let text = serde_json::json!({
                "schema": 1, "source": "x", "step": step, "settings": {
                    "num_samples": 2, "seeds": [0], "picture_size": [1, 1], "features": [], "bootstrap": 0,
                    "reference": {"source": "data"}, "realign": "0", "device": "cpu"
                },
                "metrics": {"fid": {"value": value, "convention": "adm", "by_seed": [value]}}
            });
            fs::create_dir_all(folder.path().join("eval")).unwrap();
            fs::write(folder.path().join("eval").join(name), text.to_string()).unwrap();
        };
        fs::write(folder.path().join("metrics.jsonl"), "").unwrap();
        let points = || History::read(folder.path()).unwrap().curve("fid", false).unwrap().points;
        write("step-0000004-635efd77.json", 4, 9.0);
        write("step-0000008-00000000.json", 8, 7.0);
        write("step-0000004-00000000.json", 4, 8.0);
        assert_eq!(points(), [(4.0, 8.0), (8.0, 7.0)]);
        write("step-0000004.json", 4, 5.0);
        assert_eq!(points(), [(4.0, 5.0)]);
    }
}
