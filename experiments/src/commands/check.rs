//! `realign check`: loads, builds and steps one recipe.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use realign::recipe::{Job, Layered, Missing, Plan, ProgramPlan};
use realign::sample::{Sampling, draw_pictures};
use realign::train::{ProgramRun, StepStats, Trainable, Trainer};

use super::recipe_args::{RecipeArgs, check_device};

/// Load, build and step one recipe, without writing anything
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Check {
    /// Two samples are enough to show that every part fits.
    ///
    /// # Errors
    /// What is wrong with the recipe.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let (layered, job) = self.recipe.job()?;
        match job {
            Job::Diffusion(plan) => diffusion(&layered, *plan, out),
            Job::Program(plan) => program(&layered, *plan, out),
        }
    }
}

fn diffusion(layered: &Layered, mut plan: Plan, out: &mut dyn Write) -> Result<ExitCode> {
    let spec = &plan.backbone;
    writeln!(
        out,
        "shapes fit: samples {:?}, grid {}, {} blocks of width {}",
        plan.latent, spec.grid, spec.depth, spec.hidden_size
    )?;
    if !is_complete(&plan.missing, out)? {
        return Ok(ExitCode::SUCCESS);
    }
    check_device(layered, &plan.recipe.device, plan.recipe.precision)?;
    plan.recipe.train.global_batch_size = 2;
    plan.recipe.train.micro_batch_size = 2.into();
    plan.recipe.loader.num_workers = 0;
    if let Some(program) = &plan.recipe.program {
        return step(ProgramRun::with_diffusion(&plan, &**program)?, &plan.recipe_name, out);
    }
    let mut trainer = Trainer::new(&plan)?;
    show(trainer.step(&plan)?, out)?;
    let model = trainer.weights(&plan.recipe.sample.weights)?;
    let sampling = Sampling::new(&plan.recipe.sample, plan.recipe.seed);
    for sampler in trainer.assembly.samplers() {
        draw_pictures(&trainer.assembly, &model, sampler, plan.latent, &[0], 0, sampling)?;
    }
    writeln!(out, "{} loads, builds, steps and samples", plan.recipe_name)?;
    Ok(ExitCode::SUCCESS)
}

fn program(layered: &Layered, mut plan: ProgramPlan, out: &mut dyn Write) -> Result<ExitCode> {
    if !is_complete(&plan.missing, out)? {
        return Ok(ExitCode::SUCCESS);
    }
    check_device(layered, &plan.recipe.device, plan.recipe.precision)?;
    (plan.recipe.train.global_batch_size, plan.recipe.train.micro_batch_size) = (2, 2.into());
    plan.recipe.loader.num_workers = 0;
    step(ProgramRun::new(&plan)?, &plan.recipe_name, out)
}

fn step(mut run: ProgramRun, recipe_name: &str, out: &mut dyn Write) -> Result<ExitCode> {
    show(run.advance()?, out)?;
    run.previews()?;
    writeln!(out, "{recipe_name} loads, builds, steps and samples")?;
    Ok(ExitCode::SUCCESS)
}

fn show(stats: StepStats, out: &mut dyn Write) -> Result<()> {
    for (tag, value) in stats.read().context("the first step")? {
        writeln!(out, "{tag}: {value:.6}")?;
    }
    Ok(())
}

/// Whether nothing is missing; says what is.
fn is_complete(missing: &[Missing], out: &mut dyn Write) -> Result<bool> {
    if !missing.is_empty() {
        writeln!(out, "not stepped, because this is missing:")?;
        for missing in missing {
            writeln!(out, "  {missing}")?;
        }
    }
    Ok(missing.is_empty())
}
