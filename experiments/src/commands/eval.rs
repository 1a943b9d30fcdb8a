//! `realign eval`: how good pictures are, in numbers.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

/// Quality of a run's samples, or of pictures, against a reference
#[derive(Debug, Clone, Args)]
pub struct Eval {
    /// What to evaluate: a run folder, a folder or zip of pictures, or an `.npz` as `sample` writes it
    pub source: PathBuf,
    /// Step of the checkpoint, or `all` of those kept; the newest when left out
    #[arg(long)]
    pub step: Option<String>,
    /// What to compare with: an `.npz` of statistics or pictures, a folder or zip of pictures, or `data`, the run's own
    #[arg(long, value_name = "REFERENCE")]
    pub reference: Option<String>,
    /// Network whose features are compared, as in a recipe: `shapes_net`, `{type: inception}`; may be repeated
    #[arg(long = "features", value_name = "NETWORK")]
    pub features: Vec<String>,
    /// What is measured, of what each network offers: `frechet_distance`, `precision`; may be repeated
    #[arg(long = "metric", value_name = "METRIC")]
    pub metrics: Vec<String>,
    /// Pictures to draw or to take
    #[arg(long)]
    pub num_samples: Option<usize>,
    /// First seed of noise and labels
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Seeds, counted on from `--seed`; mean and spread over several
    #[arg(long, default_value_t = 1)]
    pub seeds: usize,
    /// Draws of the bootstrap behind the intervals; 0 is none
    #[arg(long)]
    pub bootstrap: Option<usize>,
    /// Pictures drawn and looked at together
    #[arg(long)]
    pub batch: Option<usize>,
    /// Folder of published weights, for sources that are no runs
    #[arg(long)]
    pub weights_dir: Option<PathBuf>,
    /// Where to compute, for sources that are no runs: `auto`, `cpu`, `flex`, `cuda`
    #[arg(long)]
    pub device: Option<String>,
    /// Override one value of the run's recipe, `sample.cfg_scale=1.5`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// File of the result, instead of one below `eval` in the run folder
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the source's own statistics as a reference, instead of comparing it: an `.npz`
    #[arg(long, value_name = "FILE")]
    pub save_reference: Option<PathBuf>,
}

impl Eval {
    /// Evaluates, prints a table and writes the result.
    ///
    /// # Errors
    /// There is nothing to evaluate or to compare with, or a network lacks its weights.
    pub fn run(&self, _out: &mut dyn Write) -> Result<ExitCode> {
        anyhow::bail!("not yet")
    }
}
