//! `realign run`: trains as the recipe says.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Args;
use realign::checkpoint::TrainedRun;
use realign::eval::{Classifier, ClassifierReport};
use realign::files::write_whole;
use realign::recipe::{Job, Layered, Plan};
use realign::sample::{Sampling, draw_pictures};
use realign::train::{Assembly, Frame, ProgramRun, RunOptions, TrainModel, Trainable};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::recipe_args::{RecipeArgs, check_device, settings};
use crate::progress::Progress;

const NUM_JUDGED: usize = 256; // two percent is the resolution of the shares that are printed

/// Train as the recipe says; the same command again continues the run
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder that holds the folders of all runs; `runs`, or what the user's settings say
    #[arg(long)]
    runs: Option<PathBuf>,
    /// Folder of this run, instead of one named after recipe, profile and settings
    #[arg(long)]
    run_dir: Option<PathBuf>,
}

impl Run {
    /// Trains, and judges the samples where the recipe asks for it.
    ///
    /// # Errors
    /// The recipe does not fit together, or training fails.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let (layered, job) = self.recipe.job()?;
        match &job {
            Job::Diffusion(plan) => self.diffusion(&layered, plan, out),
            Job::Program(plan) => {
                check_device(&layered, &plan.recipe.device, plan.recipe.precision)?;
                let run_dir = run_dir(self.run_dir.as_deref(), self.runs.as_deref(), |runs| plan.run_dir(runs))?;
                let frame = Frame::of_program(plan, &layered)?;
                self.program(ProgramRun::new(plan)?, &frame, run_dir, out)
            }
        }
    }

    fn diffusion(&self, layered: &Layered, plan: &Plan, out: &mut dyn Write) -> Result<ExitCode> {
        check_device(layered, &plan.recipe.device, plan.recipe.precision)?;
        let run_dir = run_dir(self.run_dir.as_deref(), self.runs.as_deref(), |runs| plan.run_dir(runs))?;
        if let Some(program) = &plan.recipe.program {
            let frame = Frame::of_diffusion(plan, layered)?;
            return self.program(ProgramRun::with_diffusion(plan, &**program)?, &frame, run_dir, out);
        }
        let stop = stop_flag()?;
        let mut progress = Progress::new();
        let options = RunOptions { run_dir: run_dir.clone(), stop: &stop };
        let trainer = realign::train::run(plan, layered, options, &mut progress)?;
        drop(progress);
        if trainer.step < plan.recipe.train.steps {
            // The progress has said that it stopped.
            return Ok(ExitCode::SUCCESS);
        }
        if plan.recipe.log.classifier {
            let model = trainer.weights(&plan.recipe.sample.weights)?;
            judge(plan, &trainer.assembly, &model, &run_dir, out)?;
        }
        say_where(&run_dir, out)
    }

    fn program(
        &self,
        mut run: ProgramRun,
        frame: &Frame<'_>,
        run_dir: PathBuf,
        out: &mut dyn Write,
    ) -> Result<ExitCode> {
        let stop = stop_flag()?;
        let mut progress = Progress::new();
        run.run(frame, RunOptions { run_dir: run_dir.clone(), stop: &stop }, &mut progress)?;
        drop(progress);
        if run.steps_done() < frame.train.steps {
            return Ok(ExitCode::SUCCESS);
        }
        drop(run);
        if frame.log.classifier {
            let trained = TrainedRun::open(&settings()?, &run_dir, &[])?;
            let (plan, checkpoint) = (&trained.plan, trained.checkpoint(None)?);
            let assembly = trained.assembly(&checkpoint)?;
            let model = trained.model(&checkpoint, &plan.recipe.sample.weights, &assembly.device)?;
            judge(plan, &assembly, &model, &run_dir, out)?;
        }
        say_where(&run_dir, out)
    }
}

fn say_where(run_dir: &Path, out: &mut dyn Write) -> Result<ExitCode> {
    writeln!(out, "run folder: {}", run_dir.display())?;
    writeln!(out, "TensorBoard: tensorboard --logdir {}", run_dir.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The folder that was asked for, else the plan's own among all runs.
///
/// # Errors
/// The settings or the plan cannot be read.
pub fn run_dir(
    asked: Option<&Path>,
    runs: Option<&Path>,
    own_name: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<PathBuf> {
    if let Some(asked) = asked {
        return Ok(asked.to_path_buf());
    }
    let own = settings()?.runs;
    own_name(runs.or(own.as_deref()).unwrap_or(Path::new("runs")))
}

/// Set by the first SIGINT or SIGTERM; the second ends the program at once.
///
/// # Errors
/// The system refuses.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, stop.clone()).context("cannot watch for signals")?;
        flag::register(signal, stop.clone()).context("cannot watch for signals")?;
    }
    Ok(stop)
}

/// Lets a classifier name what 256 samples show, prints the shares and leaves them in `result.json`.
fn judge(plan: &Plan, assembly: &Assembly, model: &TrainModel, run_dir: &Path, out: &mut dyn Write) -> Result<()> {
    let recipe = &plan.recipe;
    let judged_data = recipe.data.open_for_judge(&plan.dataset_context()).context("data")?.into();
    let classifier = Classifier::train(judged_data, recipe.image_size, &assembly.device, recipe.seed)?;
    let on_data = classifier.judge_data()?;
    let num_classes = assembly.dataset.num_classes();
    let labels: Vec<i64> = (0..NUM_JUDGED).map(|i| (i % num_classes) as i64).collect();
    let sampling = Sampling::new(&recipe.sample, recipe.seed);
    // Nobody may read this any more; the result is written all the same.
    let _ = writeln!(out, "a classifier trained on the data names what {NUM_JUDGED} pictures show:");
    let (held_out, shown): (Vec<i64>, Vec<i64>) = (0..num_classes as i64)
        .partition(|class| assembly.dataset.is_held_out(usize::try_from(*class).unwrap_or(usize::MAX)));
    let groups = match held_out.is_empty() {
        true => vec![("samples:", "classifier_on_samples", shown)],
        false => vec![
            ("samples of classes seen in training:", "classifier_on_samples", shown),
            ("samples of classes held out:        ", "classifier_on_held_out", held_out),
        ],
    };
    let mut judged = vec![];
    for sampler in assembly.samplers() {
        let mut pictures = vec![];
        for (chunk_idx, chunk) in labels.chunks(64).enumerate() {
            let first = (chunk_idx * 64) as u64;
            pictures.extend(draw_pictures(assembly, model, sampler, plan.latent, chunk, first, sampling)?);
        }
        let count = sampler.num_evaluations();
        let evaluations = if count == 1 { "1 evaluation".into() } else { format!("{count} evaluations") };
        let mut numbers = serde_json::json!({ "num_evaluations": count });
        for (name, key, classes) in &groups {
            let Some(report) = judge_classes(&classifier, &pictures, &labels, classes)? else { continue };
            let _ = writeln!(
                out,
                "  {name} {} ({evaluations} of the network each, {} pictures)",
                shares(&report),
                report.count
            );
            numbers[*key] = serde_json::to_value(accuracy(&report)).context("cannot write the result")?;
        }
        judged.push(numbers);
    }
    let _ = writeln!(out, "  data:    {} ({} pictures it was not trained on)", shares(&on_data), on_data.count);
    let result = serde_json::json!({
        "step": recipe.train.steps,
        "recipe_digest": plan.digest()?,
        "weights": recipe.sample.weights,
        "cfg_scale": recipe.sample.cfg_scale,
        "samplers": judged,
        "num_samples": NUM_JUDGED,
        "realign": env!("CARGO_PKG_VERSION"),
        "device": realign::ops::describe(&assembly.device),
        "classifier_on_data": accuracy(&on_data),
    });
    let path = run_dir.join("result.json");
    let text = serde_json::to_string_pretty(&result).context("cannot write the result")? + "\n";
    write_whole(&path, text.as_bytes())
}

/// Judges the pictures of these classes, if there are any.
fn judge_classes(
    classifier: &Classifier,
    pictures: &[u8],
    labels: &[i64],
    classes: &[i64],
) -> Result<Option<ClassifierReport>> {
    let size = pictures.len() / labels.len().max(1);
    let (mut chosen, mut asked) = (vec![], vec![]);
    for (picture, label) in pictures.chunks_exact(size.max(1)).zip(labels) {
        if classes.contains(label) {
            chosen.extend_from_slice(picture);
            asked.push(*label);
        }
    }
    if asked.is_empty() { Ok(None) } else { classifier.judge(&chosen, &asked).map(Some) }
}

fn accuracy(report: &ClassifierReport) -> BTreeMap<&'static str, f64> {
    report.accuracy.iter().copied().collect()
}

fn shares(report: &ClassifierReport) -> String {
    let share = |(name, share): &(&str, f64)| format!("{name} {:.1} %", share * 100.0);
    report.accuracy.iter().map(share).collect::<Vec<_>>().join(", ")
}
