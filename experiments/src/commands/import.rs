//! `realign import`: makes a run of a published generator.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use realign::checkpoint;
use realign::weights::find_layout;

use super::recipe_args::RecipeArgs;
use super::run::run_dir;

/// Make a run of a published generator, to sample from or to train on
#[derive(Debug, Args)]
pub struct Import {
    /// The file: PyTorch or safetensors
    file: PathBuf,
    /// Whose file it is: `sit`, `repa`, `irepa`, `repa-e`, `jit`
    #[arg(long)]
    layout: String,
    #[command(flatten)]
    recipe: RecipeOption,
    /// Folder that holds the folders of all runs; `runs`, or what the user's settings say
    #[arg(long)]
    runs: Option<PathBuf>,
    /// Folder of the run, instead of one named after recipe, profile and settings
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Step at which the run stands; its learning rate and averages go on from there
    #[arg(long, default_value_t = 0)]
    step: u64,
}

/// A recipe by `--recipe`.
#[derive(Debug, Args)]
struct RecipeOption {
    /// Recipe whose network the file holds
    #[arg(long)]
    recipe: PathBuf,
    /// Scale of the run: a file of `profiles/`, or `none`
    #[arg(long)]
    profile: Option<String>,
    /// Override one value, `backbone.size=XL/2`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl Import {
    /// Reads the file and writes the run.
    ///
    /// # Errors
    /// The file does not fit the recipe, or the folder holds a run already.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitCode> {
        let layout = find_layout(&self.layout)?;
        let RecipeOption { recipe, profile, sets } = self.recipe;
        let (layered, plan) = RecipeArgs { recipe, profile, sets }.plan()?;
        let run_dir = run_dir(self.run_dir.as_deref(), self.runs.as_deref(), |runs| plan.run_dir(runs))?;
        let imported = checkpoint::import(&plan, &layered, layout, &self.file, &run_dir, self.step)?;
        for note in &imported.notes {
            writeln!(out, "{note}")?;
        }
        writeln!(out, "optimizer: fresh")?;
        writeln!(out, "checkpoint: {}", imported.path.display())?;
        writeln!(out, "run folder: {}", run_dir.display())?;
        Ok(ExitCode::SUCCESS)
    }
}
