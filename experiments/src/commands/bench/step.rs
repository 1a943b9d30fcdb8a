//! `realign bench step`: one training step here and in PyTorch.

use std::io::Write;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use super::contest::ContestArgs;
use super::network::Sizes;
use super::ours::{OurStep, num_params};
use super::{BackboneChoice, ObjectiveChoice, ProjectorChoice, Size};

/// Largest relative difference between the operations counted from shapes and those that PyTorch counts, which leave
/// out the gradient of the first layer's input and everything but products.
const FLOPS_TOLERANCE: f64 = 0.03;

#[derive(Debug, Args)]
pub struct StepArgs {
    /// Networks to time: `S` (width 384, depth 6, 64 tokens, batch 16), `B` and `XL` (SiT-B/2 and SiT-XL/2: 256 tokens,
    /// batch 4 and 1)
    #[arg(long, value_delimiter = ',', default_value = "S,B")]
    sizes: Vec<Size>,
    /// Samples of a step, instead of the size's
    #[arg(long)]
    batch: Option<usize>,
    /// Backbone of both programs; JiT gets pixels in patches of 16
    #[arg(long, value_enum, default_value = "sit")]
    backbone: BackboneChoice,
    /// Projector of both programs: iREPA's `conv` or REPA's `mlp`
    #[arg(long, value_enum, default_value = "conv")]
    projector: ProjectorChoice,
    /// Objective of both programs; PyTorch takes MeanFlow's derivative with torch.func.jvp, for the whole batch
    #[arg(long, value_enum, default_value = "flow_matching")]
    objective: ObjectiveChoice,
    /// Share of MeanFlow's samples with r = t here; 0 takes the derivative for the whole batch, as PyTorch does
    #[arg(long, default_value_t = 0.75)]
    instant_share: f64,
    /// Both programs compute the blocks again in the backward pass
    #[arg(long)]
    activation_checkpointing: bool,
    /// Compare the operations counted from shapes with those that PyTorch counts; for flow matching
    #[arg(long, conflicts_with = "activation_checkpointing")]
    count_flops: bool,
    #[command(flatten)]
    contest: ContestArgs,
}

impl StepArgs {
    /// Times and prints.
    ///
    /// # Errors
    /// A program cannot be started, ends early, or has another network.
    pub fn run(&self, out: &mut dyn Write) -> Result<()> {
        ensure!(
            !self.count_flops || self.objective == ObjectiveChoice::FlowMatching,
            "--count-flops: PyTorch does not count the products of a derivative; use --objective flow_matching"
        );
        self.sizes.iter().try_for_each(|size| self.time(*size, out))
    }

    fn time(&self, size: Size, out: &mut dyn Write) -> Result<()> {
        let published = size.sizes();
        let sizes = Sizes {
            backbone: self.backbone,
            objective: self.objective,
            projector: self.projector,
            instant_share: self.instant_share,
            recomputes: self.activation_checkpointing,
            batch: self.batch.unwrap_or(published.batch),
            ..published
        };
        let mut contest = self.contest.start(sizes, &json!({"task": "train", "count_flops": self.count_flops}))?;
        let mut ours = OurStep::new(&sizes, self.contest.device()?)?;
        let precision = self.contest.precision(ours.device())?;
        let (here, there) = (num_params(ours.network()), contest.eager().num_params);
        ensure!(here == there, "the networks differ: {here} trainable parameters here, {there} in PyTorch");
        let flops = ours.network().flops_per_sample * sizes.batch as f64;
        contest.run(|count, waits_each| precision.scope(|| ours.steps(count, waits_each)))?;
        let title = format!("{:?}, {:?}, {:?} projector, size {size:?}", self.backbone, self.objective, self.projector);
        let about = json!({
            "size": format!("{size:?}"), "backbone": self.backbone, "objective": self.objective,
            "projector": self.projector, "activation_checkpointing": self.activation_checkpointing,
            "batch": sizes.batch,
        });
        contest.report(&title, about, flops, out)?;
        match contest.eager().flops {
            Some(counted) => compare(flops, counted, out),
            None => Ok(()),
        }
    }
}

fn compare(flops: f64, counted: f64, out: &mut dyn Write) -> Result<()> {
    let [here, there] = [flops, counted].map(|flops| flops / 1e9);
    writeln!(out, "  operations: {here:.2} GFLOP from shapes, {there:.2} GFLOP counted by PyTorch")?;
    ensure!(
        (flops / counted - 1.0).abs() <= FLOPS_TOLERANCE,
        "the operations counted from shapes differ from PyTorch's count by more than {FLOPS_TOLERANCE}"
    );
    Ok(())
}
