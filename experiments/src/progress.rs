//! What a person sees of a run: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use realign::log::{Event, EventSink};
use realign::ops;

const BETWEEN_LINES: Duration = Duration::from_secs(5);
const SHOWN_WAIT: f64 = 0.01; // below one percent a run does not wait for data
const TEMPLATE: &str = "{wide_bar} {pos}/{len}  {msg}";

/// Shows the events of a run.
pub struct Progress {
    surface: Surface,
}

enum Surface {
    /// A bar below the lines; made when the number of steps is known.
    Bar(ProgressBar),
    /// Lines alone: a log file, a pipe.
    Lines { out: Box<dyn Write + Send>, between: Duration, last: Option<Instant> },
}

impl Progress {
    /// A bar where both outputs are a terminal, lines on stdout otherwise.
    pub fn new() -> Self {
        if io::stdout().is_terminal() && io::stderr().is_terminal() {
            Self { surface: Surface::Bar(bar(None, ProgressDrawTarget::stderr())) }
        } else {
            Self::lines(Box::new(io::stdout()), BETWEEN_LINES)
        }
    }

    /// Lines on `out`; step lines at least `between` apart, all others at once.
    pub fn lines(out: Box<dyn Write + Send>, between: Duration) -> Self {
        Self { surface: Surface::Lines { out, between, last: None } }
    }

    /// A line that stays, above the bar.
    fn say(&mut self, line: &str) {
        match &mut self.surface {
            Surface::Bar(bar) => bar.println(line),
            // A run goes on when nobody reads its output any more.
            Surface::Lines { out, .. } => drop(writeln!(out, "{line}").and_then(|()| out.flush())),
        }
    }

    fn step(&mut self, step: u64, total_steps: u64, message: String) {
        match &mut self.surface {
            Surface::Bar(bar) => {
                bar.set_position(step);
                bar.set_message(message);
            }
            Surface::Lines { between, last, .. } => {
                let is_due = last.is_none_or(|last| last.elapsed() >= *between) || step == total_steps;
                if is_due {
                    *last = Some(Instant::now());
                    self.say(&format!("step {step}/{total_steps}  {message}"));
                }
            }
        }
    }
}

/// A bar of `num` pictures on stderr where that is a terminal, nothing elsewhere.
pub fn pictures_bar(num: usize) -> ProgressBar {
    let is_shown = io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    bar(Some(num as u64), target).with_message("pictures")
}

/// A bar whose length and place come later, among others.
pub fn run_bar() -> ProgressBar {
    bar(None, ProgressDrawTarget::hidden())
}

fn bar(len: Option<u64>, target: ProgressDrawTarget) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(len, target).with_style(style)
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl EventSink for Progress {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started { run_dir, total_steps, resumed_from } => {
                if let Surface::Bar(bar) = &self.surface {
                    bar.set_length(*total_steps);
                    bar.set_position(resumed_from.unwrap_or(0));
                }
                let resumed = resumed_from.map(|step| format!(", going on from step {step}")).unwrap_or_default();
                self.say(&format!("run folder {}{resumed}", run_dir.display()));
            }
            Event::Step { step, total_steps, loss, images_per_s, data_wait_fraction, peak_memory_bytes, eta_s } => {
                let mut message = format!("loss {loss:.4}  {images_per_s:.1} images/s");
                if *data_wait_fraction >= SHOWN_WAIT {
                    message += &format!("  {:.0} % waiting for data", data_wait_fraction * 100.0);
                }
                message +=
                    &peak_memory_bytes.map(|bytes| format!("  {}", ops::gigabytes(bytes as f64))).unwrap_or_default();
                message += &eta_s.map(|eta| format!("  {} left", duration(eta))).unwrap_or_default();
                self.step(*step, *total_steps, message);
            }
            Event::Saved { step, path } => self.say(&format!("step {step}: checkpoint {}", path.display())),
            Event::Preview { step, path } => self.say(&format!("step {step}: samples {}", path.display())),
            Event::Note(text) => self.say(text),
            Event::Warning(text) => self.say(&format!("warning: {text}")),
            Event::Finished { step, total_steps, elapsed_s, peak_memory_bytes } => {
                let outcome = if step < total_steps { "stopped and saved; the same command goes on" } else { "done" };
                let memory = peak_memory_bytes.map(|bytes| format!(", {} at most", ops::gigabytes(bytes as f64)));
                let (took, memory) = (duration(*elapsed_s), memory.unwrap_or_default());
                let line = format!("step {step}/{total_steps}: {outcome}, {took}{memory}");
                if let Surface::Bar(bar) = &self.surface {
                    bar.finish_and_clear();
                    // The bar's own lines end without a line break, and this may be the program's last one.
                    drop(writeln!(io::stderr(), "{line}"));
                } else {
                    self.say(&line);
                }
            }
        }
    }
}

/// Seconds as a person would say them: `42 s`, `3 min 07 s`, `2 h 05 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "an unknown time".into();
    }
    let whole = seconds.round() as u64; // the largest f64 saturates
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn step(step: u64) -> Event {
        let (data_wait_fraction, peak_memory_bytes) = (0.123, Some(1_500_000_000));
        let (loss, images_per_s, eta_s) = (1.25, 35.0, Some(187.0));
        Event::Step { step, total_steps: 9, loss, images_per_s, data_wait_fraction, peak_memory_bytes, eta_s }
    }

    #[test]
    fn lines_show_what_happened_in_order() {
        let page = Page::default();
        let mut progress = Progress::lines(Box::new(page.clone()), Duration::ZERO);
        for event in [
            Event::Started { run_dir: "runs/a".into(), total_steps: 9, resumed_from: Some(5) },
            step(6),
            Event::Warning("the disk is nearly full".into()),
            Event::Finished { step: 7, total_steps: 9, elapsed_s: 12.0, peak_memory_bytes: Some(2_000_000_000) },
        ] {
            progress.event(&event);
        }
        assert_eq!(
            page.text(),
            "run folder runs/a, going on from step 5\n\
             step 6/9  loss 1.2500  35.0 images/s  12 % waiting for data  1.50 GB  3 min 07 s left\n\
             warning: the disk is nearly full\n\
             step 7/9: stopped and saved; the same command goes on, 12 s, 2.00 GB at most\n"
        );
    }

    #[test]
    fn step_lines_keep_their_distance_but_the_last_one_is_shown() {
        let page = Page::default();
        let mut progress = Progress::lines(Box::new(page.clone()), Duration::from_secs(3600));
        (1..=9).for_each(|at| progress.event(&step(at)));
        let text = page.text();
        assert_eq!(
            text.lines().map(|line| line.split("  ").next().unwrap()).collect::<Vec<_>>(),
            ["step 1/9", "step 9/9"]
        );
    }

    #[test]
    fn the_bars_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[test]
    fn durations_read_as_spoken() {
        for (seconds, text) in
            [(0.4, "0 s"), (59.6, "1 min 00 s"), (7500.0, "2 h 05 min"), (f64::NAN, "an unknown time")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
