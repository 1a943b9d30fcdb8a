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

use super::recipe_args::{RecipeArgs, check_device};
use crate::progress::Progress;

const NUM_JUDGED: usize = 256; // two percent is the resolution of the shares that are printed

/// Train as the recipe says; the same command again continues the run
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder that holds the folders of all runs
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
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
                check_device(&layered, &plan.recipe.device)?;
                let run_dir = self.run_dir.clone().map_or_else(|| plan.run_dir(&self.runs), Ok)?;
                let frame = Frame::of_program(plan, &layered)?;
                self.program(ProgramRun::new(plan)?, &frame, run_dir, out)
            }
        }
    }

    fn diffusion(&self, layered: &Layered, plan: &Plan, out: &mut dyn Write) -> Result<ExitCode> {
        check_device(layered, &plan.recipe.device)?;
        let run_dir = self.run_dir.clone().map_or_else(|| plan.run_dir(&self.runs), Ok)?;
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
            let trained = TrainedRun::open(&run_dir, &[])?;
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

/// Set by the first SIGINT or SIGTERM; the second ends the program at once.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 130, stop.clone()).context("cannot watch for signals")?;
        flag::register(signal, stop.clone()).context("cannot watch for signals")?;
    }
    Ok(stop)
}

/// Lets a classifier name what 256 samples show, prints the shares and leaves them in `result.json`.
fn judge(
    plan: &Plan,
    assembly: &Assembly,
    model: &TrainModel,
    run_dir: &Path,
    out: &mut dyn Write,
) -> Result<()> {
    let recipe = &plan.recipe;
    let classifier = Classifier::train(assembly.dataset.clone(), recipe.image_size, &assembly.device, recipe.seed)?;
    let on_data = classifier.judge_data()?;
    let num_classes = assembly.dataset.num_classes();
    let labels: Vec<i64> = (0..NUM_JUDGED).map(|i| (i % num_classes) as i64).collect();
    let sampling = Sampling::new(&recipe.sample, recipe.seed);
    writeln!(out, "a classifier trained on the data names what {NUM_JUDGED} pictures show:")?;
    let mut judged = vec![];
    for sampler in assembly.samplers() {
        let mut pictures = vec![];
        for (chunk_idx, chunk) in labels.chunks(64).enumerate() {
            let first = (chunk_idx * 64) as u64;
            pictures.extend(draw_pictures(assembly, model, sampler, plan.latent, chunk, first, sampling)?);
        }
        let report = classifier.judge(&pictures, &labels)?;
        let count = sampler.num_evaluations();
        let evaluations = if count == 1 { "1 evaluation".into() } else { format!("{count} evaluations") };
        writeln!(out, "  samples: {} ({evaluations} of the network each)", shares(&report))?;
        let accuracy: BTreeMap<_, _> = report.accuracy.iter().copied().collect();
        judged.push(serde_json::json!({ "num_evaluations": count, "classifier_on_samples": accuracy }));
    }
    writeln!(out, "  data:    {} ({} pictures it was not trained on)", shares(&on_data), on_data.count)?;
    let result = serde_json::json!({
        "step": recipe.train.steps,
        "recipe_digest": plan.digest()?,
        "weights": recipe.sample.weights,
        "cfg_scale": recipe.sample.cfg_scale,
        "samplers": judged,
        "num_samples": NUM_JUDGED,
        "realign": env!("CARGO_PKG_VERSION"),
        "device": realign::ops::describe(&assembly.device),
        "classifier_on_data": on_data.accuracy.iter().copied().collect::<BTreeMap<_, _>>(),
    });
    let path = run_dir.join("result.json");
    let text = serde_json::to_string_pretty(&result).context("cannot write the result")? + "\n";
    write_whole(&path, text.as_bytes())
}

fn shares(report: &ClassifierReport) -> String {
    let share = |(name, share): &(&str, f64)| format!("{name} {:.1} %", share * 100.0);
    report.accuracy.iter().map(share).collect::<Vec<_>>().join(", ")
}
