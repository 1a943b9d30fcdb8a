//! `realign sample`: draws pictures from a trained run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use realign::checkpoint::TrainedRun;
use realign::files::write_whole;
use realign::plugin::ConditionSpec;
use realign::recipe::{LabelSampling, Plan};
use realign::sample::{ImageWriter, Prompt, Sampling, draw_prompts, prompts_of, sample_labels};
use realign::train::Assembly;

use super::recipe_args::{check_device, settings};
use crate::evaluation::source::is_npz;
use crate::progress::pictures_bar;

const MOST_SAMPLES: usize = 10_000_000;

/// Draw pictures from a trained run
#[derive(Debug, Args)]
pub struct Sample {
    /// Folder of the run
    run: PathBuf,
    /// Pictures to draw
    #[arg(long, default_value_t = 64)]
    num: usize,
    /// Where to write: a name ending in `.npz` (one array `arr_0` as the ADM evaluator reads it) or a folder for PNGs
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where to write one array `arr_0`, bytes `[num, height, width, 3]`, as the ADM evaluator and `eval` read it
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    npz: Option<PathBuf>,
    /// Pictures drawn at once; the result does not depend on it
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Seed of noise and labels
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Step of the checkpoint; the newest when left out
    #[arg(long)]
    step: Option<u64>,
    /// Classes in turn, separated by commas, instead of the recipe's way
    #[arg(long, value_delimiter = ',')]
    labels: Vec<i64>,
    /// A text to draw a picture of, for networks that take text; several take turns, and are not split at commas
    #[arg(long = "prompt", value_name = "TEXT", conflicts_with = "labels")]
    prompts: Vec<String>,
    /// Override one value of the run's recipe, `sample.cfg_scale=1.5`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl Sample {
    /// Draws and writes.
    ///
    /// # Errors
    /// There is no such run, or the disk refuses.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        for (option, value, most) in [("--num", self.num, MOST_SAMPLES), ("--batch", self.batch, 65_536)] {
            ensure!((1..=most).contains(&value), "{option}: `{value}` is out of range; allowed is 1 to {most}");
        }
        let trained = TrainedRun::open(&settings()?, &self.run, &self.sets)?;
        let plan = &trained.plan;
        check_device(&trained.layered, &plan.recipe.device, plan.recipe.precision)?;
        let checkpoint = trained.checkpoint(self.step)?;
        let assembly = trained.assembly(&checkpoint)?;
        let model = trained.model(&checkpoint, &plan.recipe.sample.weights, &assembly.device)?;
        let prompts = self.prompts(plan, &assembly)?;
        let sampling = Sampling::new(&plan.recipe.sample, self.seed);
        if let Some(npz) = self.npz.as_ref().filter(|npz| !is_npz(npz)) {
            bail!("--npz `{}`: its name must end in `.npz`", npz.display());
        }
        let target = self
            .npz
            .clone()
            .or_else(|| self.out.clone())
            .unwrap_or_else(|| self.run.join(format!("samples-step{}-seed{}.npz", checkpoint.step, self.seed)));
        let side = plan.recipe.image_size;
        let mut writer = ImageWriter::create(&target, self.num, side, side)?;
        let bar = pictures_bar(self.num);
        for (i, chunk) in prompts.chunks(self.batch).enumerate() {
            let first = (i * self.batch) as u64;
            writer.write(&draw_prompts(&assembly, &model, &*assembly.sampler, plan.latent, chunk, first, sampling)?)?;
            bar.inc(chunk.len() as u64);
        }
        bar.finish_and_clear();
        writer.finish()?;
        if let Some(note) = assembly.draw_size.note() {
            writeln!(out, "{note}")?;
        }
        self.describe(plan, &target, checkpoint.step)?;
        writeln!(out, "{} pictures of step {} in {}", self.num, checkpoint.step, target.display())?;
        Ok(ExitCode::SUCCESS)
    }

    /// What each picture is asked to show.
    fn prompts(&self, plan: &Plan, assembly: &Assembly) -> Result<Vec<Prompt>> {
        if self.prompts.is_empty() {
            return Ok(prompts_of(&*assembly.dataset, &self.labels(plan, assembly.dataset.num_classes())?, 0));
        }
        ensure!(
            matches!(plan.condition, ConditionSpec::Text { .. }),
            "--prompt: the run's conditioner is `{}`, which takes no text; use --labels",
            (plan.recipe.conditioner.info().name)()
        );
        let text = |i: usize| Some(self.prompts[i % self.prompts.len()].clone());
        Ok((0..self.num).map(|i| Prompt { label: 0, caption: text(i) }).collect())
    }

    fn labels(&self, plan: &Plan, num_classes: usize) -> Result<Vec<i64>> {
        if self.labels.is_empty() {
            let is_balanced = plan.recipe.sample.label_sampling == LabelSampling::Balanced;
            return sample_labels(self.num, num_classes, is_balanced, self.seed);
        }
        for label in &self.labels {
            let is_known = usize::try_from(*label).is_ok_and(|label| label < num_classes);
            ensure!(is_known, "--labels: `{label}` is not a class; allowed are 0 to {}", num_classes - 1);
        }
        Ok((0..self.num).map(|i| self.labels[i % self.labels.len()]).collect())
    }

    /// Leaves beside the pictures what made them.
    fn describe(&self, plan: &Plan, target: &Path, step: u64) -> Result<()> {
        let about = serde_json::json!({
            "recipe_digest": plan.digest()?,
            "step": step,
            "weights": plan.recipe.sample.weights,
            "seed": self.seed,
            "num": self.num,
            "prompts": self.prompts,
            "seeding": "each picture by seed and index",
            "sample": serde_json::to_value(&plan.recipe.sample).context("cannot write the settings")?,
            "realign": env!("CARGO_PKG_VERSION"),
        });
        let mut path = target.as_os_str().to_os_string();
        path.push(".json");
        let text = serde_json::to_string_pretty(&about).context("cannot write the settings")? + "\n";
        write_whole(Path::new(&path), text.as_bytes())
    }
}
