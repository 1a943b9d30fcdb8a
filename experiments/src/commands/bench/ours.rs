//! Our step, on the trainer's own parts.

use std::time::Instant;

use anyhow::Result;
use realign::burn::tensor::{Device, Tensor, TensorData};
use realign::ops::{self, DeviceChoice};
use realign::plugin::{Condition, Draws, ObjectiveInput};
use realign::recipe::{EmaSection, EmaWarmup};
use realign::streams::Streams;
use realign::train::{Ema, Gradients};
use realign::weights::{parameters, to_host};

use super::Timing;
use super::network::{Network, Sizes};

/// A network and one batch.
pub struct OurStep {
    device: Device,
    network: Network,
    average: Ema,
    batch: OurBatch,
    step: u64,
}

/// Clean samples, features to align with, and labels.
pub struct OurBatch {
    /// `[batch, 4, height, width]`.
    pub x0: Tensor<4>,
    /// `[batch, tokens, channels]`.
    pub target: Tensor<3>,
    /// One per sample.
    pub labels: Vec<i64>,
}

impl OurBatch {
    /// Normal samples and features, and uniform labels, of the stream position `step`.
    pub fn draw(sizes: &Sizes, step: u64, device: &Device) -> Self {
        let streams = Streams::new(1).at(step, 0);
        let [channels, height, width] = sizes.input();
        let latent = [sizes.batch, channels, height, width];
        let features = [sizes.batch, sizes.side * sizes.side, sizes.target];
        let x0 = TensorData::new(streams.normal("x0", latent.iter().product()), latent);
        let target = TensorData::new(streams.normal("target", features.iter().product()), features);
        let labels = streams.uniform("labels", sizes.batch).into_iter().map(|u| (u * 1000.0) as i64).collect();
        Self { x0: Tensor::from_data(x0, device), target: Tensor::from_data(target, device), labels }
    }
}

/// One optimizer step; returns its loss.
///
/// # Errors
/// A part refuses the batch.
pub fn train(network: &mut Network, batch: &OurBatch, draws: Draws, lr: f64, device: &Device) -> Result<Tensor<1>> {
    let total = loss(network, batch, draws, device)?;
    let value = total.clone().detach();
    let mut gradients = Gradients::default();
    gradients.add(&network.model, total.backward());
    network.update(gradients, lr);
    Ok(value)
}

/// The loss of a step, `[1]`.
///
/// # Errors
/// A part refuses the batch.
pub fn loss(network: &Network, batch: &OurBatch, draws: Draws, device: &Device) -> Result<Tensor<1>> {
    let taps = network.alignment.taps(0);
    let condition = Condition::labels(&batch.labels, device);
    let null = Condition::labels(&vec![1000; batch.labels.len()], device);
    let input = ObjectiveInput { x0: batch.x0.clone(), condition, null, draws, taps: &taps };
    let output = network.objective.loss(&*network.model.backbone, input)?;
    let aligned = network.alignment.loss(
        &network.model.projectors,
        &output.taps,
        vec![vec![batch.target.clone()]],
        0,
        |term| term.proj_coeff,
    )?;
    Ok(match aligned.total {
        Some(aligned) => output.loss + aligned,
        None => output.loss,
    })
}

impl OurStep {
    /// The network of these sizes, with the same parts as PyTorch's.
    ///
    /// # Errors
    /// The device does not open.
    pub fn new(sizes: &Sizes, device: DeviceChoice) -> Result<Self> {
        let device = ops::open(device)?.autodiff();
        let network = Network::new(sizes, &device)?;
        let settings = EmaSection { name: "ema".into(), decay: 0.9999, warmup: EmaWarmup::None };
        let average = Ema::new(&network.model, settings)?;
        let batch = OurBatch::draw(sizes, 0, &device);
        Ok(Self { network, average, batch, device, step: 0 })
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs steps and returns their times, and the peak memory so far.
    ///
    /// # Errors
    /// A part refuses the batch.
    pub fn steps(&mut self, count: usize, waits_each: bool) -> Result<Timing> {
        let device = self.device.clone();
        timed(count, waits_each, &device, || self.advance())
    }

    /// One step; its loss.
    fn advance(&mut self) -> Result<Tensor<1>> {
        let streams = Streams::new(0).at(self.step, 0);
        let draws = self.network.objective.draw(self.batch.x0.dims(), &streams, &self.device);
        let loss = train(&mut self.network, &self.batch, draws, 1e-4, &self.device)?;
        self.average.update(&self.network.model, self.step);
        self.step += 1;
        Ok(loss)
    }
}

/// Times of `count` pieces of work whose results stand for all of it. A GPU works behind the program: there they are
/// timed together after one more, the time is their mean, and its memory is left to the other programs.
///
/// # Errors
/// Those of `work`.
pub fn timed(
    count: usize,
    waits_each: bool,
    device: &Device,
    mut work: impl FnMut() -> Result<Tensor<1>>,
) -> Result<Timing> {
    if !waits_each {
        to_host(work()?);
    }
    let (mut timing, mut begin, mut last) = (Timing::default(), Instant::now(), None);
    let mut wait = |begin: &mut Instant, last: Tensor<1>, pieces: usize| {
        to_host(last);
        timing.ms.push(begin.elapsed().as_secs_f64() * 1e3 / pieces as f64);
        *begin = Instant::now();
    };
    for _ in 0..count {
        let result = work()?;
        match waits_each {
            true => wait(&mut begin, result, 1),
            false => last = Some(result),
        }
    }
    if let Some(last) = last {
        wait(&mut begin, last, count);
    }
    ops::release_memory(device);
    timing.peak_bytes = ops::peak_memory(device).map_or(f64::NAN, |bytes| bytes as f64);
    Ok(timing)
}

/// Trainable parameters.
pub fn num_params(network: &Network) -> u64 {
    let trainable = parameters(&network.model).into_iter().filter(|param| param.is_trainable);
    trainable.map(|param| param.shape.iter().product::<usize>() as u64).sum()
}

/// Peak resident memory of this process, where the system tells.
pub fn peak_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0)
}
