//! The loop around the step: resume, logs, previews, checkpoints, stopping.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::spatial_watch::SpatialWatch;
use super::trainer::{StepStats, Trainer};
use crate::checkpoint;
use crate::files::write_whole;
use crate::log::{Event, EventSink, RunLog, image_grid, magnify};
use crate::ops::{self, JvpMethod};
use crate::recipe::{Layered, Plan, Recipe, SpatialSection};
use crate::sample::{Sampling, draw_pictures};

const LOCK: &str = ".lock";
const PREVIEW_SIDE: usize = 64; // pixels of the smallest picture that a person sees something in

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
/// The data, the device or the disk fails, or another program trains in the folder. What was trained until then is
/// saved where that is possible; checkpoints that are there stay.
pub fn run(plan: &Plan, layered: &Layered, options: RunOptions<'_>, sink: &mut dyn EventSink) -> Result<Trainer> {
    let started = Instant::now();
    let run_dir = options.run_dir.as_path();
    let mut trainer = Trainer::new(plan)?;
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make the run folder `{}`", run_dir.display()))?;
    let _lock = lock(run_dir)?;
    let resumed_from = resume(&mut trainer, plan, run_dir, sink)?;
    describe(plan, layered, &trainer, run_dir)?;
    let mut log = RunLog::open(run_dir, Some(trainer.step))?;
    if resumed_from.is_none() {
        log.text("recipe", 0, &format!("```yaml\n{}```", layered.to_yaml()?));
    }
    let total_steps = plan.recipe.train.steps;
    sink.event(&Event::Started { run_dir: run_dir.to_path_buf(), total_steps, resumed_from });
    let (mark, saved_step) = ((Instant::now(), trainer.step), trainer.step);
    let mut session =
        Session { plan, run_dir, log, sink, total_steps, mark, wait_s: 0.0, saved_step, spatial: None };
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
    saved_step: u64,
    /// Made when it is first needed.
    spatial: Option<SpatialWatch>,
}

impl Session<'_> {
    fn train(&mut self, trainer: &mut Trainer, stop: &AtomicBool) -> Result<()> {
        let Plan { recipe: Recipe { log: when, .. }, .. } = self.plan;
        let is_due = |step: u64, every: u64| every > 0 && step.is_multiple_of(every);
        let mut unread = None;
        while trainer.step < self.total_steps {
            let stats = match trainer.step(self.plan) {
                Ok(stats) => stats,
                Err(problem) => return Err(self.rescue(trainer, unread, problem)),
            };
            let (step, is_last) = (trainer.step, trainer.step == self.total_steps);
            // Read once a round: a stop that comes later is the next round's, which saves before it ends.
            let is_stopping = stop.load(Ordering::Relaxed);
            self.wait_s += stats.wait_s;
            let is_saving = is_last || is_due(step, when.checkpoint_every) || is_stopping;
            if step == 1 || is_saving || is_due(step, when.every) {
                // Read before every save: weights that are not finite must not become a checkpoint.
                self.log_step(step, stats)?;
                unread = None;
            } else {
                unread = Some(stats);
            }
            if let Some(section) = when.spatial.as_ref().filter(|spatial| is_last || is_due(step, spatial.every)) {
                self.spatial(section, trainer).unwrap_or_else(|problem| self.warn(&problem.context("log.spatial")));
            }
            if is_due(step, when.histogram_every) {
                self.histograms(trainer);
            }
            if is_saving {
                match self.save(trainer) {
                    // The next save may find room; until then the checkpoint before stands.
                    Err(problem) if !is_last && !is_stopping => self.warn(&problem),
                    end => end?,
                }
            }
            if is_last || is_due(step, when.preview_every) {
                self.preview(trainer).unwrap_or_else(|problem| self.warn(&problem.context("no preview")));
            }
            if is_stopping {
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
        (self.mark, self.saved_step) = ((Instant::now(), trainer.step), trainer.step);
        Ok(())
    }

    /// Saves what was trained before `problem`, and says so; `unread` are the numbers of the last step.
    fn rescue(&mut self, trainer: &Trainer, unread: Option<StepStats>, problem: anyhow::Error) -> anyhow::Error {
        let step = trainer.step;
        let is_finite = unread.is_none_or(|stats| stats.read().is_ok());
        let problem = problem.context(format!("training ended after step {step}"));
        if step <= self.saved_step || trainer.is_torn() || !is_finite {
            return problem;
        }
        match self.save(trainer) {
            Ok(()) => problem,
            Err(unsaved) => problem.context(format!("{unsaved:#}")),
        }
    }

    fn warn(&mut self, problem: &anyhow::Error) {
        self.sink.event(&Event::Warning(format!("{problem:#}")));
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
        let factor = PREVIEW_SIDE.div_ceil(self.plan.recipe.image_size);
        let side = factor * self.plan.recipe.image_size;
        let mut counts = vec![]; // two samplers may evaluate equally often
        for (i, sampler) in trainer.assembly.samplers().enumerate() {
            let bytes = draw_pictures(&trainer.assembly, &model, sampler, self.plan.latent, &labels, 0, sampling)?;
            let pictures = magnify(&bytes, self.plan.recipe.image_size, factor);
            let (grid, width, height) = image_grid(&pictures, labels.len(), side, side, 8.min(labels.len()), 2)?;
            let suffix = match (i, sampler.num_evaluations()) {
                (0, _) => String::new(),
                (i, count) if counts.contains(&count) => format!("_{count}nfe_{i}"),
                (_, count) => format!("_{count}nfe"),
            };
            counts.push(sampler.num_evaluations());
            let tag = format!("sample/{}{suffix}", section.weights);
            if let Some(path) = self.log.image(&tag, trainer.step, &grid, width, height) {
                self.sink.event(&Event::Preview { step: trainer.step, path });
            }
        }
        self.mark = (Instant::now(), trainer.step);
        Ok(())
    }

    fn spatial(&mut self, section: &SpatialSection, trainer: &Trainer) -> Result<()> {
        let watch = match self.spatial.take() {
            Some(watch) => watch,
            None => SpatialWatch::new(section, self.plan, &trainer.assembly)?,
        };
        let scalars = watch.measure(self.plan, trainer);
        self.spatial = Some(watch);
        self.log.scalars(trainer.step, &scalars?);
        self.mark = (Instant::now(), trainer.step);
        Ok(())
    }

    fn histograms(&mut self, trainer: &Trainer) {
        for (name, tensor) in crate::weights::state_dict(&trainer.model) {
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

/// Refuses a folder in which another program trains; the lock ends with the file or the program.
fn lock(run_dir: &Path) -> Result<Option<File>> {
    let path = run_dir.join(LOCK);
    let file = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another program trains in `{}`; wait for it, or choose another folder with --run-dir",
                run_dir.display()
            )
        }
        // Some network file systems have no locks.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Leaves the resolved recipe and what made the run beside its logs.
fn describe(plan: &Plan, layered: &Layered, trainer: &Trainer, run_dir: &Path) -> Result<()> {
    write_whole(&run_dir.join("recipe.yaml"), layered.to_yaml()?.as_bytes())?;
    let about = serde_json::json!({
        "recipe": plan.recipe_name,
        "profile": plan.profile_name,
        "recipe_digest": plan.digest()?,
        "seed": plan.recipe.seed,
        "realign": env!("CARGO_PKG_VERSION"),
        "device": ops::describe(&trainer.assembly.device),
        "derivative": plan.recipe.objective.takes_derivative().then(|| JvpMethod::of(&trainer.assembly.device).name()),
        "resume": "run the same command again",
    });
    let text = serde_json::to_string_pretty(&about).context("cannot write run.json")? + "\n";
    write_whole(&run_dir.join("run.json"), text.as_bytes())
}
