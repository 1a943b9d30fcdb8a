//! The program's own commands as child processes: their lines are passed on, and a stop is passed down.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const LOOK: Duration = Duration::from_millis(200);
const LAST_LINES: usize = 12;

/// A line that a child said; gets the line.
pub type Line<'a> = &'a (dyn Fn(&str) + Sync);

/// Starts children of this program.
#[derive(Debug)]
pub struct Children<'a> {
    /// Set when everything is to stop.
    pub stop: &'a AtomicBool,
    /// Children at the same time: each gets its share of the cores.
    pub num_jobs: usize,
    /// A lock that each child holds too, as its standard input, so that it lasts as long as one that outlives us.
    pub lock: Option<&'a File>,
}

impl Children<'_> {
    /// Runs the program with these arguments to its end; `log` gets everything that it says, `line` its output.
    ///
    /// Returns whether it came to its end by itself: a child that was told to stop has saved, and did not.
    ///
    /// # Errors
    /// It cannot be started, or it failed: the last lines that it said.
    pub fn run(&self, args: &[String], log: &Path, line: Line<'_>) -> Result<bool> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let told = File::options().create(true).append(true).open(log);
        let mut told = told.with_context(|| format!("cannot write `{}`", log.display()))?;
        let from = fs::metadata(log).map_or(0, |about| about.len());
        writeln!(told, "realign {}", args.join(" ")).context("cannot write the log")?;
        let errors = told.try_clone().context("cannot write the log")?;
        let mut command = Command::new(program);
        let input = self.lock.map(File::try_clone).transpose().context("cannot hand the lock on")?;
        command.args(args).stdin(input.map_or_else(Stdio::null, Stdio::from)).stdout(Stdio::piped()).stderr(errors);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        if self.num_jobs > 1 && std::env::var_os("OMP_NUM_THREADS").is_none() {
            command.env("OMP_NUM_THREADS", (cores / self.num_jobs).max(1).to_string());
        }
        // A group of its own: a Ctrl-C reaches it through us alone, once, for a second one would end it unsaved.
        command.process_group(0);
        let mut child = command.spawn().context("cannot start a run")?;
        let output = child.stdout.take();
        let mut was_told = false;
        let status = thread::scope(|scope| -> Result<ExitStatus> {
            let (say, hear) = channel::<String>();
            scope.spawn(move || {
                let lines = output.into_iter().flat_map(|output| BufReader::new(output).lines());
                lines.map_while(Result::ok).map_while(|text| say.send(text).ok()).for_each(drop);
            });
            loop {
                match hear.recv_timeout(LOOK) {
                    Ok(text) => {
                        // A full disk must not end a run whose words it could not keep.
                        drop(writeln!(told, "{text}"));
                        line(&text);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if self.stop.load(Ordering::Relaxed) && !was_told {
                    was_told = true;
                    terminate(child.id())?;
                }
            }
            child.wait().context("a run was lost")
        })?;
        if self.stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if !status.success() {
            bail!("`realign {}` failed ({status})\n{}", args.first().map_or("", String::as_str), last_lines(log, from));
        }
        Ok(true)
    }
}

/// Asks a process to save and end.
fn terminate(process: u32) -> Result<()> {
    let sent = Command::new("kill").args(["-TERM", &process.to_string()]).stderr(Stdio::null()).status();
    sent.map(drop).context("cannot stop a run: there is no `kill`")
}

fn last_lines(log: &Path, from: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let start = usize::try_from(from).unwrap_or(0).min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[start..]).into_owned();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
