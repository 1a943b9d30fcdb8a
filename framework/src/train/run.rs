//! The loop around the step: resume, logs, previews, checkpoints, stopping.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::trainable::{Preview, Trainable};
use super::trainer::StepStats;
use crate::checkpoint;
use crate::files::write_whole;
use crate::log::{Event, EventSink, RunLog};
use crate::ops;
use crate::recipe::{Layered, LogSection, Plan, ProgramPlan, TrainSection};

const LOCK: &str = ".lock";

/// How a run is started.
#[derive(Debug)]
pub struct RunOptions<'a> {
    /// Folder of the run.
    pub run_dir: PathBuf,
    /// Set by a signal handler: save, then stop.
    pub stop: &'a AtomicBool,
}

/// What the loop needs of a recipe, whatever it trains.
pub struct Frame<'a> {
    /// Name of the recipe file, without its ending.
    pub recipe_name: &'a str,
    /// Name of the profile.
    pub profile_name: &'a str,
    /// Hash of everything that decides the run's numbers.
    pub digest: String,
    /// Seed of every random draw.
    pub seed: u64,
    /// Steps, batch and rate.
    pub train: &'a TrainSection,
    /// What is written, and when.
    pub log: &'a LogSection,
    /// The recipe with the origin of its values.
    pub layered: &'a Layered,
}

impl<'a> Frame<'a> {
    /// Of a diffusion model's recipe.
    ///
    /// # Errors
    /// A plugin's config cannot be written as YAML.
    pub fn of_diffusion(plan: &'a Plan, layered: &'a Layered) -> Result<Self> {
        let (Plan { recipe, recipe_name, profile_name, .. }, digest) = (plan, plan.digest()?);
        let (seed, train, log) = (recipe.seed, &recipe.train, &recipe.log);
        Ok(Self { recipe_name, profile_name, digest, seed, train, log, layered })
    }

    /// Of a program's recipe.
    ///
    /// # Errors
    /// A plugin's config cannot be written as YAML.
    pub fn of_program(plan: &'a ProgramPlan, layered: &'a Layered) -> Result<Self> {
        let (ProgramPlan { recipe, recipe_name, profile_name, .. }, digest) = (plan, plan.digest()?);
        let (seed, train, log) = (recipe.seed, &recipe.train, &recipe.log);
        Ok(Self { recipe_name, profile_name, digest, seed, train, log, layered })
    }
}

/// Trains to the last step, continuing what the run folder holds.
///
/// # Errors
/// The data, the device or the disk fails, or another program trains in the folder. What was trained until then is
/// saved where that is possible; checkpoints that are there stay.
pub fn run_loop(
    frame: &Frame<'_>,
    trained: &mut dyn Trainable,
    options: RunOptions<'_>,
    sink: &mut dyn EventSink,
) -> Result<()> {
    let started = Instant::now();
    let run_dir = options.run_dir.as_path();
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make the run folder `{}`", run_dir.display()))?;
    let _lock = lock(run_dir)?;
    for notice in trained.prepare(run_dir)? {
        sink.event(&Event::Warning(notice));
    }
    let resumed_from = resume(trained, frame, run_dir, sink)?;
    describe(frame, trained.about(), run_dir)?;
    let mut log = RunLog::open(run_dir, Some(trained.steps_done()))?;
    if resumed_from.is_none() {
        log.text("recipe", 0, &format!("```yaml\n{}```", frame.layered.to_yaml()?));
    }
    let total_steps = frame.train.steps;
    sink.event(&Event::Started { run_dir: run_dir.to_path_buf(), total_steps, resumed_from });
    let (mark, saved_step) = ((Instant::now(), trained.steps_done()), trained.steps_done());
    let mut session = Session { frame, run_dir, log, sink, total_steps, mark, wait_s: 0.0, saved_step };
    let end = session.train(trained, options.stop);
    session.report_problems();
    session.log.flush();
    end?;
    let (step, elapsed_s) = (trained.steps_done(), started.elapsed().as_secs_f64());
    let peak_memory_bytes = ops::peak_memory(trained.device());
    sink.event(&Event::Finished { step, total_steps, elapsed_s, peak_memory_bytes });
    Ok(())
}

struct Session<'a> {
    frame: &'a Frame<'a>,
    run_dir: &'a Path,
    log: RunLog,
    sink: &'a mut dyn EventSink,
    total_steps: u64,
    /// Time and step of the last log line, for the speed.
    mark: (Instant, u64),
    wait_s: f64,
    saved_step: u64,
}

impl Session<'_> {
    fn train(&mut self, trained: &mut dyn Trainable, stop: &AtomicBool) -> Result<()> {
        let when = self.frame.log;
        let is_due = |step: u64, every: u64| every > 0 && step.is_multiple_of(every);
        let mut unread = None;
        while trained.steps_done() < self.total_steps {
            let stats = match trained.advance() {
                Ok(stats) => stats,
                Err(problem) => return Err(self.rescue(trained, unread, problem)),
            };
            for notice in trained.notices() {
                self.sink.event(&Event::Warning(notice));
            }
            let (step, is_last) = (trained.steps_done(), trained.steps_done() == self.total_steps);
            // Read once a round: a stop that comes later is the next round's, which saves before it ends.
            let is_stopping = stop.load(Ordering::Relaxed);
            self.wait_s += stats.wait_s;
            let is_saving = is_last || is_due(step, when.checkpoint_every) || is_stopping;
            if step == 1 || is_saving || is_due(step, when.every) {
                // Read before every save: weights that are not finite must not become a checkpoint.
                self.log_step(step, stats, ops::peak_memory(trained.device()))?;
                unread = None;
            } else {
                unread = Some(stats);
            }
            match trained.watch(is_last) {
                Ok(measured) if measured.is_empty() => {}
                Ok(measured) => {
                    self.log.scalars(step, &measured);
                    self.mark = (Instant::now(), step);
                }
                Err(problem) => self.warn(&problem.context("log.spatial")),
            }
            if is_due(step, when.histogram_every) {
                self.histograms(trained);
            }
            if is_saving {
                match self.save(trained) {
                    // The next save may find room; until then the checkpoint before stands.
                    Err(problem) if !is_last && !is_stopping => self.warn(&problem),
                    end => end?,
                }
            }
            if is_last || is_due(step, when.preview_every) {
                self.preview(trained).unwrap_or_else(|problem| self.warn(&problem.context("no preview")));
            }
            if is_stopping {
                break;
            }
        }
        Ok(())
    }

    fn log_step(&mut self, step: u64, stats: StepStats, peak_memory_bytes: Option<u64>) -> Result<()> {
        let mut scalars = stats.read().with_context(|| {
            format!(
                "training diverged at step {step}; lower train.learning_rate; checkpoints are in `{}`",
                self.run_dir.display()
            )
        })?;
        let (elapsed, steps) = (self.mark.0.elapsed().as_secs_f64().max(1e-9), (step - self.mark.1).max(1));
        let images_per_s = steps as f64 * self.frame.train.global_batch_size as f64 / elapsed;
        scalars.push(("perf/images_per_s".into(), images_per_s));
        let data_wait_fraction = (self.wait_s / elapsed).min(1.0);
        scalars.push(("perf/data_wait_fraction".into(), data_wait_fraction));
        scalars.extend(peak_memory_bytes.map(|bytes| ("perf/peak_memory_gb".into(), bytes as f64 / 1e9)));
        self.log.scalars(step, &scalars);
        let loss = scalars.iter().find(|(tag, _)| tag == "train/loss").map_or(f64::NAN, |(_, value)| *value);
        let eta_s = (step > 1).then(|| (self.total_steps - step) as f64 * elapsed / steps as f64);
        let total_steps = self.total_steps;
        let speed = Event::Step { step, total_steps, loss, images_per_s, data_wait_fraction, peak_memory_bytes, eta_s };
        self.sink.event(&speed);
        (self.mark, self.wait_s) = ((Instant::now(), step), 0.0);
        self.report_problems();
        Ok(())
    }

    fn save(&mut self, trained: &dyn Trainable) -> Result<()> {
        let path = checkpoint::save(trained, &self.frame.digest, self.run_dir)?;
        let log = &self.frame.log;
        let saved = trained.steps_done();
        checkpoint::prune(&self.run_dir.join("checkpoints"), saved, log.keep_checkpoints, log.keep_every);
        self.log.flush();
        self.sink.event(&Event::Saved { step: trained.steps_done(), path });
        (self.mark, self.saved_step) = ((Instant::now(), trained.steps_done()), trained.steps_done());
        Ok(())
    }

    /// Saves what was trained before `problem`, and says so; `unread` are the numbers of the last step.
    fn rescue(&mut self, trained: &dyn Trainable, unread: Option<StepStats>, problem: anyhow::Error) -> anyhow::Error {
        let step = trained.steps_done();
        let is_finite = unread.is_none_or(|stats| stats.read().is_ok());
        let problem = problem.context(format!("training ended after step {step}"));
        if step <= self.saved_step || trained.is_torn() || !is_finite {
            return problem;
        }
        match self.save(trained) {
            Ok(()) => problem,
            Err(unsaved) => problem.context(format!("{unsaved:#}")),
        }
    }

    fn warn(&mut self, problem: &anyhow::Error) {
        self.sink.event(&Event::Warning(format!("{problem:#}")));
    }

    fn preview(&mut self, trained: &mut dyn Trainable) -> Result<()> {
        let step = trained.steps_done();
        let measured = trained.measures()?;
        if !measured.is_empty() {
            self.log.scalars(step, &measured);
        }
        for Preview { tag, rgb, width, height } in trained.previews()? {
            if let Some(path) = self.log.image(&tag, step, &rgb, width, height) {
                self.sink.event(&Event::Preview { step, path });
            }
        }
        self.mark = (Instant::now(), step);
        Ok(())
    }

    fn histograms(&mut self, trained: &dyn Trainable) {
        for (name, tensor) in trained.weights() {
            self.log.histogram(&format!("weights/{name}"), trained.steps_done(), &tensor.values);
        }
    }

    fn report_problems(&mut self) {
        for problem in self.log.problems() {
            self.sink.event(&Event::Warning(problem));
        }
    }
}

/// Continues from the newest whole checkpoint of the folder, if it has one.
fn resume(
    trained: &mut dyn Trainable,
    frame: &Frame<'_>,
    run_dir: &Path,
    sink: &mut dyn EventSink,
) -> Result<Option<u64>> {
    let folder = run_dir.join("checkpoints");
    let (found, problems) = checkpoint::newest(&folder);
    let has_problems = !problems.is_empty();
    for problem in problems {
        sink.event(&Event::Warning(problem));
    }
    let Some(found) = found else {
        refuse_other_recipe(&frame.digest, run_dir)?;
        // To begin anew would empty the run's logs.
        ensure!(!has_problems, "no checkpoint is whole; repair one, or move `{}` away to begin anew", folder.display());
        return Ok(None);
    };
    checkpoint::restore(trained, &frame.digest, &found)?;
    Ok(Some(trained.steps_done()))
}

fn refuse_other_recipe(digest: &str, run_dir: &Path) -> Result<()> {
    let path = run_dir.join("run.json");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let known: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
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

/// Leaves the resolved recipe and what made the run beside its logs; `more` is what the trained part says of itself.
pub(crate) fn describe(
    frame: &Frame<'_>,
    more: serde_json::Map<String, serde_json::Value>,
    run_dir: &Path,
) -> Result<()> {
    write_whole(&run_dir.join("recipe.yaml"), frame.layered.to_yaml()?.as_bytes())?;
    let mut about = serde_json::json!({
        "recipe": frame.recipe_name,
        "profile": frame.profile_name,
        "recipe_digest": frame.digest,
        "seed": frame.seed,
        "realign": env!("CARGO_PKG_VERSION"),
        "resume": "run the same command again",
    });
    if let Some(about) = about.as_object_mut() {
        about.extend(more);
    }
    let text = serde_json::to_string_pretty(&about).context("cannot write run.json")? + "\n";
    write_whole(&run_dir.join("run.json"), text.as_bytes())
}
