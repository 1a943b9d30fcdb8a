//! Features of DINOv2-B here and in PyTorch, alternately.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use realign::burn::tensor::{Tensor, TensorData};
use realign::erase::Slot;
use realign::ops::{self, DeviceChoice};
use realign::plugin::{EncoderConfig, EncoderContext, EncoderKind, PatchGrid};
use realign::streams::Streams;
use realign::weights::{parameters, to_host};
use serde_json::json;

use super::Timing;
use super::ours::peak_bytes;
use super::torch::TorchStep;

const SCRIPT: &str = concat!(include_str!("torch_serve.py"), include_str!("encoder_features.py"));
const SIDE: usize = 256;

/// Features of DINOv2-B here and in PyTorch, from pictures of 256 pixels
#[derive(Debug, Args)]
pub struct EncoderArgs {
    /// Pictures of a batch
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Rounds; each runs both programs in turn
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Batches of each program per round
    #[arg(long, default_value_t = 2)]
    steps: usize,
    /// Python with PyTorch
    #[arg(long, default_value = "python3")]
    python: String,
}

impl EncoderArgs {
    /// Times and prints.
    ///
    /// # Errors
    /// A program cannot be started, or ends early.
    pub fn run(&self, out: &mut dyn Write) -> Result<()> {
        let threads = ops::num_threads();
        let mut torch =
            TorchStep::start_script(&self.python, SCRIPT, &json!({"batch": self.batch, "threads": threads}))?;
        let device = ops::open(DeviceChoice::Cpu)?;
        let config = json!({"type": "vit", "preset": "dinov2-vit-b", "weights": "random"});
        let config: Box<dyn EncoderConfig> = serde_json::from_value(config).context("encoder")?;
        let context =
            EncoderContext { image_size: SIDE, backbone_grid: PatchGrid::new(16, 16), weights_dir: "unread".into() };
        let encoder = Slot::<EncoderKind>::new(config.build(&context, &device)?);
        let num_params: u64 =
            parameters(&encoder).iter().map(|param| param.shape.iter().product::<usize>() as u64).sum();
        ensure!(
            num_params == torch.num_params,
            "the networks differ: {num_params} parameters here, {} in PyTorch",
            torch.num_params
        );
        let shape = [self.batch, 3, SIDE, SIDE];
        let pictures: Vec<f32> =
            Streams::new(1).uniform("pictures", shape.iter().product()).into_iter().map(|u| u * 255.0).collect();
        let pictures = Tensor::<4>::from_data(TensorData::new(pictures, shape), &device);
        let mut times = [Timing::default(), Timing::default()];
        for round in 0..=self.rounds {
            let mut ours = Timing::default();
            for _ in 0..self.steps {
                let begin = Instant::now();
                let tokens = encoder.encode(pictures.clone())?.tokens;
                to_host(tokens.narrow(0, 0, 1)); // waits for the device
                ours.ms.push(begin.elapsed().as_secs_f64() * 1e3);
            }
            ours.peak_bytes = peak_bytes();
            for (all, new) in times.iter_mut().zip([ours, torch.steps(self.steps)?]) {
                all.peak_bytes = new.peak_bytes;
                // The first round makes the weights and warms caches.
                if round > 0 {
                    all.ms.extend(new.ms);
                }
            }
        }
        let [ours, eager] = &times;
        writeln!(
            out,
            "DINOv2-B, batch {}, {threads} threads, PyTorch {}, {} batches each",
            self.batch,
            torch.version,
            ours.ms.len()
        )?;
        writeln!(out, "  {:16} {:>9} {:>10} {:>9}", "", "min ms", "median ms", "peak MB")?;
        for (name, t) in [("realign", ours), ("PyTorch eager", eager)] {
            writeln!(out, "  {name:16} {:9.1} {:10.1} {:9.0}", t.min(), t.median(), t.peak_bytes / 1e6)?;
        }
        writeln!(out, "  time: {:.3} of PyTorch eager's by the fastest batch", ours.min() / eager.min())?;
        Ok(())
    }
}
