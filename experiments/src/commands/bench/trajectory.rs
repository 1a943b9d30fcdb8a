//! `realign bench trajectory`: a hundred steps here and in PyTorch, from the same weights, batches and noise.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use realign::ops::{self, DeviceChoice};
use realign::plugin::Draws;
use realign::streams::Streams;
use realign::weights::{HostTensor, StateDict, load_state_dict, state_dict, to_host, write_safetensors};
use serde_json::{Value, json};

use super::Size;
use super::network::{Network, Sizes};
use super::ours::{OurBatch, train};

const SCRIPT: &str = concat!(include_str!("torch_sit.py"), include_str!("torch_trajectory.py"));
const LEARNING_RATE: f64 = 1e-3;

#[derive(Debug, Args)]
pub struct Trajectory {
    /// Optimizer steps
    #[arg(long, default_value_t = 100)]
    steps: usize,
    /// Python with PyTorch
    #[arg(long, default_value = "python3")]
    python: String,
}

impl Trajectory {
    /// Trains twice and prints the largest relative difference of losses.
    ///
    /// # Errors
    /// PyTorch cannot be run.
    pub fn run(&self, out: &mut dyn Write) -> Result<()> {
        let threads = ops::num_threads();
        let sizes =
            Sizes { hidden_size: 64, depth: 4, num_heads: 4, batch: 8, target: 48, tap: 2, threads, ..Size::S.sizes() };
        let device = ops::open(DeviceChoice::Cpu)?.autodiff();
        let (mut network, mut record) = shaken(Network::new(&sizes, &device)?, 2)?;
        let mut losses = vec![];
        for step in 0..self.steps {
            let batch = OurBatch::draw(&sizes, step as u64, &device);
            let drawn = network.objective.draw(batch.x0.dims(), &Streams::new(0).at(step as u64, 0), &device);
            let draws = Draws { drop: None, ..drawn };
            keep(&mut record, step, &batch, &draws);
            let loss = train(&mut network, &batch, draws, LEARNING_RATE, &device)?;
            losses.push(f64::from(to_host(loss)[0]));
        }
        let (version, theirs) = self.torch(&sizes, &record)?;
        if theirs.len() != losses.len() {
            bail!("PyTorch did {} of {} steps", theirs.len(), losses.len());
        }
        let relative = losses.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / b.abs().max(1e-12));
        let (worst_step, worst) =
            relative.enumerate().fold((0, 0.0), |worst, new| if new.1 > worst.1 { new } else { worst });
        let last = losses.len().saturating_sub(1);
        writeln!(out, "{} steps from the same weights, batches and noise; PyTorch {version}", self.steps)?;
        writeln!(out, "  loss: first {:.6}, last {:.6} (PyTorch {:.6})", losses[0], losses[last], theirs[last])?;
        writeln!(out, "  largest relative difference of losses: {worst:.2e}, at step {}", worst_step + 1)?;
        Ok(())
    }

    fn torch(&self, sizes: &Sizes, record: &StateDict) -> Result<(String, Vec<f64>)> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let (script, data) = (folder.path().join("trajectory.py"), folder.path().join("data.safetensors"));
        std::fs::write(&script, SCRIPT).context("cannot write the script")?;
        write_safetensors(&data, record)?;
        let mut options: Value = serde_json::to_value(sizes).context("sizes")?;
        options["steps"] = json!(self.steps);
        options["lr"] = json!(LEARNING_RATE);
        let output = Command::new(&self.python).arg(&script).arg(&data).arg(options.to_string()).output();
        let output = output.with_context(|| format!("cannot start `{}`; name another with --python", self.python))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let answer: Value = serde_json::from_str(text.trim()).with_context(|| {
            let problem = String::from_utf8_lossy(&output.stderr);
            format!("`{}` cannot run PyTorch: {}", self.python, problem.lines().last().unwrap_or("no message"))
        })?;
        let losses = answer["losses"].as_array().map(|list| list.iter().filter_map(Value::as_f64).collect());
        Ok((answer["version"].as_str().unwrap_or("?").to_string(), losses.unwrap_or_default()))
    }
}

/// The network with noise on every parameter, for gates that start at zero would hide what lies behind them; and its
/// weights for the file that PyTorch reads.
///
/// # Errors
/// The tensor library fails.
pub fn shaken(mut network: Network, seed: u64) -> Result<(Network, StateDict)> {
    let mut weights = state_dict(&network.model);
    for (name, tensor) in weights.iter_mut().filter(|(name, _)| *name != "pos_embed") {
        let draws = Streams::new(seed).normal(name, tensor.values.len());
        tensor.values.iter_mut().zip(draws).for_each(|(value, draw)| *value += SHAKE * draw);
    }
    let record = weights.iter().map(|(name, tensor)| (format!("param.{name}"), tensor.clone())).collect();
    network.model = load_state_dict(network.model, weights)?;
    Ok((network, record))
}

/// Deviation of the noise on parameters.
const SHAKE: f32 = 0.02;

/// Adds a step's inputs to the file that PyTorch reads.
pub fn keep(record: &mut StateDict, step: usize, batch: &OurBatch, draws: &Draws) {
    let mut add = |name: &str, shape: Vec<usize>, values: Vec<f32>| {
        record.insert(format!("{name}.{step}"), HostTensor { shape, values });
    };
    add("x0", batch.x0.dims().to_vec(), to_host(batch.x0.clone()));
    add("noise", draws.noise.dims().to_vec(), to_host(draws.noise.clone()));
    add("t", draws.t.dims().to_vec(), to_host(draws.t.clone()));
    add("target", batch.target.dims().to_vec(), to_host(batch.target.clone()));
    add("y", vec![batch.labels.len()], batch.labels.iter().map(|label| *label as f32).collect());
}
