//! `realign bench sample`: a batch of samples here and in PyTorch.

use std::io::Write;

use anyhow::{Result, ensure};
use clap::Args;
use realign::burn::module::Module;
use realign::ops;
use realign::plugin::{Condition, Guidance, SampleRequest, SamplerConfig};
use realign::streams::Streams;
use serde_json::json;

use super::Size;
use super::contest::ContestArgs;
use super::network::{Network, Sizes, plugin};
use super::ours::{num_params, timed};

#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Networks to time: `S`, `B` and `XL` as in `bench step`
    #[arg(long, value_delimiter = ',', default_value = "S")]
    sizes: Vec<Size>,
    /// Samples drawn together, instead of the size's
    #[arg(long)]
    batch: Option<usize>,
    /// Steps of the reverse SDE
    #[arg(long, default_value_t = 250)]
    num_steps: usize,
    #[command(flatten)]
    contest: ContestArgs,
}

impl SampleArgs {
    /// Times and prints.
    ///
    /// # Errors
    /// A program cannot be started, ends early, or has another network.
    pub fn run(&self, out: &mut dyn Write) -> Result<()> {
        ensure!(self.num_steps >= 2, "--num-steps: `{}` is out of range; allowed is 2 or more", self.num_steps);
        self.sizes.iter().try_for_each(|size| self.time(*size, out))
    }

    fn time(&self, size: Size, out: &mut dyn Write) -> Result<()> {
        let published = size.sizes();
        let sizes = Sizes { batch: self.batch.unwrap_or(published.batch), ..published };
        let mut contest = self.contest.start(sizes, &json!({"task": "sample", "num_steps": self.num_steps}))?;
        let device = ops::open(self.contest.device()?)?;
        let precision = self.contest.precision(&device)?;
        let network = Network::new(&sizes, &device.clone().autodiff())?;
        let (here, there) = (num_params(&network), contest.eager().num_params);
        ensure!(here == there, "the networks differ: {here} trainable parameters here, {there} in PyTorch");
        let backbone = network.model.backbone.valid();
        let sampler: Box<dyn SamplerConfig> = plugin(json!({"type": "sde", "num_steps": self.num_steps}))?;
        let sampler = sampler.build();
        let [channels, height, width] = sizes.input();
        let shape = [sizes.batch, channels, height, width];
        let noise = |step: usize| {
            let values = Streams::new(0).at(step as u64, 0).normal("noise", shape.iter().product());
            ops::upload(&values, shape, &device)
        };
        let labels: Vec<i64> = (0..sizes.batch as i64).map(|i| i % 1000).collect();
        let draw = || {
            let samples = sampler.sample(SampleRequest {
                backbone: &*backbone,
                objective: &*network.objective,
                noise: noise(self.num_steps),
                condition: Condition::labels(&labels, &device),
                null: Condition::labels(&vec![1000; sizes.batch], &device),
                guidance: Guidance::NONE,
                step_noise: &noise,
            })?;
            Ok(samples.narrow(0, 0, 1).sum())
        };
        contest.run(|count, waits_each| precision.scope(|| timed(count, waits_each, &device, draw)))?;
        let title = format!("{} steps of the reverse SDE, size {size:?}", self.num_steps);
        let about = json!({"size": format!("{size:?}"), "num_steps": self.num_steps, "batch": sizes.batch});
        contest.report(&title, about, network.forward_flops * (self.num_steps * sizes.batch) as f64, out)
    }
}
