//! `realign check`: loads, builds and steps one recipe.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use realign::sample::{Sampling, draw_pictures};
use realign::train::Trainer;

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
        let (layered, mut plan) = self.recipe.plan()?;
        let spec = &plan.backbone;
        writeln!(
            out,
            "shapes fit: samples {:?}, grid {}, {} blocks of width {}",
            plan.latent, spec.grid, spec.depth, spec.hidden_size
        )?;
        if !plan.missing.is_empty() {
            writeln!(out, "not stepped, because this is missing:")?;
            for missing in &plan.missing {
                writeln!(out, "  {missing}")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        check_device(&layered, &plan)?;
        plan.recipe.train.global_batch_size = 2;
        plan.recipe.train.micro_batch_size = 2;
        plan.recipe.loader.num_workers = 0;
        let mut trainer = Trainer::new(&plan)?;
        let scalars = trainer.step(&plan)?.read().context("the first step")?;
        for (tag, value) in &scalars {
            writeln!(out, "{tag}: {value:.6}")?;
        }
        let model = trainer.weights(&plan.recipe.sample.weights)?;
        let sampling = Sampling::new(&plan.recipe.sample, plan.recipe.seed);
        for sampler in trainer.assembly.samplers() {
            draw_pictures(&trainer.assembly, &model, sampler, plan.latent, &[0], 0, sampling)?;
        }
        writeln!(out, "{} loads, builds, steps and samples", plan.recipe_name)?;
        Ok(ExitCode::SUCCESS)
    }
}
