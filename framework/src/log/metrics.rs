//! `metrics.jsonl`: every scalar of a run, one JSON object per line.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Number, Value};

use super::record_file::RecordFile;
use crate::files::write_whole;

/// Appends lines such as `{"step":100,"time_s":12.5,"train/loss":0.81}`.
///
/// `time_s` is the time the log was open, summed over the lives of the run. Numbers that JSON lacks are the strings
/// `"NaN"`, `"Infinity"` and `"-Infinity"`, so every line is valid JSON.
pub struct MetricsWriter {
    lines: RecordFile,
    repair: Option<String>,
    earlier_s: f64,
    opened: Instant,
}

impl MetricsWriter {
    /// Continues the file at `path`, made if absent.
    ///
    /// A half-written last line, left by a killed process, is dropped. With `resume_step`, so are the lines of later
    /// steps, which an earlier life wrote and this one writes again; `Some(0)` starts over, `None` keeps all lines.
    ///
    /// # Errors
    /// When the file cannot be read, repaired or opened for writing.
    pub fn open(path: &Path, resume_step: Option<u64>) -> Result<Self> {
        let kept = repair_lines(path, resume_step)?;
        let lines = RecordFile::continue_at(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let repair = (kept.num_unreadable > 0).then(|| {
            let (path, num_lines) = (path.display(), kept.num_unreadable);
            format!("`{path}`: dropped `{num_lines}` lines that are not JSON objects with a `step`")
        });
        Ok(Self { lines, repair, earlier_s: kept.time_s, opened: Instant::now() })
    }

    /// Appends one line; several lines of one step are fine.
    pub fn scalars<T: AsRef<str>>(&mut self, step: u64, scalars: &[(T, f64)]) {
        let time_s = self.earlier_s + self.opened.elapsed().as_secs_f64();
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        line.insert("time_s".into(), json_number((time_s * 1e3).round() / 1e3));
        line.extend(scalars.iter().map(|(tag, value)| (tag.as_ref().to_string(), json_number(*value))));
        self.lines.append(format!("{}\n", Value::Object(line)).as_bytes());
    }

    /// Asks the system to put the lines on the disk.
    pub fn flush(&mut self) {
        self.lines.flush();
    }

    /// What went wrong since the last call: lines lost in a repair, and the first write error, each once.
    pub fn take_problem(&mut self) -> Option<String> {
        self.repair.take().or_else(|| self.lines.take_problem())
    }
}

fn json_number(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// What a repair found.
#[derive(Default)]
struct Kept {
    /// Time of the latest line that stays.
    time_s: f64,
    /// Complete lines that had to go because they are no metrics.
    num_unreadable: usize,
}

/// Rewrites the file at `path` if it has lines that must go, or a last line without its end.
fn repair_lines(path: &Path, resume_step: Option<u64>) -> Result<Kept> {
    let mut kept = Kept::default();
    let found = match std::fs::read(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(kept),
        Err(error) => return Err(error).with_context(|| format!("cannot read `{}`", path.display())),
    };
    let last_step = resume_step.unwrap_or(u64::MAX);
    let mut good = Vec::with_capacity(found.len());
    for line in found.split_inclusive(|&byte| byte == b'\n') {
        let fields: Option<Map<String, Value>> = serde_json::from_slice(line).ok();
        let step = fields.as_ref().and_then(|fields| fields.get("step")?.as_u64());
        match (fields, step) {
            (Some(fields), Some(step)) if step <= last_step => {
                let time_s = fields.get("time_s").and_then(Value::as_f64).unwrap_or(0.0);
                kept.time_s = kept.time_s.max(time_s);
                good.extend_from_slice(line.trim_ascii_end());
                good.push(b'\n');
            }
            (Some(_), Some(_)) => {}
            _ => kept.num_unreadable += usize::from(line.ends_with(b"\n")),
        }
    }
    if good != found {
        write_whole(path, &good)?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps_of(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        let step = |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap();
        text.lines().map(step).collect()
    }

    #[test]
    fn every_line_is_json_also_with_nan_and_infinity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = MetricsWriter::open(&path, None).unwrap();
        metrics.scalars(3, &[("train/loss", 0.25), ("a", f64::NAN), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY)]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(r#"{"step":3,"time_s":0.0"#) && text.ends_with("}\n"), "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["train/loss"], 0.25);
        assert_eq!((&line["a"], &line["b"], &line["c"]), (&"NaN".into(), &"Infinity".into(), &"-Infinity".into()));
    }

    #[test]
    fn a_resume_drops_later_steps_and_a_half_written_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let earlier = "{\"step\":1,\"time_s\":5.0}\n{\"step\":2,\"time_s\":70.5}\n{\"step\":3,\"time_s\":99.0}\n{\"st";
        std::fs::write(&path, earlier).unwrap();
        let mut metrics = MetricsWriter::open(&path, Some(2)).unwrap();
        metrics.scalars(3, &[("train/loss", 1.0)]);
        assert_eq!(metrics.take_problem(), None);
        assert_eq!(steps_of(&path), [1, 2, 3]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#"{"step":3,"time_s":70.5"#), "time goes on from the kept lines: {text}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn opening_without_a_step_keeps_all_lines_and_ends_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":9}").unwrap();
        MetricsWriter::open(&path, None).unwrap().scalars::<&str>(10, &[]);
        assert_eq!(steps_of(&path), [1, 9, 10]);
    }

    #[test]
    fn lines_that_are_no_metrics_are_dropped_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, b"{\"step\":1}\n\0\0\xff\n[2]\n{\"step\":-3}\n{\"step\":4}\n").unwrap();
        let mut metrics = MetricsWriter::open(&path, Some(7)).unwrap();
        assert!(metrics.take_problem().unwrap().contains("`3` lines"));
        assert_eq!(metrics.take_problem(), None);
        assert_eq!(steps_of(&path), [1, 4]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_once_and_stops_nothing() {
        let lines = RecordFile::continue_at(Path::new("/dev/full")).unwrap();
        let mut metrics = MetricsWriter { lines, repair: None, earlier_s: 0.0, opened: Instant::now() };
        for step in 0..5 {
            metrics.scalars(step, &[("train/loss", 1.0)]);
            metrics.flush();
        }
        assert!(metrics.take_problem().unwrap().contains("`/dev/full`"));
        assert_eq!(metrics.take_problem(), None);
    }
}
