//! Our step, on the trainer's own parts.

use std::time::Instant;

use anyhow::{Context, Result};
use realign::burn::tensor::{Device, Tensor, TensorData};
use realign::erase::Slot;
use realign::nn::ParamBuilder;
use realign::ops::{self, DeviceChoice};
use realign::plugin::{
    AlignmentLossConfig, BackboneConfig, BackboneContext, Condition, ConditionSpec, NormalizerConfig, Objective,
    ObjectiveConfig, ObjectiveInput, ProjectorConfig, ProjectorContext,
};
use realign::recipe::{EmaSection, EmaWarmup};
use realign::streams::Streams;
use realign::train::{Alignment, Ema, Gradients, Optimizer, OptimizerSettings, Term, TrainModel};
use realign::weights::to_host;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Timing;

/// A network and one batch.
pub struct OurStep {
    device: Device,
    model: Option<TrainModel>,
    objective: Box<dyn Objective>,
    alignment: Alignment,
    optimizer: Optimizer,
    average: Ema,
    x0: Tensor<4>,
    target: Tensor<3>,
    labels: Vec<i64>,
    step: u64,
}

fn plugin<T: ?Sized>(value: Value) -> Result<Box<T>>
where
    Box<T>: DeserializeOwned,
{
    serde_json::from_value(value).context("the bench's own settings")
}

impl OurStep {
    /// The network of these sizes, with the same parts as PyTorch's.
    ///
    /// # Errors
    /// The device does not open.
    pub fn new(sizes: &Value) -> Result<Self> {
        let size = |key: &str| sizes[key].as_u64().and_then(|size| usize::try_from(size).ok()).context("sizes");
        let device = ops::open(DeviceChoice::Cpu)?.autodiff();
        let (side, batch, target_channels) = (size("side")?, size("batch")?, size("target")?);
        let backbone: Box<dyn BackboneConfig> = plugin(json!({
            "type": "sit", "size": null, "patch_size": 2,
            "hidden_size": sizes["hidden_size"], "depth": sizes["depth"], "num_heads": sizes["num_heads"],
        }))?;
        let condition = ConditionSpec::Labels { num_classes: 1000 };
        let context = BackboneContext { input: [4, 2 * side, 2 * side], condition, has_interval: false };
        let (spec, params) = (backbone.spec(&context)?, ParamBuilder::new(&device, 0));
        let projector: Box<dyn ProjectorConfig> = plugin(json!({"type": "conv"}))?;
        let joins = ProjectorContext { hidden_size: spec.hidden_size, target_channels, grid: spec.grid };
        let projector = projector.build(&joins, &params.child("projectors.0"))?;
        let model = TrainModel {
            backbone: Slot::new(backbone.build(&context, &params)?),
            projectors: vec![Slot::new(projector)],
        };
        let objective: Box<dyn ObjectiveConfig> = plugin(json!({"type": "flow_matching"}))?;
        let normalizer: Box<dyn NormalizerConfig> = plugin(json!({"type": "none"}))?;
        let loss: Box<dyn AlignmentLossConfig> = plugin(json!({"type": "cosine"}))?;
        let term = Term {
            encoders: vec![],
            normalizer: normalizer.build(),
            loss: loss.build(),
            proj_coeff: 0.5,
            encoder_depth: size("tap")?,
            until_step: None,
        };
        let settings =
            OptimizerSettings { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, max_grad_norm: Some(1.0) };
        let optimizer = Optimizer::new(&model, settings);
        let average = Ema::new(&model, EmaSection { name: "ema".into(), decay: 0.9999, warmup: EmaWarmup::None })?;
        let streams = Streams::new(1);
        let latent = [batch, 4, 2 * side, 2 * side];
        let features = [batch, side * side, target_channels];
        let normal = |name: &str, count: usize| streams.normal(name, count);
        Ok(Self {
            x0: Tensor::from_data(TensorData::new(normal("x0", latent.iter().product()), latent), &device),
            target: Tensor::from_data(TensorData::new(normal("target", features.iter().product()), features), &device),
            labels: (0..batch as i64).collect(),
            alignment: Alignment { terms: vec![term], grid: Some(spec.grid) },
            objective: objective.build(),
            model: Some(model),
            optimizer,
            average,
            device,
            step: 0,
        })
    }

    /// Runs steps and returns their times, and the peak memory so far.
    ///
    /// # Errors
    /// A part refuses the batch.
    pub fn steps(&mut self, count: usize) -> Result<Timing> {
        let mut timing = Timing::default();
        for _ in 0..count {
            let begin = Instant::now();
            self.one()?;
            timing.ms.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        timing.peak_bytes = peak_bytes();
        Ok(timing)
    }

    fn one(&mut self) -> Result<()> {
        let model = self.model.take().context("a step failed before")?;
        let taps = self.alignment.taps(0);
        let draws = self.objective.draw(self.x0.dims(), &Streams::new(0).at(self.step, 0), &self.device);
        let condition = Condition::labels(&self.labels, &self.device);
        let null = Condition::labels(&vec![1000; self.labels.len()], &self.device);
        let input = ObjectiveInput { x0: self.x0.clone(), condition, null, draws, taps: &taps };
        let output = self.objective.loss(&*model.backbone, input)?;
        let aligned = self.alignment.loss(&model, &output.taps, vec![vec![self.target.clone()]], 0)?;
        let total = match aligned.total {
            Some(aligned) => output.loss + aligned,
            None => output.loss,
        };
        let mut gradients = Gradients::default();
        gradients.add(&model, total.backward());
        let (model, norm) = self.optimizer.step(model, gradients, 1e-4);
        self.average.update(&model, self.step);
        to_host(norm); // waits for the device
        self.model = Some(model);
        self.step += 1;
        Ok(())
    }
}

/// Peak resident memory of this process, where the system tells.
fn peak_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0)
}
