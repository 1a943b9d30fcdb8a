//! The log of one run: TensorBoard and `metrics.jsonl` together, and pictures also as files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::grid::encode_png;
use super::metrics::MetricsWriter;
use super::record_file::FirstProblem;
use super::tensorboard::EventWriter;
use crate::files::write_whole;

/// Everything a run logs, in its folder.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let run_dir = folder.path();
/// use realign::log::RunLog;
///
/// let mut log = RunLog::open(run_dir, None)?;
/// log.scalars(1, &[("train/loss", 0.81), ("train/lr", 1e-4)]);
/// log.flush();
/// assert!(log.problems().is_empty());
/// # anyhow::Ok(())
/// ```
pub struct RunLog {
    run_dir: PathBuf,
    events: EventWriter,
    metrics: MetricsWriter,
    picture_problem: FirstProblem,
}

impl RunLog {
    /// Opens the log in `run_dir`, which is made if absent.
    ///
    /// `resume_step` is the last step whose work is kept: what an earlier life logged of later steps is dropped from
    /// `metrics.jsonl` and marked as gone for TensorBoard. `Some(0)` starts over; `None` adds to what is there.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be made, read or repaired. Nothing fails after that.
    pub fn open(run_dir: &Path, resume_step: Option<u64>) -> Result<Self> {
        std::fs::create_dir_all(run_dir)
            .with_context(|| format!("cannot make the run folder `{}`", run_dir.display()))?;
        let metrics = MetricsWriter::open(&run_dir.join("metrics.jsonl"), resume_step)?;
        let mut events = EventWriter::create(run_dir)?;
        if let Some(step) = resume_step {
            events.resume_after(step);
        }
        Ok(Self { run_dir: run_dir.to_path_buf(), events, metrics, picture_problem: FirstProblem::default() })
    }

    /// Logs numbers by tag, such as `train/loss`, to TensorBoard and as one line of `metrics.jsonl`.
    pub fn scalars<T: AsRef<str>>(&mut self, step: u64, scalars: &[(T, f64)]) {
        self.events.scalars(step, scalars);
        self.metrics.scalars(step, scalars);
    }

    /// Logs a picture to TensorBoard and as `samples/<tag>-<step>.png`, and returns that path if the file is there.
    ///
    /// # Shapes
    /// * `rgb`: `[height, width, 3]`
    pub fn image(&mut self, tag: &str, step: u64, rgb: &[u8], width: usize, height: usize) -> Option<PathBuf> {
        let path = self.run_dir.join("samples").join(format!("{}-{step:07}.png", file_stem(tag)));
        let saved = encode_png(rgb, width, height).and_then(|png| {
            let written = write_picture(&path, &png);
            self.events.png(tag, step, png, width, height);
            written
        });
        match saved {
            Ok(()) => Some(path),
            Err(error) => {
                self.picture_problem.note(|| format!("image `{tag}` of step `{step}` is not saved: {error:#}"));
                None
            }
        }
    }

    /// Logs the distribution of `values`; NaN and infinities are left out.
    pub fn histogram(&mut self, tag: &str, step: u64, values: &[f32]) {
        self.events.histogram(tag, step, values);
    }

    /// Logs a text, which TensorBoard shows as Markdown.
    pub fn text(&mut self, tag: &str, step: u64, text: &str) {
        self.events.text(tag, step, text);
    }

    /// Asks the system to put everything on the disk.
    pub fn flush(&mut self) {
        self.events.flush();
        self.metrics.flush();
    }

    /// What went wrong since the last call; each file reports its first problem, once.
    pub fn problems(&mut self) -> Vec<String> {
        let metrics = std::iter::from_fn(|| self.metrics.take_problem());
        metrics.chain(self.events.take_problem()).chain(self.picture_problem.take()).collect()
    }
}

fn write_picture(path: &Path, png: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    }
    write_whole(path, png)
}

/// A tag as part of a file name: everything but letters, digits, `-` and `.` becomes an underscore.
fn file_stem(tag: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-.".contains(letter);
    tag.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io::Write;
    use std::process::Command;

    /// Two lives of a run: the first dies after step 5, the second goes on from step 3.
    fn write_two_lives(run_dir: &Path) {
        for (resume_step, steps, offset) in [(None, 1..=5, 0.0), (Some(3), 4..=6, 100.0)] {
            let mut log = RunLog::open(run_dir, resume_step).unwrap();
            for step in steps {
                log.scalars(step, &[("train/loss".to_string(), step as f64 + offset), ("train/lr".to_string(), 0.5)]);
            }
            log.histogram("weights/proj", 3, &[-1.0, 0.5, 0.5, f32::NAN]);
            log.text("recipe", 3, "type: *plain*");
            let path = log.image("sample/ema", 3, &[200; 35 * 12 * 3], 35, 12).unwrap();
            assert!(path.ends_with("samples/sample_ema-0000003.png") && path.is_file());
            log.flush();
            assert_eq!(log.problems(), Vec::<String>::new());
        }
    }

    #[test]
    fn metrics_carry_every_scalar_of_the_life_that_counts() {
        let dir = tempfile::tempdir().unwrap();
        write_two_lives(dir.path());
        let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let losses: Vec<f64> = lines.iter().map(|line| line["train/loss"].as_f64().unwrap()).collect();
        assert_eq!(losses, [1.0, 2.0, 3.0, 104.0, 105.0, 106.0]);
        assert!(lines.iter().all(|line| line["train/lr"] == 0.5));
    }

    #[test]
    fn tensorboard_reads_everything_back_where_python_has_it() {
        let python = std::env::var("REALIGN_PYTHON").unwrap_or_else(|_| "python3".into());
        let has_tensorboard = Command::new(&python).args(["-c", "import tensorboard"]).output();
        if !has_tensorboard.is_ok_and(|output| output.status.success()) {
            let reason = format!("`{python}` has no tensorboard; name one that has with REALIGN_PYTHON");
            writeln!(std::io::stdout(), "skipped: {reason}").unwrap(); // shown although the test passes
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        write_two_lives(dir.path());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/tensorboard_readback.py");
        let output = Command::new(&python).arg(script).arg(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read: Value = serde_json::from_slice(&output.stdout).unwrap();
        let loss = serde_json::json!([[1, 1.0], [2, 2.0], [3, 3.0], [4, 104.0], [5, 105.0], [6, 106.0]]);
        assert_eq!(read["scalars"]["train/loss"], loss);
        assert_eq!(read["images"]["sample/ema"][0], serde_json::json!({"step": 3, "width": 35, "height": 12}));
        assert_eq!(read["histograms"]["weights/proj"][0]["num"], 3.0);
        assert_eq!(read["texts"]["recipe"][0], serde_json::json!([3, "type: *plain*"]));
    }

    #[test]
    fn a_removed_run_folder_stops_nothing_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let mut log = RunLog::open(&run_dir, None).unwrap();
        std::fs::remove_dir_all(&run_dir).unwrap();
        std::fs::write(&run_dir, "a file where the folder was").unwrap();
        for step in 0..3 {
            log.scalars(step, &[("train/loss", 1.0)]);
            assert_eq!(log.image("sample/ema", step, &[0; 3], 1, 1), None);
        }
        assert_eq!(log.problems().len(), 3);
        assert!(log.problems().is_empty());
    }

    #[test]
    fn tags_cannot_lead_out_of_the_samples_folder() {
        assert_eq!(file_stem("sample/ema w=1.5"), "sample_ema_w_1.5");
        assert_eq!(file_stem("../../x"), ".._.._x");
    }
}
