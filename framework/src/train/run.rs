//! The loop around the step: resume, logs, previews, checkpoints, stopping.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::preview::{Sampling, quantized_samples};
use super::trainer::{StepStats, Trainer};
use crate::checkpoint;
use crate::log::{Event, EventSink, RunLog, image_grid};
use crate::ops;
use crate::recipe::{Layered, Plan};

/// How a run is started.
#[derive(Debug)]
pub struct RunOptions<'a> {
    /// Folder of the run.
    pub run_dir: PathBuf,
    /// Set by a signal handler: save, then stop.
    pub stop: &'a AtomicBool,
}

/// Trains to the last step, continuing what the run folder holds.
///
/// Returns the trainer at its last step, for whoever evaluates the network next.
///
/// # Errors
/// The data, the device or the disk fails; the newest checkpoint then stays as it is.
pub fn run(plan: &Plan, layered: &Layered, options: RunOptions<'_>, sink: &mut dyn EventSink) -> Result<Trainer> {
    let started = Instant::now();
    let run_dir = options.run_dir.as_path();
    let mut trainer = Trainer::new(plan)?;
    let resumed_from = resume(&mut trainer, plan, run_dir, sink)?;
    describe(plan, layered, &trainer, run_dir)?;
    let mut log = RunLog::open(run_dir, Some(trainer.step))?;
    if resumed_from.is_none() {
        log.text("recipe", 0, &format!("```yaml\n{}```", layered.to_yaml()?));
    }
    let total_steps = plan.recipe.train.steps;
    sink.event(&Event::Started { run_dir: run_dir.to_path_buf(), total_steps, resumed_from });
    let mut session =
        Session { plan, run_dir, log, sink, total_steps, mark: (Instant::now(), trainer.step), wait_s: 0.0 };
    let end = session.train(&mut trainer, options.stop);
    session.report_problems();
    session.log.flush();
    end?;
    let event = Event::Finished { step: trainer.step, total_steps, elapsed_s: started.elapsed().as_secs_f64() };
    sink.event(&event);
    Ok(trainer)
}

struct Session<'a> {
    plan: &'a Plan,
    run_dir: &'a Path,
    log: RunLog,
    sink: &'a mut dyn EventSink,
    total_steps: u64,
    /// Time and step of the last log line, for the speed.
    mark: (Instant, u64),
    wait_s: f64,
}

impl Session<'_> {
    fn train(&mut self, trainer: &mut Trainer, stop: &AtomicBool) -> Result<()> {
        let when = self.plan.recipe.log;
        let is_due = |step: u64, every: u64| every > 0 && step.is_multiple_of(every);
        while trainer.step < self.total_steps {
            let stats = trainer.step(self.plan)?;
            let (step, is_last) = (trainer.step, trainer.step == self.total_steps);
            self.wait_s += stats.wait_s;
            let is_saving = is_last || is_due(step, when.checkpoint_every) || stop.load(Ordering::Relaxed);
            if step == 1 || is_saving || is_due(step, when.every) {
                // Read before every save: weights that are not finite must not become a checkpoint.
                self.log_step(step, stats)?;
            }
            if is_due(step, when.histogram_every) {
                self.histograms(trainer);
            }
            if is_saving {
                self.save(trainer)?;
            }
            if is_last || is_due(step, when.preview_every) {
                self.preview(trainer)?;
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    fn log_step(&mut self, step: u64, stats: StepStats) -> Result<()> {
        let mut scalars = stats.read().with_context(|| {
            format!(
                "training diverged at step {step}; lower train.learning_rate; checkpoints are in `{}`",
                self.run_dir.display()
            )
        })?;
        let (elapsed, steps) = (self.mark.0.elapsed().as_secs_f64().max(1e-9), (step - self.mark.1).max(1));
        let images_per_s = steps as f64 * self.plan.recipe.train.global_batch_size as f64 / elapsed;
        scalars.push(("perf/images_per_s".into(), images_per_s));
        scalars.push(("perf/data_wait_fraction".into(), (self.wait_s / elapsed).min(1.0)));
        self.log.scalars(step, &scalars);
        let loss = scalars.iter().find(|(tag, _)| tag == "train/loss").map_or(f64::NAN, |(_, value)| *value);
        let eta_s = (step > 1).then(|| (self.total_steps - step) as f64 * elapsed / steps as f64);
        self.sink.event(&Event::Step { step, total_steps: self.total_steps, loss, images_per_s, eta_s });
        (self.mark, self.wait_s) = ((Instant::now(), step), 0.0);
        self.report_problems();
        Ok(())
    }

    fn save(&mut self, trainer: &Trainer) -> Result<()> {
        let path = checkpoint::save(trainer, self.plan, self.run_dir)?;
        checkpoint::prune(&self.run_dir.join("checkpoints"), self.plan.recipe.log.keep_checkpoints);
        self.log.flush();
        self.sink.event(&Event::Saved { step: trainer.step, path });
        self.mark = (Instant::now(), trainer.step);
        Ok(())
    }

    fn preview(&mut self, trainer: &Trainer) -> Result<()> {
        let section = &self.plan.recipe.sample;
        if section.num_preview == 0 {
            return Ok(());
        }
        let model = trainer.weights(&section.weights)?;
        let num_classes = trainer.assembly.dataset.num_classes().max(1);
        let labels: Vec<i64> = (0..section.num_preview).map(|i| (i % num_classes) as i64).collect();
        let sampling = Sampling::new(section, self.plan.recipe.seed);
        let latent = self.plan.latent;
        let side = self.plan.recipe.image_size;
        let bytes = quantized_samples(&trainer.assembly, &model, latent, &labels, 0, sampling)?;
        match image_grid(&bytes, labels.len(), side, side, 8.min(labels.len()), 2) {
            Ok((grid, width, height)) => {
                let tag = format!("sample/{}", section.weights);
                if let Some(path) = self.log.image(&tag, trainer.step, &grid, width, height) {
                    self.sink.event(&Event::Preview { step: trainer.step, path });
                }
            }
            Err(problem) => self.sink.event(&Event::Warning(format!("no preview: {problem:#}"))),
        }
        self.mark = (Instant::now(), trainer.step);
        Ok(())
    }

    fn histograms(&mut self, trainer: &Trainer) {
        for (name, tensor) in crate::weights::state_dict(trainer.model()) {
            self.log.histogram(&format!("weights/{name}"), trainer.step, &tensor.values);
        }
    }

    fn report_problems(&mut self) {
        for problem in self.log.problems() {
            self.sink.event(&Event::Warning(problem));
        }
    }
}

/// Continues from the newest whole checkpoint of the folder, if it has one.
fn resume(trainer: &mut Trainer, plan: &Plan, run_dir: &Path, sink: &mut dyn EventSink) -> Result<Option<u64>> {
    let (found, problems) = checkpoint::newest(&run_dir.join("checkpoints"));
    for problem in problems {
        sink.event(&Event::Warning(problem));
    }
    let Some(found) = found else { return refuse_other_recipe(plan, run_dir).map(|()| None) };
    checkpoint::restore(trainer, plan, &found)?;
    Ok(Some(trainer.step))
}

fn refuse_other_recipe(plan: &Plan, run_dir: &Path) -> Result<()> {
    let path = run_dir.join("run.json");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let known: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let digest = plan.digest()?;
    match known["recipe_digest"].as_str() {
        Some(other) if other != digest => bail!(
            "`{}` holds a run of another recipe (digest {other}, this one has {digest}); choose another folder with --run-dir",
            run_dir.display()
        ),
        _ => Ok(()),
    }
}

/// Leaves the resolved recipe and what made the run beside its logs.
fn describe(plan: &Plan, layered: &Layered, trainer: &Trainer, run_dir: &Path) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = run_dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
    };
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make the run folder `{}`", run_dir.display()))?;
    write("recipe.yaml", &layered.to_yaml()?)?;
    let about = serde_json::json!({
        "recipe": plan.recipe_name,
        "profile": plan.profile_name,
        "recipe_digest": plan.digest()?,
        "seed": plan.recipe.seed,
        "realign": env!("CARGO_PKG_VERSION"),
        "device": ops::describe(&trainer.assembly.device),
        "resume": "run the same command again",
    });
    write("run.json", &(serde_json::to_string_pretty(&about).context("cannot write run.json")? + "\n"))
}
