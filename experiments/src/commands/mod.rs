//! The commands, one file each.
//!
//! A command is a clap struct with `run(out) -> Result<ExitCode>`. It writes its answer to `out`, never with
//! `println!`, so that a closed pipe is an error it can return. A new one is a `mod` line, a variant and an arm here.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

pub mod bench;
pub mod check;
pub mod correlate;
pub mod eval;
pub mod explain;
pub mod export;
pub mod import;
pub mod metrics;
pub mod new;
pub mod plot;
pub mod plugins;
pub mod prepare;
pub mod probe;
pub mod profile;
pub mod rank;
pub mod recipe_args;
pub mod reproduce;
pub mod run;
pub mod sample;
pub mod viz;
pub mod weights;

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train as the recipe says; the same command again continues the run
    Run(run::Run),
    /// Draw pictures from a trained run
    Sample(sample::Sample),
    /// Quality of a run's samples, or of pictures, against a reference
    Eval(eval::Eval),
    /// Crop pictures or compute latents once, before training
    Prepare(prepare::Prepare),
    /// The resolved recipe, where each value came from, sizes and costs
    Explain(explain::Explain),
    /// Time our training step beside PyTorch's
    Bench(bench::Bench),
    /// Where a step's time goes, by operation, forward and backward
    Profile(profile::Profile),
    /// Load, build and step one recipe, without writing anything
    Check(check::Check),
    /// Spatial structure of encoders' features on your pictures
    Metrics(metrics::Metrics),
    /// Which encoder to align with: by spatial structure on your pictures, with intervals and costs
    Rank(rank::Rank),
    /// A metric against FID over encoders: Pearson's r, line and plot
    Correlate(correlate::Correlate),
    /// Self-similarity of features as heat maps, with and without spatial normalization
    Viz(viz::Viz),
    /// Accuracy of linear and nearest-neighbor probes on encoders' features
    Probe(probe::Probe),
    /// A table or figure of the paper, run again, with a report
    Reproduce(reproduce::Reproduce),
    /// Curves of one run or several
    Plot(plot::Plot),
    /// Every plugin by kind, with its settings
    Plugins(plugins::Plugins),
    /// Published weights: list, get, verify
    Weights(weights::Weights),
    /// Make a run of a published generator, to sample from or to train on
    Import(import::Import),
    /// Write a run's weights as other projects read them
    Export(export::Export),
    /// Write a plugin file, or a plugin crate, with a passing test
    New(new::New),
}

impl Command {
    /// Runs the command; its answer goes to `out`.
    ///
    /// # Errors
    /// Whatever stopped it, in words that say how to go on.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitCode> {
        match self {
            Self::Run(command) => command.run(out),
            Self::Sample(command) => command.run(out),
            Self::Eval(command) => command.run(out),
            Self::Prepare(command) => command.run(out),
            Self::Explain(command) => command.run(out),
            Self::Bench(command) => command.run(out),
            Self::Profile(command) => command.run(out),
            Self::Check(command) => command.run(out),
            Self::Metrics(command) => command.run(out),
            Self::Rank(command) => command.run(out),
            Self::Correlate(command) => command.run(out),
            Self::Viz(command) => command.run(out),
            Self::Probe(command) => command.run(out),
            Self::Reproduce(command) => command.run(out),
            Self::Plot(command) => command.run(out),
            Self::Plugins(command) => command.run(out),
            Self::Weights(command) => command.run(out),
            Self::Import(command) => command.run(out),
            Self::Export(command) => command.run(out),
            Self::New(command) => command.run(out),
        }
    }
}
