//! What trains an autoencoder: LPIPS, the discriminator and its losses, the divergence of the posterior.

use super::case::{Case, count};
use super::compare::{Comparison, widen};
use anyhow::{Context, Result};
use realign::burn::module::Module;
use realign::burn::tensor::Device;
use realign::data::latents::Posterior;
use realign::nn::ParamBuilder;
use realign::reconstruction::{Discriminator, LeCam, Lpips, LpipsInput, hinge_loss};
use realign::weights::{StateDict, load_state_dict, state_dict, to_host};

pub fn loss_functions(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = &device.clone().autodiff();
    let a = case.tensor::<4>("in.a", device)?.require_grad();
    let b = case.tensor::<4>("in.b", device)?;

    // The recorded pictures are in [0, 1], which is what the reference's scaling expects.
    let distance = lpips(case, device)?.forward(a.clone(), b, LpipsInput::Reference);
    found.forward(case, "out.lpips", distance.clone())?;
    let gradient = a.grad(&distance.sum().backward()).context("no gradient arrived")?;
    found.gradient(case, "grad.lpips.a", &to_host(gradient))?;

    let mut discriminator = discriminator(case, device)?;
    let a = a.detach();
    found.forward(case, "out.disc_eval", discriminator.forward_eval(a.clone()))?;
    found.forward(case, "out.disc_train", discriminator.forward_train(a))?;
    let after = state_dict(&discriminator);
    for name in case.names("out.disc_buffers.") {
        let buffer = after.get(name).with_context(|| format!("the discriminator has no `{name}`"))?;
        found.values(case, &format!("out.disc_buffers.{name}"), &widen(buffer.values.clone()))?;
    }

    let logits = |name: &str| case.tensor::<4>(name, device);
    let (real, fake) = (logits("in.logits_real")?, logits("in.logits_fake")?);
    found.forward(case, "out.hinge_d", hinge_loss(real.clone(), fake.clone()))?;
    let averages = LeCam {
        real: case.tensor("in.ema_real", device)?,
        fake: case.tensor("in.ema_fake", device)?,
        decay: case.config.number("lecam_ema_decay", 0.999),
    };
    found.forward(case, "out.lecam", averages.loss(real, fake))?;

    let posterior = Posterior::new(case.tensor::<4>("in.moments", device)?);
    found.forward(case, "out.kl", posterior.divergence())?;
    found.forward(case, "out.std", posterior.deviation())
}

/// LPIPS of the recorded widths; its scaling is fixed and no weight.
pub fn lpips(case: &Case, device: &Device) -> Result<Lpips> {
    let widths = case.config.list("lpips_widths").iter().map(count).collect::<Result<Vec<_>>>()?;
    let widths: [usize; 5] = widths.try_into().ok().context("lpips_widths: expected five")?;
    let weights = case.params("param.lpips.").into_iter().filter(|(name, _)| !name.starts_with("scaling_layer."));
    Ok(load_state_dict(Lpips::new(&ParamBuilder::new(device, 0), widths), weights.collect())?.no_grad())
}

/// The discriminator of the recorded width; PyTorch's count of batches is no weight.
pub fn discriminator(case: &Case, device: &Device) -> Result<Discriminator> {
    let size = |key: &str, otherwise: u64| count(case.config.0["disc"].get(key).unwrap_or(&otherwise.into()));
    let network = Discriminator::new(&ParamBuilder::new(device, 0), size("ndf", 64)?, size("n_layers", 3)?);
    let weights: StateDict =
        case.params("param.disc.").into_iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked")).collect();
    load_state_dict(network, weights)
}
