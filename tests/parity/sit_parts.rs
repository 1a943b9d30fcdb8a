//! SiT with projectors from a sidecar's settings, its loss, and its gradients by name.

use super::case::{Case, Config, count};
use super::jit::dropped;
use anyhow::{Result, bail};
use realign::burn::tensor::{Device, Tensor};
use realign::erase::Slot;
use realign::nn::ParamBuilder;
use realign::plugin::{
    AlignmentLossConfig, BackboneConfig, BackboneContext, Condition, ConditionSpec, Draws, NormalizerConfig, Objective,
    ObjectiveConfig, ObjectiveInput, ProjectorConfig, ProjectorContext,
};
use realign::train::{Alignment, AlignmentLosses, Term, TrainModel};
use realign::weights::{StateDict, load_state_dict};
use serde_json::json;

/// The network, its objective and its alignment.
pub struct Parts {
    pub model: TrainModel,
    pub objective: Box<dyn Objective>,
    pub alignment: Alignment,
    pub depth: usize,
    pub num_classes: usize,
    pub time_scale: f64,
}

/// One forward pass.
pub struct Pass {
    /// Tokens after every block.
    pub blocks: Vec<Tensor<3>>,
    /// Projected tokens by encoder.
    pub projected: Vec<Tensor<3>>,
    /// Objective and alignment.
    pub denoising: Tensor<1>,
    pub aligned: Option<Tensor<1>>,
    /// Alignment before its coefficient.
    pub raw: Option<Tensor<1>>,
    pub total: Tensor<1>,
}

impl Parts {
    /// Builds for inputs `[batch, channels, height, width]`; weights are those of `params`.
    pub fn new(config: &Config, input: [usize; 4], params: StateDict, device: &Device) -> Result<Self> {
        let (depth, num_classes) = (config.size("depth")?, config.size_or("num_classes", 1000)?);
        let time_scale = config.number("time_scale", 1.0);
        let sit: Box<dyn BackboneConfig> = serde_json::from_value(json!({
            "type": "sit",
            "size": null,
            "hidden_size": config.size("hidden_size")?,
            "depth": depth,
            "num_heads": config.size("num_heads")?,
            "patch_size": config.size_or("patch_size", 2)?,
            "mlp_ratio": config.number("mlp_ratio", 4.0),
            "qk_norm": config.flag("qk_norm"),
            "time_scale": time_scale,
        }))?;
        let [_, channels, height, width] = input;
        let context = BackboneContext {
            input: [channels, height, width],
            condition: ConditionSpec::Labels { num_classes },
            has_interval: params.keys().any(|name| name.starts_with("r_embedder.")),
            recomputes: false,
        };
        let (builder, spec) = (ParamBuilder::new(device, 0), sit.spec(&context)?);
        let backbone = Slot::new(sit.build(&context, &builder)?);
        let projector = projector(config)?;
        let mut projectors = vec![];
        for (i, channels) in config.list("z_dims").iter().enumerate() {
            let context =
                ProjectorContext { hidden_size: spec.hidden_size, target_channels: count(channels)?, grid: spec.grid };
            projectors.push(Slot::new(projector.build(&context, &builder.child("projectors").child(i))?));
        }
        let terms = if projectors.is_empty() { vec![] } else { vec![term(config, projectors.len())?] };
        Ok(Self {
            model: load_state_dict(TrainModel { backbone, projectors, conditioner: None }, params)?,
            objective: objective(config)?,
            alignment: Alignment { terms, grid: spec.grid },
            depth,
            num_classes,
            time_scale,
        })
    }

    /// Loss on the recorded batch `<prefix>x`, `<prefix>noise`, `<prefix>t`, `<prefix>y`, `<prefix>zs.<i>`.
    pub fn pass(&self, case: &Case, prefix: &str, device: &Device) -> Result<Pass> {
        let name = |part: &str| format!("{prefix}{part}");
        let x0: Tensor<4> = case.tensor(&name("x"), device)?;
        let labels = case.integers(&name("y"))?;
        let input = ObjectiveInput {
            condition: Condition::labels(&labels, device),
            null: Condition::labels(&vec![self.num_classes as i64; labels.len()], device),
            draws: Draws {
                noise: case.tensor(&name("noise"), device)?,
                t: case.tensor(&name("t"), device)?,
                r: None,
                drop: dropped(case, &name("drop_uniform"), device),
            },
            taps: &(1..=self.depth).collect::<Vec<_>>(),
            x0,
        };
        let output = self.objective.loss(&*self.model.backbone, input)?;
        let taps: Vec<_> = self.alignment.taps(0).iter().map(|depth| output.taps[depth - 1].clone()).collect();
        let (mut projected, mut targets) = (vec![], vec![]);
        for (i, projector) in self.model.projectors.iter().enumerate() {
            targets.push(case.tensor(&name(&format!("zs.{i}")), device)?);
            projected.push(projector.forward(taps[0].clone(), self.alignment.grid));
        }
        let targets = if targets.is_empty() { vec![] } else { vec![targets] };
        let AlignmentLosses { total: aligned, by_term } =
            self.alignment.loss(&self.model.projectors, &taps, targets, 0, |term| term.proj_coeff)?;
        let total = match &aligned {
            Some(aligned) => output.loss.clone() + aligned.clone(),
            None => output.loss.clone(),
        };
        let raw = by_term.into_iter().next().map(|(_, loss)| loss);
        Ok(Pass { blocks: output.taps, projected, denoising: output.loss, aligned, raw, total })
    }
}

pub fn projector(config: &Config) -> Result<Box<dyn ProjectorConfig>> {
    let settings = match config.word("projection_layer_type", "mlp") {
        "mlp" => json!({ "type": "mlp", "projector_dim": config.size_or("projector_dim", 2048)? }),
        "linear" => json!({ "type": "linear" }),
        "conv" => json!({ "type": "conv", "kernel_size": config.size_or("proj_kwargs_kernel_size", 1)? }),
        other => bail!("config.projection_layer_type `{other}` is unknown"),
    };
    Ok(serde_json::from_value(settings)?)
}

pub fn objective(config: &Config) -> Result<Box<dyn Objective>> {
    let settings = json!({ "type": "flow_matching", "path": config.word("path_type", "linear") });
    Ok(serde_json::from_value::<Box<dyn ObjectiveConfig>>(settings)?.build())
}

pub fn term(config: &Config, num_projectors: usize) -> Result<Term> {
    let normalizer: Box<dyn NormalizerConfig> = serde_json::from_value(json!({ "type": "none" }))?;
    let loss: Box<dyn AlignmentLossConfig> = serde_json::from_value(json!({ "type": "cosine" }))?;
    Ok(Term {
        encoders: vec![],
        num_projectors,
        normalizer: normalizer.build(),
        loss: loss.build(),
        proj_coeff: config.number("proj_coeff", 0.5),
        encoder_depth: config.size_or("encoder_depth", 8)?,
        until_step: None,
    })
}

/// The global L2 norm.
pub fn norm(gradients: &StateDict) -> f64 {
    gradients.values().flat_map(|gradient| &gradient.values).map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}
