//! One iteration of REPA-E: losses, gradients and statistics of its three parts.

use super::case::{Case, Config, count};
use super::compare::{Comparison, widen};
use super::sit_parts::Parts;
use super::vae_losses::{discriminator, lpips};
use anyhow::{Context, Result, bail};
use realign::burn::tensor::{Bool, Device, Tensor, TensorData};
use realign::data::latents::LatentNorm;
use realign::erase::Slot;
use realign::plugin::{AutoencoderConfig, AutoencoderKind, BackboneInput, Condition, Draws, ProbabilityPath, Times};
use realign::recipe::{Decayed, EmaSection, EmaWarmup};
use realign::reconstruction::{
    Critic, DiscriminatorSection, LossSection, LpipsInput, LpipsSection, PixelDistance, Reconstruction,
    ReconstructionLoss,
};
use realign::train::{Ema, Gradients, OptimizerSettings, TrainModel};
use realign::weights::{StateDict, state_dict, to_host};
use realign_plugins::programs::repa_e::{LatentModel, Networks, TrainingBatch};
use serde_json::json;

const LABEL_DROPOUT: f64 = 0.1; // of the reference's label embedder

pub fn iteration(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = &device.clone().autodiff();
    let step = case.config.size_or("global_step", 0)? as u64;
    let vae = autoencoder(case, device)?;
    let latent = case.shape::<4>("in.noise")?;
    let parts = diffusion(case, latent, device)?;
    let model: TrainModel = parts.model.clone();
    let values = |name: &str| case.tensor::<1>(name, device).map(to_host);
    let norm = LatentNorm::new(values("in.latents_scale")?, values("in.latents_bias")?)?;
    let momentum = section(case, "sit").number("bn_momentum", 0.1);
    let mut networks = Networks {
        model: LatentModel::new(model, &norm, momentum, device),
        vae,
        loss: reconstruction_loss(case, device)?,
        vae_align_proj_coeff: case.config.number("vae_align_proj_coeff", 1.5),
    };
    let decay = case.config.number("ema_decay", 0.9);
    let mut ema = Ema::new(&networks.model, EmaSection { name: "ema".into(), decay, warmup: EmaWarmup::None })?;
    let images = case.tensor::<4>("in.raw", device)?;
    let noise = to_host(case.tensor::<4>("in.posterior_eps", device)?);
    let pictures = Reconstruction::new(&*networks.vae, images.clone(), |_| noise)?;
    let moments = networks.vae.variational().context("no posterior")?.moments(images);
    found.forward(case, "out.moments", moments)?;
    found.forward(case, "out.z", pictures.latents.clone())?;
    found.forward(case, "out.recon", pictures.decoded.clone())?;

    let batch = || training_batch(case, &parts, device);
    vae_pass(case, &parts, &mut networks, &pictures, &batch()?, step, found)?;
    discriminator_pass(case, &mut networks, &pictures, step, found)?;
    diffusion_pass(case, &parts, &mut networks, &pictures, batch()?, step, found)?;

    ema.update(&networks.model, step);
    buffers(case, "out.sit_buffers.", &state_dict(&networks.model), found)?;
    buffers(case, "out.ema_buffers.", &state_dict(ema.model()), found)?;
    let norm = networks.model.norm()?;
    for (name, values) in [("out.latents_scale", norm.scale()), ("out.latents_bias", norm.bias())] {
        if case.has(name) {
            found.values(case, name, &widen(values.to_vec()))?;
        }
    }
    Ok(())
}

fn vae_pass(
    case: &Case,
    parts: &Parts,
    networks: &mut Networks,
    pictures: &Reconstruction,
    batch: &TrainingBatch,
    step: u64,
    found: &mut Comparison,
) -> Result<()> {
    let weight = networks.vae_align_proj_coeff;
    let loss = networks.vae_loss(&*parts.objective, &parts.alignment, pictures, batch, step)?;
    let is_active = networks.loss.critic.as_ref().is_some_and(|critic| critic.is_active(step));
    let scalar = |name: &str| {
        let value = loss.scalars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        // Before it begins, the reference judges with a factor of 0.
        let value = value.or_else(|| (!is_active && name.ends_with("gan_loss")).then(|| loss.total.zeros_like()));
        value.with_context(|| format!("no scalar `{name}`"))
    };
    for name in ["reconstruction_loss", "perceptual_loss", "kl_loss", "weighted_gan_loss", "gan_loss"] {
        if case.has(&format!("out.vae.{name}")) {
            found.forward(case, &format!("out.vae.{name}"), scalar(name)?)?;
        }
    }
    let losses = section(case, "losses");
    let constants = [("d_weight", "discriminator_weight", 0.1), ("discriminator_factor", "discriminator_factor", 1.0)];
    for (name, key, otherwise) in constants {
        if case.has(&format!("out.vae.{name}")) {
            let is_zero = key == "discriminator_factor" && !is_active;
            found.values(
                case,
                &format!("out.vae.{name}"),
                &[if is_zero { 0.0 } else { losses.number(key, otherwise) }],
            )?;
        }
    }
    let aligned = scalar("vae_align_loss")?;
    found.forward(case, "out.vae.align_proj_loss", aligned.clone() / weight)?;
    found.forward(case, "out.vae.total_loss", loss.total.clone().detach() - aligned)?;
    found.forward(case, "out.vae.total_with_align", loss.total.clone())?;
    let mut gradients = Gradients::default();
    gradients.add(&networks.vae, loss.total.backward());
    all_gradients(case, "grad.vae.", &gradients.by_name(&networks.vae), found)
}

fn discriminator_pass(
    case: &Case,
    networks: &mut Networks,
    pictures: &Reconstruction,
    step: u64,
    found: &mut Comparison,
) -> Result<()> {
    let critic = networks.loss.critic.as_mut().context("no discriminator")?;
    let factor = if critic.is_active(step) { 1.0 } else { 0.0 };
    // The recorded reconstruction, with which ours was compared: one value before an activation is 4e-7 from zero, and on
    // which side of it our rounding falls would say nothing about the discriminator.
    let decoded = case.tensor("out.recon", &pictures.decoded.device())?;
    let judgment = critic.judge(pictures.pictures.clone(), decoded);
    for (name, value) in &judgment.scalars {
        let (name, factor) = if *name == "d_loss" { ("discriminator_loss", factor) } else { (*name, 1.0) };
        if case.has(&format!("out.disc.{name}")) {
            found.forward(case, &format!("out.disc.{name}"), value.clone() * factor)?;
        }
    }
    let mut gradients = Gradients::default();
    gradients.add(&critic.network, (judgment.total * factor).backward());
    all_gradients(case, "grad.disc.", &gradients.by_name(&critic.network), found)?;
    buffers(case, "out.disc_buffers.", &state_dict(&critic.network), found)
}

fn diffusion_pass(
    case: &Case,
    parts: &Parts,
    networks: &mut Networks,
    pictures: &Reconstruction,
    batch: TrainingBatch,
    step: u64,
    found: &mut Comparison,
) -> Result<()> {
    prediction(case, parts, networks, pictures, &batch, found)?;
    let loss = networks.diffusion_loss(&*parts.objective, &parts.alignment, &pictures.latents, batch, step)?;
    let aligned = loss.scalars.iter().find(|(name, _)| name == "align_loss").context("nothing is aligned")?;
    found.forward(case, "out.sit.proj_loss", aligned.1.clone())?;
    found.forward(case, "out.sit.total", loss.total.clone())?;
    let mut gradients = Gradients::default();
    gradients.add(&networks.model, loss.total.backward());
    all_gradients(case, "grad.sit.", &published(gradients.by_name(&networks.model)), found)
}

/// The network's prediction and each sample's loss, on latents normalized by the batch.
fn prediction(
    case: &Case,
    parts: &Parts,
    networks: &Networks,
    pictures: &Reconstruction,
    batch: &TrainingBatch,
    found: &mut Comparison,
) -> Result<()> {
    let x0 = networks.model.bn.clone().forward_train(pictures.latents.clone().detach());
    let (count, t, noise) = (x0.dims()[0], batch.draws.t.clone(), batch.draws.noise.clone());
    let path: ProbabilityPath = parts.objective.path();
    let path = path.at_each(t.clone().reshape([count, 1, 1, 1]));
    let x = x0.clone() * path.alpha + noise.clone() * path.sigma;
    let target = x0 * path.d_alpha + noise * path.d_sigma;
    let drop = batch.draws.drop.clone().context("no conditions are dropped")?;
    let condition = batch.condition.clone().replace(drop, batch.null.clone());
    let request = BackboneInput { x, times: Times::at(t), condition, taps: &[] };
    let output = networks.model.backbone.forward(request).prediction;
    found.forward(case, "out.sit.model_output", output.clone())?;
    let loss = (output - target).square().reshape([count as i32, -1]).mean_dim(1);
    found.forward(case, "out.sit.denoising_loss", loss.reshape([count]))
}

fn training_batch(case: &Case, parts: &Parts, device: &Device) -> Result<TrainingBatch> {
    let labels = case.integers("in.y")?;
    let drop: Vec<bool> = case.recorded("in.drop_uniform")?.values.iter().map(|u| *u < LABEL_DROPOUT).collect();
    let target = |i: usize| case.tensor::<3>(&format!("in.zs.{i}"), device);
    Ok(TrainingBatch {
        condition: Condition::labels(&labels, device),
        null: Condition::labels(&vec![parts.num_classes as i64; labels.len()], device),
        draws: Draws {
            noise: case.tensor("in.noise", device)?,
            t: case.tensor("in.t", device)?,
            r: None,
            drop: Some(Tensor::<1, Bool>::from_data(TensorData::new(drop, [labels.len()]), device)),
        },
        targets: vec![(0..parts.model.projectors.len()).map(target).collect::<Result<_>>()?],
    })
}

fn all_gradients(case: &Case, prefix: &str, computed: &StateDict, found: &mut Comparison) -> Result<()> {
    for name in case.names(prefix) {
        let gradient = computed.get(name).with_context(|| format!("no gradient of `{name}`"))?;
        found.gradient(case, &format!("{prefix}{name}"), &gradient.values)?;
    }
    Ok(())
}

fn buffers(case: &Case, prefix: &str, after: &StateDict, found: &mut Comparison) -> Result<()> {
    for name in case.names(prefix) {
        if name.ends_with(".num_batches_tracked") {
            continue;
        }
        let buffer = after.get(name).with_context(|| format!("there is no `{name}`"))?;
        found.values(case, &format!("{prefix}{name}"), &widen(buffer.values.clone()))?;
    }
    Ok(())
}

fn section(case: &Case, name: &str) -> Config {
    Config(case.config.0[name].clone())
}

fn autoencoder(case: &Case, device: &Device) -> Result<Slot<AutoencoderKind>> {
    let vae = section(case, "vae");
    let first = vae.size_or("ch", 128)?;
    let widths = vae.list("ch_mult").iter().map(|factor| Ok(first * count(factor)?)).collect::<Result<Vec<_>>>()?;
    let config: Box<dyn AutoencoderConfig> = serde_json::from_value(json!({
        "type": "sd_vae",
        "size": null,
        "channels": widths,
        "num_res_blocks": vae.size_or("num_res_blocks", 2)?,
        "latent_channels": vae.size_or("z_channels", 4)?,
        "num_groups": vae.size_or("norm_num_groups", 32)?,
        "attention_levels": attention_levels(case),
        "weights": { "type": "random" },
        "latent_norm": { "type": "fixed_scale", "scale": 1.0 },
    }))?;
    Ok(Slot::new(config.build_with(case.params("param.vae."), device)?))
}

/// Levels that have attention, by the recorded names.
fn attention_levels(case: &Case) -> Vec<usize> {
    let level = |name: &str| name.split_once(".attn.")?.0.parse().ok();
    let mut levels: Vec<usize> = case.names("param.vae.encoder.down.").filter_map(level).collect();
    levels.dedup();
    levels
}

/// SiT with projectors, under our names.
fn diffusion(case: &Case, latent: [usize; 4], device: &Device) -> Result<Parts> {
    let mut config = section(case, "sit");
    config.0["proj_coeff"] = json!(case.config.number("proj_coeff", 0.5));
    let params = case.params("param.sit.").into_iter().filter(|(name, _)| !name.starts_with("bn."));
    Parts::new(&config, latent, params.map(|(name, value)| (own_name(&name), value)).collect(), device)
}

const PROJECTION: &str = "projection_layer"; // a level of names that REPA and REPA-E do not have

fn own_name(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if parts.first() == Some(&"projectors") && parts.get(2) != Some(&PROJECTION) {
        parts.insert(2, PROJECTION);
    }
    parts.join(".")
}

/// Gradients under our names and under the published ones.
fn published(dict: StateDict) -> StateDict {
    let short = |name: &String| name.replace(&format!(".{PROJECTION}."), ".");
    let renamed: StateDict = dict.iter().map(|(name, value)| (short(name), value.clone())).collect();
    renamed.into_iter().chain(dict).collect()
}

fn reconstruction_loss(case: &Case, device: &Device) -> Result<ReconstructionLoss> {
    let (losses, disc) = (section(case, "losses"), section(case, "disc"));
    let critic = DiscriminatorSection {
        weight: losses.number("discriminator_weight", 0.1),
        factor: losses.number("discriminator_factor", 1.0),
        start: losses.size_or("discriminator_start", 0)? as u64,
        width: disc.size_or("ndf", 64)?,
        num_layers: disc.size_or("n_layers", 3)?,
        lecam_weight: losses.number("lecam_regularization_weight", 0.0),
        ..Default::default()
    };
    let settings = LossSection {
        reconstruction: match losses.word("reconstruction_loss", "l1") {
            "l1" => PixelDistance::L1,
            "l2" | "mse" => PixelDistance::L2,
            other => bail!("config.losses.reconstruction_loss `{other}` is unknown"),
        },
        reconstruction_weight: losses.number("reconstruction_weight", 1.0),
        log_variance: losses.number("logvar_init", 0.0),
        kl_weight: losses.number("kl_weight", 1e-6),
        lpips: Some(LpipsSection { weight: losses.number("perceptual_weight", 1.0), input: LpipsInput::Reference }),
        discriminator: Some(critic.clone()),
    };
    let optimizer = OptimizerSettings {
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        decayed: Decayed::All,
        max_grad_norm: Some(1.0),
    };
    let mut critic = Critic::new(critic, optimizer, 0, device)?;
    critic.network = discriminator(case, device)?;
    Ok(ReconstructionLoss::of(settings, Some(lpips(case, device)?), Some(critic)))
}
