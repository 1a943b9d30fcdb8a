//! `realign export`: writes a run's weights as other projects read them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use realign::checkpoint::{self, TrainedRun};
use realign::weights::find_layout;

use super::recipe_args::settings;

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
        let layout = find_layout(&self.layout)?;
        let trained = TrainedRun::open(&settings()?, &self.run, &[])?;
        let from = trained.checkpoint(self.step)?;
        checkpoint::export(&trained.plan, layout, &self.run, &from, &self.out)?;
        writeln!(out, "step {} as {} in {}", from.step, layout.about, self.out.display())?;
        Ok(ExitCode::SUCCESS)
    }
}
