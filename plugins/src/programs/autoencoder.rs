//! Training of an autoencoder alone.
//!
//! Source: Rombach et al., 2022, section 3.1; the losses are those of REPA-E's released code. All in f32.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::data::latent_cache::{ChannelSums, statistics_file};
use realign::data::latents::{LatentNorm, Posterior};
use realign::data::loader::Batch;
use realign::erase::Slot;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{
    Autoencoder, AutoencoderConfig, AutoencoderKind, Dataset, Program, ProgramConfig, ProgramContext,
};
use realign::recipe::{Check, TrainSection};
use realign::reconstruction::{LossSection, Reconstruction, ReconstructionLoss, trained_autoencoder};
use realign::sample::{Quantization, picture_bytes};
use realign::streams::Streams;
use realign::train::{
    Ema, Gradients, Optimizer, OptimizerSettings, Preview, ReadTensors, WriteTensors, example_images, images, preview,
    spread_examples,
};
use realign::weights::{StateDict, load_state_dict, state_dict, to_host};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const CHUNK: usize = 64; // pictures that are encoded at once for the statistics

/// `autoencoder`: trains the recipe's autoencoder to reconstruct pictures.
///
/// A checkpoint holds `vae`, an `ema-<name>` for each moving average, `discriminator`, and `latents-stats`: the
/// statistics of the first average's latents, or of the weights' where there is no average. That network is what
/// previews show and what other recipes get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderProgramConfig {
    /// What the autoencoder is trained with.
    pub loss: LossSection,
    /// Pictures of a preview, each above its reconstruction; 0 draws none.
    #[schemars(range(min = 0, max = 1024))]
    pub num_preview: usize,
    /// Pictures whose latents make the statistics of a checkpoint, evenly spread over the data.
    #[schemars(range(min = 1))]
    pub num_statistics: usize,
}

impl Default for AutoencoderProgramConfig {
    fn default() -> Self {
        Self { loss: LossSection::default(), num_preview: 16, num_statistics: 10_000 }
    }
}

/// The program in memory.
#[derive(Debug)]
pub struct AutoencoderProgram {
    vae: Slot<AutoencoderKind>,
    optimizer: Optimizer,
    emas: Vec<Ema<Slot<AutoencoderKind>>>,
    loss: ReconstructionLoss,
    device: Device,
    dataset: Arc<dyn Dataset>,
    num_preview: usize,
    num_statistics: usize,
}

impl Program for AutoencoderProgram {
    fn step(&mut self, batch: &Batch, streams: &Streams, learning_rate: f64) -> Result<Vec<(String, Tensor<1>)>> {
        let images = Tensor::from_inner(images(batch, &self.device)?);
        let batch = Reconstruction::new(&*self.vae, images, |count| streams.normal("posterior", count))?;
        let terms = self.loss.terms(&batch, streams.step);
        let mut scalars = vec![("loss", terms.total.clone().detach())];
        scalars.extend(terms.scalars);
        let gradients = Gradients::of_loss(&self.vae, terms.total);
        scalars.push(("grad_norm", self.optimizer.step(&mut self.vae, gradients, learning_rate)));
        for ema in &mut self.emas {
            ema.update(&self.vae, streams.step);
        }
        scalars.extend(self.loss.learn(&batch, streams.step, learning_rate));
        Ok(scalars.into_iter().map(|(name, value)| (format!("train/{name}"), value)).collect())
    }

    fn save(&self, write: &mut WriteTensors<'_>) -> Result<()> {
        write("vae", &state_dict(&self.vae))?;
        write("opt_vae", &self.optimizer.counted_state_dict())?;
        for ema in &self.emas {
            write(&format!("ema-{}", ema.settings.name), &state_dict(ema.model()))?;
        }
        if let Some(critic) = &self.loss.critic {
            let [network, optimizer] = critic.state_dicts();
            write("discriminator", &network)?;
            write("opt_disc", &optimizer)?;
        }
        write("latents-stats", &statistics_file(&self.statistics()?))
    }

    fn load(&mut self, _steps: u64, read: &ReadTensors<'_>) -> Result<()> {
        let vae = load_state_dict(self.vae.clone(), read("vae")?)?;
        let restored = |ema: &Ema<Slot<AutoencoderKind>>| {
            Ema::from_state_dict(&vae, ema.settings.clone(), read(&format!("ema-{}", ema.settings.name))?)
        };
        self.emas = self.emas.iter().map(restored).collect::<Result<_>>()?;
        self.vae = vae;
        self.optimizer.load_counted_state_dict(read("opt_vae")?)?;
        match &mut self.loss.critic {
            Some(critic) => critic.load_state_dicts([read("discriminator")?, read("opt_disc")?]),
            None => Ok(()),
        }
    }

    fn previews(&mut self) -> Result<Vec<Preview>> {
        if self.num_preview == 0 {
            return Ok(vec![]);
        }
        let shown = self.shown();
        let images = example_images(&*self.dataset, &spread_examples(&*self.dataset, self.num_preview), &self.device)?;
        let [_, _, side, _] = images.dims();
        let variational = shown.variational().context("the autoencoder has no posterior")?;
        let decoded = variational.decode_latents(Posterior::new(variational.moments(images.clone())).mean);
        let [images, decoded] =
            [images / 127.5 - 1.0, decoded].map(|pictures| picture_bytes(pictures, Quantization::RoundHalfEven));
        let name = self.emas.first().map_or("model", |ema| &ema.settings.name);
        Ok(vec![preview(format!("reconstruction/{name}"), &[&images, &decoded], side)?])
    }

    fn weights(&self) -> StateDict {
        state_dict(&self.vae)
    }
}

impl AutoencoderProgram {
    /// What previews and other recipes get, without autodiff.
    fn shown(&self) -> Slot<AutoencoderKind> {
        self.emas.first().map_or_else(|| self.vae.valid(), |ema| ema.model().clone())
    }

    /// The normalization of its latents, by pictures that are spread over the data.
    fn statistics(&self) -> Result<LatentNorm> {
        let shown = self.shown();
        let variational = shown.variational().context("the autoencoder has no posterior")?;
        let mut sums: Option<ChannelSums> = None;
        for chunk in spread_examples(&*self.dataset, self.num_statistics).chunks(CHUNK) {
            let images = example_images(&*self.dataset, chunk, &self.device)?;
            let posterior = Posterior::new(variational.moments(images));
            let channels = posterior.mean.dims()[1];
            let moments = to_host(Tensor::cat(vec![posterior.mean.clone(), posterior.deviation()], 1));
            let sums = sums.get_or_insert_with(|| ChannelSums::new(channels));
            moments.chunks_exact(moments.len() / chunk.len()).for_each(|moments| sums.add(moments));
        }
        sums.context("there are no pictures to measure latents by")?.norm()
    }
}

#[typetag::serde(name = "autoencoder")]
impl ProgramConfig for AutoencoderProgramConfig {
    fn trains_autoencoder(&self) -> bool {
        true
    }

    fn autoencoder(
        &self,
        config: &dyn AutoencoderConfig,
        train: &TrainSection,
        read: &ReadTensors<'_>,
        device: &Device,
    ) -> Result<Box<dyn Autoencoder>> {
        let weights = train.ema.first().map_or_else(|| "vae".to_string(), |ema| format!("ema-{}", ema.name));
        trained_autoencoder(config, read(&weights)?, &read("latents-stats")?, device)
    }

    fn weights(&self, _image_size: usize, weights_dir: &Path) -> Vec<WeightFile> {
        self.loss.weights(weights_dir)
    }

    fn build(&self, ctx: &ProgramContext<'_>, device: &Device) -> Result<Box<dyn Program>> {
        let config = ctx.autoencoder.context("the recipe has no `autoencoder`")?;
        ensure!(ctx.plan.is_none(), "the program trains no diffusion model");
        let training = device.clone().autodiff();
        let vae: Slot<AutoencoderKind> = Slot::new(config.build_unnormalized(&ctx.weights_dir, &training)?);
        let settings = OptimizerSettings::new(ctx.train);
        let emas = ctx.train.ema.iter().map(|ema| Ema::new(&vae, ema.clone())).collect::<Result<_>>()?;
        Ok(Box::new(AutoencoderProgram {
            optimizer: Optimizer::new(&vae, settings),
            emas,
            vae,
            loss: ReconstructionLoss::new(&self.loss, &ctx.weights_dir, settings, ctx.seed, &training)?,
            device: device.clone(),
            dataset: ctx.dataset.clone(),
            num_preview: self.num_preview,
            num_statistics: self.num_statistics,
        }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.within("loss", |check| self.loss.validate(check));
        check.range("num_preview", self.num_preview, 0, 1024);
        check.positive("num_statistics", self.num_statistics);
    }
}

realign::register!(ProgramConfig as "program": AutoencoderProgramConfig);
