//! `realign prepare`: what is done to a data set once, before training.

mod images;
mod latents;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Crop pictures or compute latents once, before training
#[derive(Debug, Args)]
pub struct Prepare {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Crop every picture of a folder or zip as training does, and write them as PNG
    Images(images::Images),
    /// Compute the latents of a recipe's pictures with its autoencoder; the same command again goes on
    Latents(latents::Latents),
}

impl Prepare {
    /// Prepares what was asked for.
    ///
    /// # Errors
    /// The data or weights are not there, or the disk refuses.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        match &self.what {
            What::Images(command) => command.run(out),
            What::Latents(command) => command.run(out),
        }
    }
}
