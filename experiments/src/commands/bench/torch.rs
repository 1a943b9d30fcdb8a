//! PyTorch's step in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::{NamedTempFile, TempPath};

use super::Timing;
use super::network::Sizes;

const SCRIPT: &str = concat!(include_str!("torch_serve.py"), include_str!("torch_step.py"));

/// A running PyTorch that steps when asked.
pub struct TorchStep {
    /// PyTorch's version.
    pub version: String,
    /// Trainable parameters.
    pub num_params: u64,
    /// Floating-point operations of a step, where they were asked for.
    pub flops: Option<f64>,
    /// Name of its GPU.
    pub device_name: Option<String>,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    complaints: NamedTempFile,
    _script: TempPath,
}

impl TorchStep {
    /// Starts `python` with a network of these sizes; `more` are keys beside them.
    ///
    /// # Errors
    /// There is no such Python, or it has no PyTorch.
    pub fn start(python: &str, sizes: &Sizes, more: &Value) -> Result<Self> {
        let mut settings = serde_json::to_value(sizes).context("sizes")?;
        for (key, value) in more.as_object().into_iter().flatten() {
            settings[key] = value.clone();
        }
        Self::start_script(python, SCRIPT, &settings)
    }

    /// Starts `python` with another script that speaks the same way.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_script(python: &str, text: &str, settings: &Value) -> Result<Self> {
        let mut script = tempfile::Builder::new().suffix(".py").tempfile().context("cannot write the script")?;
        script.write_all(text.as_bytes()).context("cannot write the script")?;
        let script = script.into_temp_path();
        let complaints = NamedTempFile::new().context("cannot keep what PyTorch says")?;
        let mut child = Command::new(python)
            .arg(&script)
            .arg(settings.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.reopen().context("cannot keep what PyTorch says")?)
            .spawn()
            .with_context(|| format!("cannot start `{python}`; name another with --python"))?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("`{python}` was started without pipes")
        };
        let mut step = Self {
            version: String::new(),
            num_params: 0,
            flops: None,
            device_name: None,
            child,
            questions,
            answers: BufReader::new(answers),
            complaints,
            _script: script,
        };
        let hello = step.answer().with_context(|| {
            format!("`{python}` cannot run PyTorch; install it with `{python} -m pip install torch`, or name another with --python")
        })?;
        step.version = hello["version"].as_str().unwrap_or("?").to_string();
        step.num_params = hello["num_params"].as_u64().unwrap_or_default();
        step.flops = hello["flops"].as_f64();
        step.device_name = hello["device_name"].as_str().map(str::to_string);
        Ok(step)
    }

    /// Runs steps and returns their times.
    ///
    /// # Errors
    /// The process ended.
    pub fn steps(&mut self, count: usize) -> Result<Timing> {
        let answer = self.ask(&count.to_string())?;
        let ms = answer["ms"].as_array().map(|list| list.iter().filter_map(Value::as_f64).collect());
        Ok(Timing { ms: ms.unwrap_or_default(), peak_bytes: answer["peak_bytes"].as_f64().unwrap_or(f64::NAN) })
    }

    /// What it answers to a line.
    ///
    /// # Errors
    /// The process ended; with the last line that it said.
    pub fn ask(&mut self, line: &str) -> Result<Value> {
        // Where the process has ended already, the answer says why.
        let _ = writeln!(self.questions, "{line}");
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("PyTorch does not answer")?;
        serde_json::from_str(&line).or_else(|_| {
            let said = std::fs::read(self.complaints.path()).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
            bail!("PyTorch ended; it said `{}`", last.unwrap_or(line.trim()))
        })
    }
}

impl Drop for TorchStep {
    fn drop(&mut self) {
        // It ends at the empty line; killing it covers a process that hangs.
        let _ = writeln!(self.questions);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
