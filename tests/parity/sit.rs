//! SiT: embeddings, interpolants, and whole forward and backward passes.

use super::case::{Case, count};
use super::compare::{Comparison, widen};
use super::sit_parts::{Parts, norm};
use super::train_steps::train_steps;
use anyhow::{Context, Result, ensure};
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Int, Tensor, TensorData};
use realign::nn::{
    Embedding, Init, ParamBuilder, PatchEmbed, TimestepEmbedder, sincos_position_table, time_features, unpatchify,
};
use realign::plugin::{BackboneInput, Condition, PatchGrid, ProbabilityPath, Times};
use realign::train::Gradients;
use realign::weights::{load_state_dict, to_host};
use realign_plugins::objectives::flow_matching::FlowMatchingConfig;
use serde_json::Value;

/// The kind of a SiT case shows in what it recorded.
pub fn sit(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    if case.has("in.step1.x") {
        train_steps(case, device, found)
    } else if case.has("in.x") {
        forward_backward(case, device, found)
    } else {
        embeddings_and_interpolants(case, device, found)
    }
}

fn forward_backward(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = device.clone().autodiff();
    let input = case.shape::<4>("in.x")?;
    let parts = Parts::new(&case.config, input, case.params("param."), &device)?;
    embedders(case, &parts, input, &device, found)?;
    interpolants(case, &parts, input, &device, found)?;
    let pass = parts.pass(case, "in.", &device)?;
    for (i, block) in pass.blocks.iter().enumerate() {
        forward_if_recorded(case, &format!("out.block.{i}"), block, found)?;
    }
    for (i, projected) in pass.projected.iter().enumerate() {
        forward_if_recorded(case, &format!("out.zs.{i}"), projected, found)?;
    }
    // The objective returns the mean over samples.
    if let Ok(recorded) = case.recorded("out.denoising_loss").cloned() {
        let mean = recorded.values.iter().sum::<f64>() / recorded.values.len().max(1) as f64;
        let computed = to_host(pass.denoising.clone());
        let gap = (f64::from(computed[0]) - mean).abs();
        ensure!(
            gap <= case.tolerance.atol + case.tolerance.rtol * mean.abs(),
            "the objective is {computed:?}, not {mean}"
        );
    }
    let scalars = [("out.proj_loss", &pass.raw), ("out.proj_loss_weighted", &pass.aligned)];
    for (name, value) in scalars {
        if let Some(value) = value {
            forward_if_recorded(case, name, value, found)?;
        }
    }
    forward_if_recorded(case, "out.total_loss", &pass.total, found)?;
    let mut summed = Gradients::default();
    summed.add(&parts.model, pass.total.backward());
    let gradients = summed.by_name(&parts.model);
    for (name, gradient) in &gradients {
        found.gradient(case, &format!("grad.{name}"), &gradient.values)?;
    }
    if case.has("out.grad_norm") {
        found.values(case, "out.grad_norm", &[norm(&gradients)])?;
    }
    Ok(())
}

pub fn forward_if_recorded<const D: usize>(
    case: &Case,
    name: &str,
    value: &Tensor<D>,
    found: &mut Comparison,
) -> Result<()> {
    if case.has(name) { found.forward(case, name, value.clone()) } else { Ok(()) }
}

/// The embeddings of patches, times and labels, each as the layer that the network has.
fn embedders(case: &Case, parts: &Parts, input: [usize; 4], device: &Device, found: &mut Comparison) -> Result<()> {
    let builder = ParamBuilder::new(device, 0);
    let hidden_size = case.config.size("hidden_size")?;
    let patch_size = case.config.size_or("patch_size", 2)?;
    if case.has("out.x_embedder") {
        let layer = PatchEmbed::new(&builder, input[1], hidden_size, patch_size);
        let layer = filled(layer, case, "param.x_embedder.proj.")?;
        found.forward(case, "out.x_embedder", layer.forward(case.tensor("out.x_t", device)?))?;
    }
    if case.has("out.t_embedder") {
        let layer = TimestepEmbedder::new(&builder, hidden_size, parts.time_scale);
        let layer = filled(layer, case, "param.t_embedder.")?;
        found.forward(case, "out.t_embedder", layer.forward(case.tensor("in.t", device)?))?;
    }
    if case.has("out.y_embedder") {
        let layer = Embedding::new(&builder, parts.num_classes + 1, hidden_size, Init::Zeros);
        let layer = filled(layer, case, "param.y_embedder.embedding_table.")?;
        let labels = case.integers("in.y")?;
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels.clone(), [labels.len()]), device);
        found.forward(case, "out.y_embedder", layer.forward(labels))?;
    }
    Ok(())
}

/// A numeric name has an underscore in a layer that is not behind a plugin's boundary.
fn filled<M: Module>(layer: M, case: &Case, prefix: &str) -> Result<M> {
    let underscored = |segment: &str| {
        let is_number = segment.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { format!("_{segment}") } else { segment.to_string() }
    };
    let rename = |name: String| name.split('.').map(underscored).collect::<Vec<_>>().join(".");
    let params = case.params(prefix).into_iter().map(|(name, value)| (rename(name), value)).collect();
    load_state_dict(layer, params).with_context(|| prefix.to_string())
}

/// Network input, target, prediction and each sample's loss.
fn interpolants(case: &Case, parts: &Parts, input: [usize; 4], device: &Device, found: &mut Comparison) -> Result<()> {
    let (x0, noise): (Tensor<4>, Tensor<4>) = (case.tensor("in.x", device)?, case.tensor("in.noise", device)?);
    let t: Tensor<1> = case.tensor("in.t", device)?;
    let path = parts.objective.path().at_each(t.clone().reshape([input[0], 1, 1, 1]));
    let xt = x0.clone() * path.alpha + noise.clone() * path.sigma;
    let target = x0 * path.d_alpha + noise * path.d_sigma;
    let condition = Condition::labels(&case.integers("in.y")?, device);
    let request = BackboneInput { x: xt.clone(), times: Times::at(t), condition, taps: &[] };
    let velocity = parts.model.backbone.forward(request).prediction;
    let loss = (velocity.clone() - target.clone()).square().reshape([input[0] as i32, -1]).mean_dim(1);
    for (name, value) in [("out.x_t", xt), ("out.target", target), ("out.v", velocity)] {
        forward_if_recorded(case, name, &value, found)?;
    }
    forward_if_recorded(case, "out.denoising_loss", &loss.reshape([input[0]]), found)
}

fn embeddings_and_interpolants(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for entry in case.config.list("pos") {
        let sizes: Vec<usize> =
            entry.as_array().context("config.pos holds pairs")?.iter().map(count).collect::<Result<_>>()?;
        let (channels, grid, name) = match sizes[..] {
            [channels, side] => (channels, PatchGrid::new(side, side), format!("out.pos.{channels}x{side}")),
            [channels, rows, columns] => {
                (channels, PatchGrid::new(rows, columns), format!("out.pos.{channels}x{rows}x{columns}"))
            }
            _ => anyhow::bail!("config.pos: `{entry}` is no pair of channels and grid"),
        };
        found.values(case, &name, &widen(sincos_position_table(grid, channels)))?;
    }
    let times: Tensor<1> = case.tensor("in.t", device)?;
    for channels in case.config.list("time_dims") {
        let channels = count(channels)?;
        found.forward(case, &format!("out.time.{channels}"), time_features(times.clone(), channels))?;
    }
    for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
        path_coefficients(case, path, &times, found)?;
    }
    if case.has("out.unpatchify") {
        let [_, _, height, width] = case.shape::<4>("out.unpatchify")?;
        let patch = match &case.config.0["unpatchify"]["patch"] {
            Value::Null => 2,
            patch => count(patch)?,
        };
        let grid = PatchGrid::new(height / patch, width / patch);
        found.forward(case, "out.unpatchify", unpatchify(case.tensor("in.tokens", device)?, grid, patch))?;
    }
    Ok(())
}

fn path_coefficients(case: &Case, path: ProbabilityPath, t: &Tensor<1>, found: &mut Comparison) -> Result<()> {
    let name = |part: &str| format!("out.{}.{part}", path.name());
    let at = path.at_each(t.clone());
    for (part, value) in [("alpha", at.alpha), ("sigma", at.sigma), ("d_alpha", at.d_alpha), ("d_sigma", at.d_sigma)] {
        forward_if_recorded(case, &name(part), &value, found)?;
    }
    if case.has(&name("t_lognormal")) {
        let config = FlowMatchingConfig { path, ..Default::default() };
        let draws = &case.recorded("in.rnd_normal")?.values;
        let times: Vec<f64> = draws.iter().map(|draw| f64::from(config.lognormal_time(*draw as f32))).collect();
        found.values(case, &name("t_lognormal"), &times)?;
    }
    Ok(())
}
