//! The step with three optimizers, and what a run keeps.

use anyhow::{Context, Result};
use realign::burn::module::{Module, ModuleMapper, Param};
use realign::burn::tensor::Tensor;
use realign::data::latent_cache::statistics_file;
use realign::data::loader::Batch;
use realign::erase::Slot;
use realign::plugin::{AutoencoderKind, Program};
use realign::recipe::Plan;
use realign::reconstruction::{Reconstruction, ReconstructionLoss};
use realign::sample::picture_bytes;
use realign::streams::Streams;
use realign::train::{
    Assembly, Ema, Gradients, Optimizer, OptimizerSettings, Preview, PreviewSettings, ReadTensors, WriteTensors,
    beside, build_model, example_images, images, preview, sample_previews, spread_examples,
};
use realign::weights::{StateDict, load_state_dict, state_dict};

use super::config::RepaEConfig;
use super::networks::{LatentModel, Networks, TrainingBatch};

/// REPA-E in memory.
#[derive(Debug)]
pub(super) struct RepaE {
    networks: Networks,
    /// What is not trained; its autoencoder is made anew before it draws samples.
    assembly: Assembly,
    optimizer: Optimizer,
    vae_optimizer: Optimizer,
    vae_rate: f64,
    emas: Vec<Ema<LatentModel>>,
    previews: PreviewSettings,
}

impl RepaE {
    pub(super) fn new(config: &RepaEConfig, plan: &Plan) -> Result<Self> {
        let recipe = &plan.recipe;
        let assembly = Assembly::new(plan)?;
        let training = assembly.device.clone().autodiff();
        let vae: Slot<AutoencoderKind> = Slot::new(recipe.autoencoder.build(&recipe.weights_dir, &training)?);
        let norm = vae.variational().context("the autoencoder has no posterior")?.norm().clone();
        let mut model = LatentModel::new(build_model(plan, &training)?, &norm, config.bn_momentum, &training);
        if config.trains_position_table {
            model.backbone = model.backbone.map(&mut Unfreeze);
        }
        let settings = OptimizerSettings::new(&recipe.train);
        let loss = ReconstructionLoss::new(&config.loss, &recipe.weights_dir, settings, recipe.seed, &training)?;
        let emas = recipe.train.ema.iter().map(|ema| Ema::new(&model, ema.clone())).collect::<Result<_>>()?;
        Ok(Self {
            optimizer: Optimizer::new(&model, settings),
            vae_optimizer: Optimizer::new(&vae, settings),
            vae_rate: config.vae_rate,
            emas,
            previews: PreviewSettings::new(plan),
            networks: Networks { model, vae, loss, vae_align_proj_coeff: config.vae_align_proj_coeff },
            assembly,
        })
    }

    /// The average called `name`, or the trained weights for `model`, without autodiff.
    fn shown(&self, name: &str) -> Result<LatentModel> {
        if name == "model" {
            return Ok(self.networks.model.valid());
        }
        let ema = self.emas.iter().find(|ema| ema.settings.name == name);
        Ok(ema.with_context(|| format!("no moving average is called `{name}`"))?.model().clone())
    }
}

impl Program for RepaE {
    fn step(&mut self, batch: &Batch, streams: &Streams, learning_rate: f64) -> Result<Vec<(String, Tensor<1>)>> {
        let (assembly, networks, step) = (&self.assembly, &mut self.networks, streams.step);
        let (objective, alignment) = (&*assembly.objective, &assembly.alignment);
        let training = assembly.device.clone().autodiff();
        let images = images(batch, &assembly.device)?;
        let targets = alignment.targets(step, |_, encoder| Ok(encoder.encode(images.clone())?.tokens))?;
        let model = networks.model.train_model();
        let conditioner = assembly.conditioner(&model);
        let condition = conditioner.condition(&batch.labels, &batch.captions, &training)?;
        let null = conditioner.null(batch.labels.len(), &training);

        let noise = |count| streams.normal("posterior", count);
        let pictures = Reconstruction::new(&*networks.vae, Tensor::from_inner(images), noise)?;
        let draws = objective.draw(pictures.latents.dims(), streams, &training);
        let batch = TrainingBatch { condition, null, draws, targets };
        let vae = networks.vae_loss(objective, alignment, &pictures, &batch, step)?;
        let mut scalars = vae.scalars;
        let gradients = Gradients::of_loss(&networks.vae, vae.total);
        let norm = self.vae_optimizer.step(&mut networks.vae, gradients, learning_rate * self.vae_rate);
        scalars.push(("grad_norm_vae", norm));

        scalars.extend(networks.loss.learn(&pictures, step, learning_rate));
        let mut scalars: Vec<_> = scalars.into_iter().map(|(name, value)| (name.to_string(), value)).collect();

        // The latents are those of the autoencoder before its update, times and noise those of its own pass.
        let diffusion = networks.diffusion_loss(objective, alignment, &pictures.latents, batch, step)?;
        scalars.extend(diffusion.scalars);
        let gradients = Gradients::of_loss(&networks.model, diffusion.total);
        let norm = self.optimizer.step(&mut networks.model, gradients, learning_rate);
        scalars.push(("grad_norm".into(), norm));
        for ema in &mut self.emas {
            ema.update(&networks.model, step);
        }
        Ok(scalars.into_iter().map(|(name, value)| (format!("train/{name}"), value)).collect())
    }

    fn save(&self, write: &mut WriteTensors<'_>) -> Result<()> {
        write("model", &state_dict(&self.networks.model))?;
        write("vae", &state_dict(&self.networks.vae))?;
        write("opt", &self.optimizer.counted_state_dict())?;
        write("opt_vae", &self.vae_optimizer.counted_state_dict())?;
        for ema in &self.emas {
            write(&format!("ema-{}", ema.settings.name), &state_dict(ema.model()))?;
        }
        if let Some(critic) = &self.networks.loss.critic {
            let [network, optimizer] = critic.state_dicts();
            write("discriminator", &network)?;
            write("opt_disc", &optimizer)?;
        }
        write("latents-stats", &statistics_file(&self.shown(&self.previews.weights)?.norm()?))
    }

    fn load(&mut self, _steps: u64, read: &ReadTensors<'_>) -> Result<()> {
        let networks = &mut self.networks;
        networks.model = load_state_dict(networks.model.clone(), read("model")?)?;
        networks.vae = load_state_dict(networks.vae.clone(), read("vae")?)?;
        self.optimizer.load_counted_state_dict(read("opt")?)?;
        self.vae_optimizer.load_counted_state_dict(read("opt_vae")?)?;
        let restored = |ema: &Ema<LatentModel>| {
            let dict = read(&format!("ema-{}", ema.settings.name))?;
            Ema::from_state_dict(&networks.model, ema.settings.clone(), dict)
        };
        self.emas = self.emas.iter().map(restored).collect::<Result<_>>()?;
        match &mut networks.loss.critic {
            Some(critic) => critic.load_state_dicts([read("discriminator")?, read("opt_disc")?]),
            None => Ok(()),
        }
    }

    /// Samples; and rows of pictures, each above the row of their reconstructions, with the samples on the right.
    fn previews(&mut self) -> Result<Vec<Preview>> {
        let settings = &self.previews;
        if settings.num == 0 {
            return Ok(vec![]);
        }
        let shown = self.shown(&settings.weights)?;
        self.assembly.autoencoder = self.networks.autoencoder(&shown)?;
        let assembly = &self.assembly;
        let mut previews = sample_previews(assembly, &shown.train_model(), settings)?;
        let examples = spread_examples(&*assembly.dataset, settings.num);
        let pictures = example_images(&*assembly.dataset, &examples, &assembly.device)?;
        // One draw of each posterior, as the network sees it.
        let latents = assembly.autoencoder.encode(pictures.clone(), &Streams::new(settings.sampling.seed));
        let decoded = assembly.autoencoder.decode(latents);
        let bytes = |pictures: Tensor<4>| picture_bytes(pictures, settings.sampling.quantization);
        let series = [bytes(pictures / 127.5 - 1.0), bytes(decoded)];
        let reconstructions = preview(String::new(), &[&series[0], &series[1]], settings.image_size)?;
        if let Some(samples) = previews.first() {
            previews.push(beside(format!("reconstruction/{}", settings.weights), &reconstructions, samples));
        }
        Ok(previews)
    }

    fn weights(&self) -> StateDict {
        let mut weights = state_dict(&self.networks.model);
        weights.extend(state_dict(&self.networks.vae).into_iter().map(|(name, value)| (format!("vae.{name}"), value)));
        weights
    }
}

/// Makes every parameter trainable.
struct Unfreeze;

impl ModuleMapper for Unfreeze {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.set_require_grad(true)
    }
}
