//! `realign export`: writes a run's weights as other projects read them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use realign::checkpoint;
use realign::recipe::{Layered, Plan};
use realign::weights::find_layout;

use super::recipe_args::settings;
use super::sample::checkpoint_of;

/// Write a run's weights as other projects read them
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of the run
    run: PathBuf,
    /// Where to write: a name ending in `.pt`, `.pth` or `.safetensors`
    out: PathBuf,
    /// Whose names the file gets: `sit`, `repa`, `irepa`, `repa-e`, `jit`
    #[arg(long)]
    layout: String,
    /// Step of the checkpoint; the newest when left out
    #[arg(long)]
    step: Option<u64>,
}

impl Export {
    /// Reads the checkpoint and writes the file.
    ///
    /// # Errors
    /// There is no such run, or its network is not the layout's.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitCode> {
        let path = self.run.join("recipe.yaml");
        ensure!(path.exists(), "`{}` is not a run folder: it has no `recipe.yaml`", self.run.display());
        let layout = find_layout(&self.layout)?;
        let plan = Plan::new(&Layered::load_over(&settings()?, &path, Some("none"), &[])?)?;
        let from = checkpoint_of(&self.run, self.step)?;
        checkpoint::export(&plan, layout, &self.run, &from, &self.out)?;
        writeln!(out, "step {} as {} in {}", from.step, layout.about, self.out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}
