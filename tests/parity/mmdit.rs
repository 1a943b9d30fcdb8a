//! MMDiT: both streams, losses, all gradients, and samplers with guidance by a null text.

use super::case::{Case, Config, count};
use super::compare::Comparison;
use super::sit::forward_if_recorded;
use super::sit_parts::{norm, objective, projector, term};
use anyhow::{Result, bail, ensure};
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::erase::Slot;
use realign::nn::ParamBuilder;
use realign::plugin::{
    BackboneConfig, BackboneContext, BackboneInput, Condition, ConditionSpec, Draws, Guidance, ObjectiveInput,
    ProjectorContext, SampleRequest, SamplerConfig, Times,
};
use realign::train::{Alignment, Gradients, TrainModel};
use realign::weights::{StateDict, load_state_dict, to_host};
use realign_plugins::backbones::mmdit::{MmDit, MmDitConfig};
use serde_json::json;

pub fn mmdit(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    forward_backward(case, &device.clone().autodiff(), found)?;
    match case.config.0["sampler"].is_object() {
        true => samplers(case, device, found),
        false => Ok(()),
    }
}

fn config(case: &Case) -> Result<MmDitConfig> {
    let config = &case.config;
    let [_, positions, _] = case.shape::<3>("param.pos_embed")?;
    let qk_norm = match config.word("qk_norm", "none") {
        "none" => "none",
        "rms" => "rms",
        "ln" => "layer",
        other => bail!("config.qk_norm `{other}` is unknown"),
    };
    Ok(serde_json::from_value(json!({
        "size": null,
        "hidden_size": config.size("hidden_size")?,
        "depth": config.size("depth")?,
        "num_heads": config.size("num_heads")?,
        "patch_size": config.size_or("patch_size", 2)?,
        "mlp_ratio": config.number("mlp_ratio", 4.0),
        "qkv_bias": config.0["qkv_bias"].as_bool().unwrap_or(true),
        "qk_norm": qk_norm,
        "norm": if config.flag("rmsnorm") { "rms" } else { "layer" },
        "mlp": if config.flag("swiglu") { "swiglu" } else { "gelu" },
        "num_registers": config.size_or("register_length", 0)?,
        "position_side": positions.isqrt(),
    }))?)
}

fn context(case: &Case) -> Result<BackboneContext> {
    let [_, channels, height, width] = case.shape::<4>("in.x")?;
    let [_, tokens, text_channels] = case.shape::<3>("in.context")?;
    let condition = ConditionSpec::Text { tokens, channels: text_channels };
    Ok(BackboneContext { input: [channels, height, width], condition, has_interval: false, recomputes: false })
}

/// Projectors are bare `Sequential`s here, and lie under a name in the other families.
const PROJECTION: &str = ".projection_layer.";

/// The network and its projectors with the recorded weights.
fn model(case: &Case, device: &Device) -> Result<(TrainModel, Alignment)> {
    let (config, context, builder) = (config(case)?, context(case)?, ParamBuilder::new(device, 0));
    let spec = config.spec(&context)?;
    let mut projectors = vec![];
    for (i, channels) in case.config.list("z_dims").iter().enumerate() {
        let joins =
            ProjectorContext { hidden_size: spec.hidden_size, target_channels: count(channels)?, grid: spec.grid };
        projectors.push(Slot::new(projector(&case.config)?.build(&joins, &builder.child("projectors").child(i))?));
    }
    let terms = if projectors.is_empty() { vec![] } else { vec![term(&case.config, projectors.len())?] };
    let renamed = |name: String| match name.strip_prefix("projectors.").and_then(|rest| rest.split_once('.')) {
        Some((i, layer)) => format!("projectors.{i}{PROJECTION}{layer}"),
        None => name,
    };
    let params = case.params("param.").into_iter().map(|(name, value)| (renamed(name), value)).collect();
    let model = TrainModel { backbone: Slot::new(config.build(&context, &builder)?), projectors, conditioner: None };
    Ok((load_state_dict(model, params)?, Alignment { terms, grid: spec.grid }))
}

/// The network alone, whose own names have an underscore where those behind a plugin's boundary have none.
fn network(case: &Case, device: &Device) -> Result<MmDit> {
    let network = config(case)?.network(&context(case)?, &ParamBuilder::new(device, 0))?;
    let params = case.params("param.").into_iter().filter(|(name, _)| !name.starts_with("projectors."));
    let params: StateDict =
        params.map(|(name, value)| (name.replace("t_embedder.mlp.", "t_embedder.mlp._"), value)).collect();
    load_state_dict(network, params)
}

fn forward_backward(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let (x0, noise): (Tensor<4>, Tensor<4>) = (case.tensor("in.x", device)?, case.tensor("in.noise", device)?);
    let (batch, t): (usize, Tensor<1>) = (x0.dims()[0], case.tensor("in.t", device)?);
    let text = Condition::Text(case.tensor("in.context", device)?);
    let (objective, (model, alignment)) = (objective(&case.config)?, model(case, device)?);

    let path = objective.path().at_each(t.clone().reshape([batch, 1, 1, 1]));
    let xt = (x0.clone() * path.alpha + noise.clone() * path.sigma).inner();
    let target = (x0.clone() * path.d_alpha + noise.clone() * path.d_sigma).inner();
    streams(case, &xt, found)?;

    let depth = case.config.size("depth")?;
    let taps: Vec<usize> = (1..=depth).collect();
    let input = ObjectiveInput {
        x0,
        condition: text.clone(),
        null: text.clone(),
        draws: Draws { noise, t: t.clone(), r: None, drop: None },
        taps: &taps,
    };
    let output = objective.loss(&*model.backbone, input)?;
    let taps: Vec<_> = alignment.taps(0).iter().map(|depth| output.taps[depth - 1].clone()).collect();
    let mut targets = vec![];
    for (i, projector) in model.projectors.iter().enumerate() {
        forward_if_recorded(case, &format!("out.zs.{i}"), &projector.forward(taps[0].clone(), alignment.grid), found)?;
        targets.push(case.tensor(&format!("in.zs.{i}"), device)?);
    }
    let targets = if targets.is_empty() { vec![] } else { vec![targets] };
    let aligned = alignment.loss(&model.projectors, &taps, targets, 0, |term| term.proj_coeff)?;
    for (_, raw) in &aligned.by_term {
        forward_if_recorded(case, "out.proj_loss", raw, found)?;
    }
    let total = aligned.total.map_or(output.loss.clone(), |aligned| output.loss.clone() + aligned);
    forward_if_recorded(case, "out.total_loss", &total, found)?;

    // Each sample's loss, whose mean is the objective's.
    let request = BackboneInput { x: xt.clone(), times: Times::at(t.inner()), condition: text.inner(), taps: &[] };
    let velocity = model.valid().backbone.forward(request).prediction;
    let losses = (velocity.clone() - target).square().flatten::<2>(1, 3).mean_dim(1).reshape([batch]);
    let mean = to_host(losses.clone().mean())[0];
    let gap = (mean - to_host(output.loss)[0]).abs();
    ensure!(gap <= 1e-5 * mean.abs(), "the objective is not the mean of its samples' losses: {gap} off");
    for (name, value) in [("out.x_t", xt), ("out.v", velocity)] {
        forward_if_recorded(case, name, &value, found)?;
    }
    forward_if_recorded(case, "out.denoising_loss", &losses, found)?;

    let mut summed = Gradients::default();
    summed.add(&model, total.backward());
    let gradients = summed.by_name(&model);
    for (name, gradient) in &gradients {
        found.gradient(case, &format!("grad.{}", name.replace(PROJECTION, ".")), &gradient.values)?;
    }
    if case.has("out.grad_norm") {
        found.values(case, "out.grad_norm", &[norm(&gradients)])?;
    }
    Ok(())
}

/// Tokens of text and image after each block; the text of the last one goes nowhere.
fn streams(case: &Case, xt: &Tensor<4>, found: &mut Comparison) -> Result<()> {
    let device = &xt.device();
    let (times, text) = (Times::at(case.tensor("in.t", device)?), Condition::Text(case.tensor("in.context", device)?));
    let input = BackboneInput { x: xt.clone(), times, condition: text, taps: &[] };
    let mut blocks = vec![];
    network(case, device)?.watched(input, |_, context, x| blocks.push((context.clone(), x.clone())));
    for (i, (context, x)) in blocks.iter().enumerate() {
        forward_if_recorded(case, &format!("out.block.{i}.context"), context, found)?;
        forward_if_recorded(case, &format!("out.block.{i}.x"), x, found)?;
    }
    Ok(())
}

/// Samples from the recorded noise: `ode`, `ode_heun` and `sde` with one setting.
fn samplers(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let run = Config(case.config.0["sampler"].clone());
    let num_steps = run.size("num_steps")?;
    let (model, _) = model(case, device)?;
    let draws: Vec<Tensor<4>> = (0..).map_while(|k| case.tensor(&format!("in.eps.{k}"), device).ok()).collect();
    for (name, settings) in [
        ("ode", json!({ "type": "ode", "num_steps": num_steps, "method": "euler" })),
        ("ode_heun", json!({ "type": "ode", "num_steps": num_steps, "method": "heun" })),
        ("sde", json!({ "type": "sde", "num_steps": num_steps })),
    ] {
        let recorded = format!("out.sampler.{name}");
        if !case.has(&recorded) {
            continue;
        }
        let sampler: Box<dyn SamplerConfig> = serde_json::from_value(settings)?;
        let samples = sampler.build().sample(SampleRequest {
            backbone: &*model.backbone,
            objective: &*objective(&case.config)?,
            noise: case.tensor("in.noise", device)?,
            condition: Condition::Text(case.tensor("in.context", device)?),
            null: Condition::Text(case.tensor("in.context_null", device)?),
            guidance: Guidance {
                scale: run.number("cfg_scale", 1.0),
                low: run.number("guidance_low", 0.0),
                high: run.number("guidance_high", 1.0),
            },
            step_noise: &|k| draws[k].clone(),
        })?;
        found.forward(case, &recorded, samples)?;
    }
    Ok(())
}
