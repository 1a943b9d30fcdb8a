//! What a person sees while runs go on: a bar for each on a terminal, lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar};

use crate::progress::run_bar;

const BETWEEN_LINES: Duration = Duration::from_secs(15);

/// Where jobs show how far they are.
#[derive(Debug)]
pub struct Board {
    bars: Option<MultiProgress>,
}

/// One job on the board; it leaves with it.
#[derive(Debug)]
pub struct Job {
    name: String,
    bar: Option<ProgressBar>,
    say: Sender<String>,
    last: Mutex<Option<Instant>>,
}

impl Board {
    /// Bars where both outputs are a terminal.
    pub fn new() -> Self {
        let is_shown = io::stdout().is_terminal() && io::stderr().is_terminal();
        Self { bars: is_shown.then(MultiProgress::new) }
    }

    /// A place for a job.
    pub fn job(&self, name: &str, say: &Sender<String>) -> Job {
        let bar = self.bars.as_ref().map(|bars| bars.add(run_bar()));
        Job { name: name.into(), bar, say: say.clone(), last: Mutex::new(None) }
    }

    /// A line that stays, above all bars.
    ///
    /// # Errors
    /// The output is closed.
    pub fn print(&self, line: &str, out: &mut dyn Write) -> io::Result<()> {
        match &self.bars {
            Some(bars) => bars.println(line),
            None => writeln!(out, "{line}").and_then(|()| out.flush()),
        }
    }
}

impl Job {
    /// A line of its own.
    pub fn say(&self, text: &str) {
        // The board is read until the last job has left it.
        drop(self.say.send(format!("{}: {text}", self.name)));
    }

    /// A line of its child: steps move the bar, warnings stay, the rest is in the log.
    pub fn line(&self, text: &str) {
        let steps = text.strip_prefix("step ").and_then(|rest| rest.split_once("  ")).and_then(|(steps, message)| {
            let (step, total) = steps.split_once('/')?;
            Some((step.parse::<u64>().ok()?, total.parse::<u64>().ok()?, message))
        });
        match (steps, &self.bar) {
            (Some((step, total, message)), Some(bar)) => {
                bar.set_length(total);
                bar.set_position(step);
                bar.set_message(format!("{}  {message}", self.name));
            }
            (Some(_), None) => {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.is_none_or(|last| last.elapsed() >= BETWEEN_LINES) {
                    *last = Some(Instant::now());
                    self.say(text);
                }
            }
            (None, _) if text.starts_with("warning: ") => self.say(text),
            (None, _) => {}
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
