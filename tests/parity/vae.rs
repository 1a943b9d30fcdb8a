//! The autoencoder: moments, samples, pictures, and gradients of inputs and weights.

use super::case::Case;
use super::compare::Comparison;
use anyhow::{Context, Result};
use realign::burn::tensor::{Device, Tensor};
use realign::data::latents::{LatentNorm, Posterior};
use realign::erase::Slot;
use realign::plugin::{AutoencoderConfig, AutoencoderKind};
use realign::sample::{Quantization, quantize};
use realign::train::Gradients;
use realign::weights::{StateDict, to_host, write_safetensors};
use realign_plugins::autoencoders::sd_vae::first_names;
use serde_json::json;
use std::path::Path;

pub fn vae(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = &device.clone().autodiff();
    let vae = autoencoder(case, device)?;
    let vae_ref = vae.variational().context("no posterior")?;

    let x = case.tensor::<4>("in.x", device)?.require_grad();
    let moments = vae_ref.moments((x.clone() + 1.0) * 127.5);
    found.forward(case, "out.moments", moments.clone())?;
    let posterior = Posterior::new(moments.clone());
    found.forward(case, "out.mean", posterior.mean.clone())?;
    found.forward(case, "out.std", posterior.deviation())?;
    let sample = posterior.sample(case.tensor("in.eps", device)?);
    found.forward(case, "out.sample", sample.clone())?;
    let channels = sample.dims()[1];
    let fixed = LatentNorm::fixed(case.config.number("scaling_factor", 0.18215), channels)?;
    found.forward(case, "out.scaled", fixed.normalize(sample.clone()))?;
    let list = |name: &str| case.tensor::<4>(name, device).map(to_host);
    let by_channel = LatentNorm::new(list("in.latents_scale")?, list("in.latents_bias")?)?;
    found.forward(case, "out.stats_norm", by_channel.normalize(sample))?;

    let z = case.tensor::<4>("in.z", device)?.require_grad();
    let decoded = vae_ref.decode_latents(z.clone());
    found.forward(case, "out.decode", decoded.clone())?;
    let bytes: Vec<u8> = to_host(decoded.clone()).iter().map(|v| quantize(*v, Quantization::Truncate)).collect();
    found.bytes(case, "out.decode_uint8", &bytes)?;

    // Encoder and decoder share no weight and no input, so one pass back serves both recorded scalars.
    let weighted = (moments * case.tensor("in.w", device)?).sum() + (decoded * case.tensor("in.wd", device)?).sum();
    let gradients = weighted.backward();
    let of = |leaf: &Tensor<4>| leaf.grad(&gradients).map(to_host).context("no gradient arrived");
    found.gradient(case, "grad.encode.x", &of(&x)?)?;
    found.gradient(case, "grad.decode.z", &of(&z)?)?;
    weights(case, &vae, gradients, found)
}

/// Gradients of the weights that were recorded, by their names in the file.
fn weights(
    case: &Case,
    vae: &Slot<AutoencoderKind>,
    gradients: realign::burn::tensor::Gradients,
    found: &mut Comparison,
) -> Result<()> {
    let mut summed = Gradients::default();
    summed.add(vae, gradients);
    let computed = summed.by_name(vae);
    for (name, recorded) in case.params("grad.param.") {
        let one = StateDict::from([(name.clone(), recorded)]);
        let renamed = first_names(one, case.config.list("block_out_channels").len())?;
        let first = renamed.keys().next().context("no name")?;
        let gradient = computed.get(first).with_context(|| format!("no gradient of `{first}`"))?;
        found.gradient(case, &format!("grad.param.{name}"), &gradient.values)?;
    }
    Ok(())
}

/// Loaded from a file, as a user's weights are.
fn autoencoder(case: &Case, device: &Device) -> Result<Slot<AutoencoderKind>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vae.safetensors");
    write_safetensors(&path, &case.params("param."))?;
    let config: Box<dyn AutoencoderConfig> = serde_json::from_value(json!({
        "type": "sd_vae",
        "size": null,
        "channels": case.config.list("block_out_channels"),
        "num_res_blocks": case.config.size_or("layers_per_block", 2)?,
        "latent_channels": case.config.size_or("latent_channels", 4)?,
        "num_groups": case.config.size_or("norm_num_groups", 32)?,
        "weights": { "type": "file", "path": path },
        "latent_norm": { "type": "fixed_scale" },
    }))?;
    Ok(Slot::new(config.build(Path::new("."), device)?))
}
