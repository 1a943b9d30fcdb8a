//! SiT with flow matching and alignment: forward, loss, all gradients.

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor};
use realign::erase::Slot;
use realign::nn::ParamBuilder;
use realign::plugin::{
    AlignmentLossConfig, BackboneConfig, BackboneContext, BackboneInput, BackboneSpec, Condition, ConditionSpec, Draws,
    NormalizerConfig, Objective, ObjectiveConfig, ObjectiveInput, ProjectorConfig, ProjectorContext, Times,
};
use realign::train::{Alignment, Gradients, Term, TrainModel};
use realign::weights::{load_state_dict, to_host};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::case::Case;
use super::verdict::Verdict;

pub fn plugin<T: ?Sized>(value: Value) -> Result<Box<T>>
where
    Box<T>: DeserializeOwned,
{
    serde_json::from_value(value.clone()).with_context(|| format!("config {value}"))
}

/// The case's network with its parameters, on `device`; `input` is channels, height and width.
pub fn model(case: &Case, input: [usize; 3], device: &Device) -> Result<(TrainModel, BackboneSpec)> {
    let backbone: Box<dyn BackboneConfig> = plugin(json!({
        "type": "sit", "size": null,
        "hidden_size": case.size("hidden_size")?,
        "depth": case.size("depth")?,
        "num_heads": case.size("num_heads")?,
        "patch_size": case.size("patch_size")?,
        "mlp_ratio": case.number("mlp_ratio").unwrap_or(4.0),
        "qk_norm": case.is("qk_norm"),
    }))?;
    let condition = ConditionSpec::Labels { num_classes: case.size("num_classes")? };
    let context = BackboneContext { input, condition, has_interval: false };
    let params = ParamBuilder::new(device, 0);
    let spec = backbone.spec(&context)?;
    let mut projectors = vec![];
    for (i, channels) in widths(case).into_iter().enumerate() {
        let context = ProjectorContext { hidden_size: spec.hidden_size, target_channels: channels, grid: spec.grid };
        let params = params.child("projectors").child(i);
        projectors.push(Slot::new(projector(case)?.build(&context, &params)?));
    }
    let model = TrainModel { backbone: Slot::new(backbone.build(&context, &params)?), projectors };
    Ok((load_state_dict(model, case.params())?, spec))
}

fn widths(case: &Case) -> Vec<usize> {
    let list = case.config.get("z_dims").and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(Value::as_u64).map(|width| width as usize).collect()
}

fn projector(case: &Case) -> Result<Box<dyn ProjectorConfig>> {
    let kind = case.word("projection_layer_type", "mlp");
    plugin(match kind.as_str() {
        "mlp" => json!({"type": "mlp", "projector_dim": case.size("projector_dim").unwrap_or(2048)}),
        "conv" => json!({"type": "conv", "kernel_size": case.size("proj_kwargs_kernel_size").unwrap_or(3)}),
        kind => json!({ "type": kind }),
    })
}

/// Flow matching and the alignment terms of the case.
pub fn losses(case: &Case, spec: &BackboneSpec) -> Result<(Box<dyn Objective>, Alignment)> {
    let objective: Box<dyn ObjectiveConfig> =
        plugin(json!({"type": "flow_matching", "path": case.word("path_type", "linear")}))?;
    let normalizer: Box<dyn NormalizerConfig> = plugin(json!({"type": "none"}))?;
    let loss: Box<dyn AlignmentLossConfig> = plugin(json!({"type": "cosine"}))?;
    let term = Term {
        encoders: vec![],
        normalizer: normalizer.build(),
        loss: loss.build(),
        proj_coeff: case.number("proj_coeff").unwrap_or(0.5),
        encoder_depth: case.size("encoder_depth").unwrap_or(spec.depth),
        until_step: None,
    };
    Ok((objective.build(), Alignment { terms: vec![term], grid: Some(spec.grid) }))
}

/// One batch of a case under `prefix`.
pub struct RecordedBatch {
    pub x: Tensor<4>,
    pub noise: Tensor<4>,
    pub t: Tensor<1>,
    pub condition: Condition,
    pub targets: Vec<Tensor<3>>,
}

impl RecordedBatch {
    pub fn read(case: &Case, prefix: &str, device: &Device) -> Result<Self> {
        let zs = format!("{prefix}zs.");
        let targets = case.names(&zs).into_iter().map(|i| case.tensor(&format!("{zs}{i}"), device));
        Ok(Self {
            x: case.tensor(&format!("{prefix}x"), device)?,
            noise: case.tensor(&format!("{prefix}noise"), device)?,
            t: case.tensor(&format!("{prefix}t"), device)?,
            condition: Condition::labels(&case.labels(&format!("{prefix}y"))?, device),
            targets: targets.collect::<Result<_>>()?,
        })
    }
}

/// Total, denoising and raw alignment losses of a batch.
pub fn total_loss(
    model: &TrainModel,
    objective: &dyn Objective,
    alignment: &Alignment,
    batch: &RecordedBatch,
) -> Result<(Tensor<1>, Tensor<1>, Option<Tensor<1>>)> {
    let taps = alignment.taps(0);
    let draws = Draws { noise: batch.noise.clone(), t: batch.t.clone(), r: None, drop: None };
    let input = ObjectiveInput {
        x0: batch.x.clone(),
        condition: batch.condition.clone(),
        null: batch.condition.clone(),
        draws,
        taps: &taps,
    };
    let output = objective.loss(&*model.backbone, input)?;
    let losses = alignment.loss(model, &output.taps, vec![batch.targets.clone()], 0)?;
    let denoising = output.loss.clone();
    let total = match losses.total {
        Some(aligned) => output.loss + aligned,
        None => output.loss,
    };
    Ok((total, denoising, losses.by_term.into_iter().next().map(|(_, loss)| loss)))
}

pub fn input_shape(case: &Case, name: &str) -> Result<[usize; 3]> {
    let shape = case.shape(name)?;
    shape.get(1..4).and_then(|shape| shape.try_into().ok()).with_context(|| format!("`{name}` is {shape:?}"))
}

pub fn compare(case: &Case, device: &Device) -> Result<Verdict> {
    let device = device.clone().autodiff();
    let (model, spec) = model(case, input_shape(case, "in.x")?, &device)?;
    let (objective, alignment) = losses(case, &spec)?;
    let batch = RecordedBatch::read(case, "in.", &device)?;
    let mut verdict = Verdict::default();
    forward(case, &model, &*objective, &spec, &batch, &mut verdict)?;
    let (total, denoising, raw) = total_loss(&model, &*objective, &alignment, &batch)?;
    verdict.output(case, "out.total_loss", total.clone())?;
    let mean = case.values("out.denoising_loss")?.iter().sum::<f64>() / case.shape("out.denoising_loss")?[0] as f64;
    let found = f64::from(to_host(denoising)[0]);
    if (found - mean).abs() > case.tolerance.atol + case.tolerance.rtol * mean.abs() {
        verdict.fail(format!("denoising loss: found {found:e}, expected {mean:e}"));
    }
    if let Some(raw) = raw {
        verdict.output(case, "out.proj_loss", raw)?;
    }
    let mut gradients = Gradients::default();
    gradients.add(&model, total.backward());
    let found = gradients.by_name(&model);
    let names = case.names("grad.");
    for name in &names {
        match found.get(*name) {
            Some(gradient) => verdict.gradient(case, &format!("grad.{name}"), &gradient.values)?,
            None => verdict.fail(format!("`{name}` has no gradient here")),
        }
    }
    for name in found.keys().filter(|name| !names.contains(&name.as_str())) {
        verdict.fail(format!("`{name}` has a gradient here and none in the record"));
    }
    if case.has("out.grad_norm") {
        let squares = found.values().flat_map(|gradient| &gradient.values).map(|value| f64::from(*value).powi(2));
        verdict.values(case, "out.grad_norm", &[squares.sum::<f64>().sqrt()])?;
    }
    Ok(verdict)
}

/// Point on the path, target, block outputs, prediction, projected tokens.
fn forward(
    case: &Case,
    model: &TrainModel,
    objective: &dyn Objective,
    spec: &BackboneSpec,
    batch: &RecordedBatch,
    verdict: &mut Verdict,
) -> Result<()> {
    use burn::module::Module;
    // Without autodiff: a graph that never sees its backward pass is never freed.
    let (model, x, noise) = (model.valid(), batch.x.clone().inner(), batch.noise.clone().inner());
    let t = batch.t.clone().inner();
    let count = x.dims()[0];
    let point = objective.path().at_each(t.clone().reshape([count, 1, 1, 1]));
    let xt = x.clone() * point.alpha + noise.clone() * point.sigma;
    verdict.output(case, "out.x_t", xt.clone())?;
    verdict.output(case, "out.target", x * point.d_alpha + noise * point.d_sigma)?;
    let taps: Vec<usize> = (1..=spec.depth).collect();
    let condition = Condition::labels(&case.labels("in.y")?, &xt.device());
    let output = model.backbone.forward(BackboneInput { x: xt, times: Times::at(t), condition, taps: &taps });
    verdict.output(case, "out.v", output.prediction)?;
    let depth = case.size("encoder_depth").unwrap_or(spec.depth);
    for (i, projector) in model.projectors.iter().enumerate() {
        verdict.output(case, &format!("out.zs.{i}"), projector.forward(output.taps[depth - 1].clone(), spec.grid))?;
    }
    for (i, tap) in output.taps.into_iter().enumerate() {
        if case.has(&format!("out.block.{i}")) {
            verdict.output(case, &format!("out.block.{i}"), tap)?;
        }
    }
    Ok(())
}
