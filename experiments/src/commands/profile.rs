//! `realign profile`: where a step's time goes, by operation, forward and backward.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use realign::burn::tensor::Device;
use realign::files::write_whole;
use realign::ops::{self, PHASES, Phase, Recorder, Recording};
use realign::recipe::Job;
use realign::train::MicroBatch;
use serde_json::{Value, json};

use super::recipe_args::{RecipeArgs, check_device};
use crate::measuring::{Trial, device_of, micro_batch_of, train_section};
use crate::table::Table;

/// Where a step's time goes, by operation, forward and backward
#[derive(Debug, Args)]
pub struct Profile {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Steps that are measured, after one that warms up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Rows of the table; the others are summed up
    #[arg(long, default_value_t = 25)]
    rows: usize,
    /// Write everything to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a few steps took.
struct Measured {
    steps: f64,
    images: f64,
    /// Seconds of a step while nothing watches.
    step_s: f64,
    /// Seconds of a step while operations are recorded.
    recorded_s: f64,
    /// Share of the unwatched steps that was spent waiting for data.
    data_wait: f64,
    recording: Recording,
}

impl Profile {
    /// Trains for a few steps, and prints what took how long.
    ///
    /// # Errors
    /// The recipe does not fit together, a step fails, or the device is not one of libtorch.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let (layered, job) = self.recipe.job()?;
        if let Job::Diffusion(plan) = &job {
            check_device(&layered, &plan.recipe.device, plan.recipe.precision)?;
        }
        let device = device_of(&job)?;
        let micro_batch = micro_batch_of(&job)?;
        if let Some(note) = micro_batch.as_ref().and_then(|chosen| chosen.note.as_ref()) {
            writeln!(out, "{note}")?;
        }
        let measured = self.measure(&job, micro_batch.as_ref(), &device)?;
        measured.print(&device, self.rows, out)?;
        if let Some(path) = &self.json {
            let mut report = measured.report();
            report["recipe"] = layered.recipe_name().into();
            report["profile"] = layered.profile_name().into();
            report["device"] = ops::describe(&device).into();
            report["realign"] = env!("CARGO_PKG_VERSION").into();
            write_whole(path, (serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn measure(&self, job: &Job, micro_batch: Option<&MicroBatch>, device: &Device) -> Result<Measured> {
        // Opened before anything is built, so that all memory is seen.
        let recorder = Recorder::open(device)?;
        let mut trial = Trial::new(job, micro_batch)?;
        trial.step()?.read()?;
        recorder.restart()?;
        let recorded_s = timed(&mut trial, self.steps, device)?.0;
        let recording = recorder.close()?;
        let (step_s, wait_s) = timed(&mut trial, self.steps, device)?;
        let images = train_section(job).global_batch_size as f64;
        let data_wait = (wait_s / step_s).min(1.0);
        Ok(Measured { steps: f64::from(self.steps), images, step_s, recorded_s, data_wait, recording })
    }
}

/// Seconds of a step, and of its waiting for data.
fn timed(trial: &mut Trial<'_>, steps: u32, device: &Device) -> Result<(f64, f64)> {
    let (begin, mut wait_s) = (Instant::now(), 0.0);
    for _ in 0..steps {
        wait_s += trial.step()?.wait_s;
    }
    device.sync()?;
    let steps = f64::from(steps);
    Ok((begin.elapsed().as_secs_f64() / steps, wait_s / steps))
}

impl Measured {
    fn print(&self, device: &Device, num_rows: usize, out: &mut dyn Write) -> Result<()> {
        writeln!(
            out,
            "{:.1} ms a step, {:.1} images/s on {}",
            self.step_s * 1e3,
            self.images / self.step_s,
            ops::describe(device)
        )?;
        writeln!(out, "  waiting for data  {:.1} %", self.data_wait * 100.0)?;
        writeln!(out, "  host waits        {}", self.waits())?;
        writeln!(out, "  peak memory       {} of tensors", ops::gigabytes(self.recording.peak_bytes as f64))?;
        let times: Vec<String> = PHASES.map(|phase| format!("{} {:.1} ms", word(phase), self.phase_ms(phase))).into();
        writeln!(out, "  operations        {}", times.join(", "))?;
        let recorded_ms = self.recorded_s * 1e3;
        writeln!(out, "\n{recorded_ms:.1} ms a step while operations are recorded:")?;
        let mut table = Table::new(["operation", "phase", "calls", "ms", "share"]);
        let mut row = |name: &str, phase: &str, calls: f64, ms: f64| {
            let share = format!("{:.1} %", ms / recorded_ms * 100.0);
            table.rows.push(vec![name.into(), phase.into(), format!("{calls:.0}"), format!("{ms:.2}"), share]);
        };
        let (shown, others) = self.recording.ops.split_at(num_rows.min(self.recording.ops.len()));
        for op in shown {
            row(&op.name, word(op.phase), op.calls as f64 / self.steps, op.own_s / self.steps * 1e3);
        }
        let sum = |ops: &[ops::OpTime]| ops.iter().map(|op| op.own_s).sum::<f64>() / self.steps * 1e3;
        if !others.is_empty() {
            let calls = others.iter().map(|op| op.calls as f64).sum::<f64>() / self.steps;
            row(&format!("{} others", others.len()), "", calls, sum(others));
        }
        row("between operations", "", 0.0, (recorded_ms - sum(&self.recording.ops)).max(0.0));
        write!(out, "{}", table.to_text())?;
        Ok(())
    }

    fn waits(&self) -> String {
        let waits = &self.recording.waits;
        let each = waits.iter().map(|(name, count)| format!("{:.0} of `{name}`", *count as f64 / self.steps));
        if waits.is_empty() { "none".into() } else { each.collect::<Vec<_>>().join(", ") + " a step" }
    }

    fn phase_ms(&self, phase: Phase) -> f64 {
        let of_phase = self.recording.ops.iter().filter(|op| op.phase == phase);
        of_phase.map(|op| op.own_s).sum::<f64>() / self.steps * 1e3
    }

    fn report(&self) -> Value {
        let ops = self.recording.ops.iter().map(|op| {
            json!({
                "name": op.name,
                "phase": word(op.phase),
                "calls_per_step": op.calls as f64 / self.steps,
                "own_ms_per_step": op.own_s / self.steps * 1e3,
                "total_ms_per_step": op.total_s / self.steps * 1e3,
            })
        });
        let waits = self.recording.waits.iter().map(|(name, count)| (name.clone(), json!(*count as f64 / self.steps)));
        json!({
            "steps": self.steps,
            "global_batch_size": self.images,
            "step_ms": self.step_s * 1e3,
            "recorded_step_ms": self.recorded_s * 1e3,
            "images_per_s": self.images / self.step_s,
            "data_wait_fraction": self.data_wait,
            "host_waits_per_step": waits.collect::<serde_json::Map<_, _>>(),
            "peak_memory_bytes": self.recording.peak_bytes,
            "ops": ops.collect::<Vec<_>>(),
        })
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::Update => "update",
    }
}
