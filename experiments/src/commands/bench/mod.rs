//! `realign bench`: our training step beside PyTorch's, alternately, in one run.

mod contest;
mod data;
mod encoder;
mod network;
mod ours;
mod precision;
mod sampling;
mod step;
mod torch;
mod trajectory;
mod utilization;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use realign::ops;

use network::Sizes;
use trajectory::Trajectory;

/// Time our training step beside PyTorch's
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One training step: SiT or JiT, projector, clip, AdamW, EMA
    Step(step::StepArgs),
    /// A batch of samples by the reverse SDE
    Sample(sampling::SampleArgs),
    /// A hundred steps here and in PyTorch, from the same weights, batches and noise
    Trajectory(Trajectory),
    /// Gradients in bf16 here and under PyTorch's autocast, beside those in f32
    Precision(precision::PrecisionArgs),
    /// Features of DINOv2-B here and in PyTorch, from pictures of 256 pixels
    Encoder(encoder::EncoderArgs),
    /// Decoding, cropping and an encoder's preprocessing here and in PyTorch, with equal numbers of threads
    Data(data::DataArgs),
}

/// A network that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum Size {
    /// Width 384, depth 6, 64 tokens, batch 16.
    S,
    /// SiT-B/2: 256 tokens, batch 4.
    B,
    /// SiT-XL/2: 256 tokens, batch 1.
    XL,
}

/// A backbone that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum BackboneChoice {
    /// Latents of 4 channels in patches of 2.
    Sit,
    /// Pixels in patches of 16, 32 label tokens from block 4 on.
    Jit,
}

/// An objective that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveChoice {
    /// Velocity.
    FlowMatching,
    /// Average velocity, without guidance.
    MeanFlow,
}

/// A projector that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ProjectorChoice {
    /// iREPA's convolution.
    Conv,
    /// REPA's three layers.
    Mlp,
}

impl Size {
    fn sizes(self) -> Sizes {
        let (hidden_size, depth, num_heads, side, batch, tap) = match self {
            Self::S => (384, 6, 6, 8, 16, 4),
            Self::B => (768, 12, 12, 16, 4, 4),
            Self::XL => (1152, 28, 16, 16, 1, 8),
        };
        Sizes {
            backbone: BackboneChoice::Sit,
            objective: ObjectiveChoice::FlowMatching,
            instant_share: 0.75,
            hidden_size,
            depth,
            num_heads,
            side,
            batch,
            target: 768,
            tap,
            projector: ProjectorChoice::Conv,
            recomputes: false,
            threads: ops::num_threads(),
        }
    }
}

/// Times and memory of one program.
#[derive(Debug, Default)]
struct Timing {
    ms: Vec<f64>,
    peak_bytes: f64,
}

impl Timing {
    /// Joins a later round's times; the first round warms caches and compiles.
    fn add(&mut self, later: Self, is_first: bool) {
        self.peak_bytes = later.peak_bytes;
        if !is_first {
            self.ms.extend(later.ms);
        }
    }

    /// The fastest step: on a shared machine everything else only adds.
    fn min(&self) -> f64 {
        self.ms.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn median(&self) -> f64 {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl Bench {
    /// Times and prints.
    ///
    /// # Errors
    /// A program cannot be started, or ends early.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        match &self.what {
            What::Step(step) => step.run(out)?,
            What::Sample(sampling) => sampling.run(out)?,
            What::Trajectory(trajectory) => trajectory.run(out)?,
            What::Precision(precision) => precision.run(out)?,
            What::Encoder(encoder) => encoder.run(out)?,
            What::Data(data) => data.run(out)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
