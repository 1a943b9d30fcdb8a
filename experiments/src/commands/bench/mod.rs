//! `realign bench`: our training step beside PyTorch's, alternately, in one run.

mod encoder;
mod network;
mod ours;
mod precision;
mod torch;
mod trajectory;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use realign::ops;
use serde_json::json;

use network::Sizes;
use ours::OurStep;
use torch::TorchStep;
use trajectory::Trajectory;

/// Time our training step beside PyTorch's
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One training step: SiT, convolution projector, clip, AdamW, EMA
    Step(StepArgs),
    /// A hundred steps here and in PyTorch, from the same weights, batches and noise
    Trajectory(Trajectory),
    /// Gradients in bf16 here and under PyTorch's autocast, beside those in f32
    Precision(precision::PrecisionArgs),
    /// Features of DINOv2-B here and in PyTorch, from pictures of 256 pixels
    Encoder(encoder::EncoderArgs),
}

#[derive(Debug, Args)]
struct StepArgs {
    /// Networks to time: `S` (width 384, depth 6, 64 tokens, batch 16) and `B` (SiT-B/2: 256 tokens, batch 4)
    #[arg(long, value_delimiter = ',', default_value = "S,B")]
    sizes: Vec<Size>,
    /// Backbone of both programs; JiT gets pixels in patches of 16
    #[arg(long, value_enum, default_value = "sit")]
    backbone: BackboneChoice,
    /// Objective of both programs; PyTorch takes MeanFlow's derivative with torch.func.jvp, for the whole batch
    #[arg(long, value_enum, default_value = "flow_matching")]
    objective: ObjectiveChoice,
    /// Share of MeanFlow's samples with r = t here; 0 takes the derivative for the whole batch, as PyTorch does
    #[arg(long, default_value_t = 0.75)]
    instant_share: f64,
    /// Rounds; each runs every program's steps in turn
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Steps of each program per round
    #[arg(long, default_value_t = 3)]
    steps: usize,
    /// Python with PyTorch
    #[arg(long, default_value = "python3")]
    python: String,
    /// Leave torch.compile out
    #[arg(long)]
    no_compile: bool,
    /// One line of JSON per size instead of a table
    #[arg(long)]
    json: bool,
}

/// A network that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum Size {
    /// Width 384, depth 6, 64 tokens, batch 16.
    S,
    /// SiT-B/2: 256 tokens, batch 4.
    B,
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

impl Size {
    fn sizes(self) -> Sizes {
        let (hidden_size, depth, num_heads, side, batch) = match self {
            Self::S => (384, 6, 6, 8, 16),
            Self::B => (768, 12, 12, 16, 4),
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
            tap: 4,
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
            What::Step(args) => args.sizes.iter().try_for_each(|size| args.time(*size, out))?,
            What::Trajectory(trajectory) => trajectory.run(out)?,
            What::Precision(precision) => precision.run(out)?,
            What::Encoder(encoder) => encoder.run(out)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl StepArgs {
    fn time(&self, size: Size, out: &mut dyn Write) -> Result<()> {
        let (backbone, objective, instant_share) = (self.backbone, self.objective, self.instant_share);
        let sizes = Sizes { backbone, objective, instant_share, ..size.sizes() };
        let mut eager = TorchStep::start(&self.python, &sizes, false)?;
        let mut compiled = match self.no_compile {
            true => None,
            false => Some(TorchStep::start(&self.python, &sizes, true)?),
        };
        let mut ours = OurStep::new(&sizes)?;
        ensure!(
            ours.num_params() == eager.num_params,
            "the networks differ: {} trainable parameters here, {} in PyTorch",
            ours.num_params(),
            eager.num_params
        );
        let mut times = [Timing::default(), Timing::default(), Timing::default()];
        let mut compile_problem = None;
        for round in 0..=self.rounds {
            let found = [
                Some(ours.steps(self.steps)?),
                Some(eager.steps(self.steps)?),
                match compiled.as_mut().map(|torch| torch.steps(self.steps)) {
                    Some(Err(problem)) => {
                        compile_problem = Some(format!("{problem:#}"));
                        compiled = None;
                        None
                    }
                    Some(Ok(timing)) => Some(timing),
                    None => None,
                },
            ];
            for (all, new) in times.iter_mut().zip(found) {
                let Some(new) = new else { continue };
                all.peak_bytes = new.peak_bytes;
                // The first round warms caches and compiles.
                if round > 0 {
                    all.ms.extend(new.ms);
                }
            }
        }
        self.report(size, &times, compile_problem, &eager.version, out)
    }

    fn report(
        &self,
        size: Size,
        [ours, eager, compiled]: &[Timing; 3],
        compile_problem: Option<String>,
        version: &str,
        out: &mut dyn Write,
    ) -> Result<()> {
        let has_compiled = !compiled.ms.is_empty();
        if self.json {
            let timing = |t: &Timing| json!({"min_ms": t.min(), "median_ms": t.median(), "peak_bytes": t.peak_bytes});
            let line = json!({
                "size": format!("{size:?}"),
                "backbone": self.backbone,
                "objective": self.objective,
                "torch": version,
                "threads": ops::num_threads(),
                "realign": timing(ours),
                "eager": timing(eager),
                "compile": has_compiled.then(|| timing(compiled)),
                "ratio_to_eager": ours.min() / eager.min(),
                "ratio_to_compile": has_compiled.then(|| ours.min() / compiled.min()),
                "memory_ratio": ours.peak_bytes / eager.peak_bytes,
            });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        writeln!(
            out,
            "{:?}, {:?}, size {size:?}, {} threads, PyTorch {version}, {} steps each",
            self.backbone,
            self.objective,
            ops::num_threads(),
            ours.ms.len()
        )?;
        writeln!(out, "  {:16} {:>9} {:>10} {:>9} {:>7}", "", "min ms", "median ms", "peak MB", "ratio")?;
        let mut row = |name: &str, t: &Timing| {
            let ratio = ours.min() / t.min();
            writeln!(out, "  {name:16} {:9.1} {:10.1} {:9.0} {ratio:7.3}", t.min(), t.median(), t.peak_bytes / 1e6)
        };
        row("realign", ours)?;
        row("PyTorch eager", eager)?;
        if has_compiled {
            row("torch.compile", compiled)?;
        }
        writeln!(out, "  memory: {:.2} of PyTorch eager's", ours.peak_bytes / eager.peak_bytes)?;
        if let Some(problem) = compile_problem {
            writeln!(out, "  torch.compile did not work: {problem}")?;
        }
        Ok(())
    }
}
