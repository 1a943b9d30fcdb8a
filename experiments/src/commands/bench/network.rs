//! The network that is compared: SiT or JiT with one convolution projector, built from the registered plugins.

use anyhow::{Context, Result};
use realign::burn::tensor::Device;
use realign::erase::Slot;
use realign::nn::ParamBuilder;
use realign::plugin::{
    AlignmentLossConfig, BackboneConfig, BackboneContext, ConditionSpec, NormalizerConfig, Objective, ObjectiveConfig,
    ProjectorConfig, ProjectorContext,
};
use realign::recipe::Decayed;
use realign::train::{Alignment, Gradients, Optimizer, OptimizerSettings, Term, TrainModel};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{BackboneChoice, ObjectiveChoice, ProjectorChoice};

/// Sizes that both programs use.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Sizes {
    /// Kind of network.
    pub backbone: BackboneChoice,
    /// What it learns.
    pub objective: ObjectiveChoice,
    /// Share of MeanFlow's samples with r = t.
    pub instant_share: f64,
    /// Channels of the tokens.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Tokens along a side.
    pub side: usize,
    /// Samples per step.
    pub batch: usize,
    /// Channels of the alignment target.
    pub target: usize,
    /// The aligned block, counted from 1.
    pub tap: usize,
    /// From tokens to the target.
    pub projector: ProjectorChoice,
    /// Whether blocks are computed again in the backward pass.
    pub recomputes: bool,
    /// Threads of both programs.
    pub threads: usize,
}

impl Sizes {
    /// Channels, height and width of a sample.
    pub fn input(&self) -> [usize; 3] {
        let (channels, patch) = match self.backbone {
            BackboneChoice::Sit => (4, 2),
            BackboneChoice::Jit => (3, 16),
        };
        [channels, patch * self.side, patch * self.side]
    }
}

/// The trained parts and what trains them.
pub struct Network {
    /// The network and its projector.
    pub model: TrainModel,
    /// What it learns.
    pub objective: Box<dyn Objective>,
    /// One cosine term.
    pub alignment: Alignment,
    /// AdamW with clipping at 1, made by the first step: samples need none.
    pub optimizer: Option<Optimizer>,
    /// Floating-point operations that a step needs for one sample, forward and backward.
    pub flops_per_sample: f64,
    /// Those of one pass of the network.
    pub forward_flops: f64,
}

pub fn plugin<T: ?Sized>(value: Value) -> Result<Box<T>>
where
    Box<T>: DeserializeOwned,
{
    serde_json::from_value(value).context("the bench's own settings")
}

impl Network {
    /// Builds it on a device with autodiff.
    ///
    /// # Errors
    /// A plugin refuses the sizes.
    pub fn new(sizes: &Sizes, device: &Device) -> Result<Self> {
        let mut settings = json!({
            "size": null, "hidden_size": sizes.hidden_size, "depth": sizes.depth, "num_heads": sizes.num_heads,
        });
        let specific = match sizes.backbone {
            BackboneChoice::Sit => json!({"type": "sit", "patch_size": 2}),
            BackboneChoice::Jit => json!({"type": "jit", "patch_size": 16, "bottleneck_size": 128, "context_start": 4}),
        };
        for (key, value) in specific.as_object().into_iter().flatten() {
            settings[key] = value.clone();
        }
        let backbone: Box<dyn BackboneConfig> = plugin(settings)?;
        let objective: Box<dyn ObjectiveConfig> = plugin(match sizes.objective {
            ObjectiveChoice::FlowMatching => json!({"type": "flow_matching"}),
            ObjectiveChoice::MeanFlow => json!({"type": "mean_flow", "instant_share": sizes.instant_share}),
        })?;
        let condition = ConditionSpec::Labels { num_classes: 1000 };
        let context = BackboneContext {
            input: sizes.input(),
            condition,
            has_interval: objective.has_interval(),
            recomputes: sizes.recomputes,
        };
        let (spec, params) = (backbone.spec(&context)?, ParamBuilder::new(device, 0));
        let projector: Box<dyn ProjectorConfig> = plugin(json!({"type": sizes.projector}))?;
        let joins = ProjectorContext { hidden_size: spec.hidden_size, target_channels: sizes.target, grid: spec.grid };
        // The backward pass computes two products for each of the forward pass. A tangent is time, not work needed.
        let flops_per_sample = 3.0 * (spec.forward_flops + projector.forward_flops(&joins));
        let projectors = vec![Slot::new(projector.build(&joins, &params.child("projectors.0"))?)];
        let backbone = Slot::new(backbone.build(&context, &params)?);
        let model = TrainModel { backbone, projectors, conditioner: None };
        let normalizer: Box<dyn NormalizerConfig> = plugin(json!({"type": "none"}))?;
        let loss: Box<dyn AlignmentLossConfig> = plugin(json!({"type": "cosine"}))?;
        let term = Term {
            encoders: vec![],
            num_projectors: 1,
            normalizer: normalizer.build(),
            loss: loss.build(),
            proj_coeff: 0.5,
            encoder_depth: sizes.tap,
            until_step: None,
        };
        Ok(Self {
            optimizer: None,
            alignment: Alignment { terms: vec![term], grid: spec.grid },
            objective: objective.build(),
            forward_flops: spec.forward_flops,
            flops_per_sample,
            model,
        })
    }

    /// One update of the weights.
    pub fn update(&mut self, gradients: Gradients, learning_rate: f64) {
        let settings = OptimizerSettings {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            decayed: Decayed::All,
            max_grad_norm: Some(1.0),
        };
        let optimizer = self.optimizer.get_or_insert_with(|| Optimizer::new(&self.model, settings));
        optimizer.step(&mut self.model, gradients, learning_rate);
    }
}
