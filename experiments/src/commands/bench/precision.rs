//! `realign bench precision`: what bf16 does to gradients here, and what autocast does to them in PyTorch.

use std::io::Write;

use anyhow::{Context, Result, bail};
use clap::Args;
use realign::ops::{self, DeviceChoice, Precision};
use realign::plugin::Draws;
use realign::streams::Streams;
use realign::train::Gradients;
use realign::weights::{StateDict, to_host, write_safetensors};

use super::Size;
use super::network::{Network, Sizes};
use super::ours::{OurBatch, loss};
use super::torch::TorchStep;
use super::trajectory::{keep, shaken};

const SCRIPT: &str = concat!(include_str!("torch_sit.py"), include_str!("torch_precision.py"));
/// Relative distance of two gradients' norms in f32 above which they are not of the same network.
const SAME: f64 = 1e-4;

#[derive(Debug, Args)]
pub struct PrecisionArgs {
    /// Networks: `S` (width 384, depth 6, batch 2) and `B` (SiT-B/2, batch 1), both with 64 tokens
    #[arg(long, value_delimiter = ',', default_value = "S,B", hide_possible_values = true)]
    sizes: Vec<Size>,
    /// Draws of weights, batch and noise
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Python with PyTorch
    #[arg(long, default_value = "python3")]
    python: String,
}

impl PrecisionArgs {
    /// Differentiates and prints.
    ///
    /// # Errors
    /// PyTorch cannot be run, or its network is another.
    pub fn run(&self, out: &mut dyn Write) -> Result<()> {
        self.sizes.iter().try_for_each(|size| self.compare(*size, out))
    }

    fn compare(&self, size: Size, out: &mut dyn Write) -> Result<()> {
        let batch = if size == Size::S { 2 } else { 1 };
        let sizes = Sizes { side: 8, batch, ..size.sizes() };
        let mut torch = TorchStep::start_script(&self.python, SCRIPT, &serde_json::to_value(sizes).context("sizes")?)?;
        writeln!(out, "size {size:?}, relative L2 error of all gradients in bf16; PyTorch {}", torch.version)?;
        writeln!(out, "  {:>4} {:>10} {:>10} {:>7}", "seed", "realign", "autocast", "ratio")?;
        let mut sums = [0.0; 2];
        let mut row = |name: String, [ours, theirs]: [f64; 2]| {
            writeln!(out, "  {name:>4} {ours:10.3e} {theirs:10.3e} {:7.3}", ours / theirs)
        };
        for seed in 0..self.seeds {
            let [ours, theirs] = errors(&sizes, seed, &mut torch)?;
            sums = [sums[0] + ours, sums[1] + theirs];
            row(seed.to_string(), [ours, theirs])?;
        }
        row("mean".into(), sums.map(|sum| sum / self.seeds as f64))?;
        Ok(())
    }
}

/// Errors of bf16 here and of autocast in PyTorch, on the same weights, batch and noise.
fn errors(sizes: &Sizes, seed: u64, torch: &mut TorchStep) -> Result<[f64; 2]> {
    let device = ops::open(DeviceChoice::Cpu)?.autodiff();
    let (network, mut record) = shaken(Network::new(sizes, &device)?, seed)?;
    let batch = OurBatch::draw(sizes, seed, &device);
    let drawn = network.objective.draw(batch.x0.dims(), &Streams::new(0).at(seed, 0), &device);
    let draws = || Draws { drop: None, ..drawn.clone() };
    keep(&mut record, 0, &batch, &draws());
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let path = folder.path().join("data.safetensors");
    write_safetensors(&path, &record)?;
    drop(record);
    let gradients = |precision: Precision| -> Result<(f64, StateDict)> {
        precision.scope(|| {
            let total = loss(&network, &batch, draws(), &device)?;
            let value = f64::from(to_host(total.clone().detach())[0]);
            let mut gradients = Gradients::default();
            gradients.add(&network.model, total.backward());
            Ok((value, gradients.by_name(&network.model)))
        })
    };
    let (value, exact) = gradients(Precision::F32)?;
    let (_, rounded) = gradients(Precision::Bf16)?;
    let size = norm(exact.values().flat_map(|exact| exact.values.iter().map(|value| f64::from(*value))));
    let gaps = exact.iter().zip(rounded.values()).flat_map(|((_, exact), rounded)| {
        exact.values.iter().zip(&rounded.values).map(|(exact, rounded)| f64::from(*rounded) - f64::from(*exact))
    });
    let ours = norm(gaps) / size;
    let answer = torch.ask(&path.display().to_string())?;
    let number = |name: &str| answer[name].as_f64().unwrap_or(f64::NAN);
    for (what, ours, theirs) in [("loss", value, number("loss")), ("gradient's norm", size, number("norm"))] {
        if (ours / theirs - 1.0).abs() > SAME || theirs.is_nan() {
            bail!("the networks differ: the {what} is {ours} here and {theirs} in PyTorch");
        }
    }
    Ok([ours, number("error")])
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}
