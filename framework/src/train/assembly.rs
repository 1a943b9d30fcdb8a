//! A plan's parts, built for a device.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};

use super::alignment::{Alignment, Term};
use super::cache_choice::CacheChoice;
use super::cached;
use super::feature_cache::FeatureCache;
use super::model::{TrainModel, build_conditioner};
use super::pictures::images;
use crate::data::loader::Batch;
use crate::erase::Slot;
use crate::nn::ParamBuilder;
use crate::ops::{self, DeviceChoice, Precision};
use crate::plugin::{
    AutoencoderKind, Conditioner, ConditionerKind, Dataset, EncoderKind, Objective, ObjectiveInput, Sampler,
};
use crate::recipe::{AlignmentTerm, Plan};
use crate::sample::DrawSize;
use crate::streams::Streams;

/// Everything of a run that is not trained.
#[derive(Debug)]
pub struct Assembly {
    /// Where the run happens, without autodiff.
    pub device: Device,
    /// The arithmetic of steps, encoders and sampling.
    pub precision: Precision,
    /// Where pictures come from.
    pub dataset: Arc<dyn Dataset>,
    /// From pictures to clean samples.
    pub autoencoder: Slot<AutoencoderKind>,
    /// From labels or captions to conditions, where that does not train.
    conditioner: Slot<ConditionerKind>,
    /// What the network learns to predict.
    pub objective: Box<dyn Objective>,
    /// What its tokens are aligned with.
    pub alignment: Alignment,
    /// Features that are kept, by term and encoder; empty when encoders run at every step.
    pub caches: Vec<Vec<FeatureCache>>,
    /// How samples are drawn.
    pub sampler: Box<dyn Sampler>,
    /// Further samplers of previews.
    pub also: Vec<Box<dyn Sampler>>,
    /// Pictures that are drawn together, as far as memory allows.
    pub draw_size: DrawSize,
    /// Samples that are decoded together, likewise.
    pub decode_size: DrawSize,
}

/// The loss of one micro-batch.
pub struct MicroLoss {
    /// What is differentiated, `[1]`.
    pub total: Tensor<1>,
    /// Scalars to log, `[1]` each, by tag.
    pub scalars: Vec<(String, Tensor<1>)>,
}

impl Assembly {
    /// Opens the data and builds every frozen part.
    ///
    /// # Errors
    /// The device, the data or a weight file is not there, and the message says how to get it; or the device lacks the
    /// recipe's precision.
    pub fn new(plan: &Plan) -> Result<Self> {
        let recipe = &plan.recipe;
        let device = DeviceChoice::parse(&recipe.device).and_then(ops::open).context("device")?;
        recipe.precision.check(&device)?;
        if let Some(missing) = plan.missing.first() {
            bail!("{missing}");
        }
        let dataset: Arc<dyn Dataset> = recipe.data.open(&plan.dataset_context()).context("data")?.into();
        let alignment = Alignment {
            terms: recipe.alignment.iter().map(|term| build_term(plan, term, &device)).collect::<Result<_>>()?,
            grid: plan.backbone.grid,
        };
        let autoencoder = Slot::new(recipe.autoencoder.build(&recipe.weights_dir, &device).context("autoencoder")?);
        if let Some(latents) = dataset.latents() {
            cached::check(latents.info(), plan, &autoencoder).context("data")?;
        }
        Ok(Self {
            autoencoder,
            conditioner: build_conditioner(plan, &ParamBuilder::new(&device, recipe.seed))?,
            objective: recipe.objective.build(),
            sampler: recipe.sample.sampler.build(),
            also: recipe.sample.also.iter().map(|sampler| sampler.build()).collect(),
            draw_size: DrawSize::default(),
            decode_size: DrawSize::default(),
            alignment,
            caches: vec![],
            precision: recipe.precision,
            dataset,
            device,
        })
    }

    /// The recipe's sampler, then its further ones.
    pub fn samplers(&self) -> impl Iterator<Item = &dyn Sampler> {
        std::iter::once(&*self.sampler).chain(self.also.iter().map(|sampler| &**sampler))
    }

    /// Keeps features from now on where the recipe says so; returns what the user should know.
    ///
    /// # Errors
    /// As [`CacheChoice::open`].
    pub fn keep_features(&mut self, plan: &Plan, micro_batch_size: usize, run_dir: &Path) -> Result<Vec<String>> {
        let choice = CacheChoice::new(plan, &*self.dataset);
        let (caches, notes) = choice.open(plan, &*self.dataset, &self.device, micro_batch_size, run_dir)?;
        self.caches = caches;
        Ok(notes)
    }

    fn features(
        &self,
        [term, encoder_idx]: [usize; 2],
        encoder: &Slot<EncoderKind>,
        images: &Tensor<4>,
        batch: &Batch,
    ) -> Result<Tensor<3>> {
        // Flat and back makes the values adjacent, as those of a cache are: sums over them go in the order of memory.
        let encode = || {
            let tokens = encoder.encode(images.clone())?.tokens;
            let [batch, count, channels] = tokens.dims();
            Ok(tokens.reshape([batch * count * channels]).reshape([batch, count, channels]))
        };
        match self.caches.get(term).and_then(|caches| caches.get(encoder_idx)) {
            Some(cache) => cache.features(&batch.indices, &self.device, encode),
            None => encode(),
        }
    }

    /// From labels or captions to conditions: the model's own where it trains.
    pub fn conditioner<'a>(&'a self, model: &'a TrainModel) -> &'a dyn Conditioner {
        match &model.conditioner {
            Some(trained) => &**trained,
            None => &*self.conditioner,
        }
    }

    /// The loss of one micro-batch: objective plus alignment. Design, section 6.
    ///
    /// # Errors
    /// A part refuses the batch.
    pub fn loss(&self, model: &TrainModel, batch: &Batch, streams: &Streams) -> Result<MicroLoss> {
        let images = images(batch, &self.device)?;
        let training = self.device.clone().autodiff();
        let taps = self.alignment.taps(streams.step);
        let targets = self.alignment.targets(streams.step, |at, encoder| self.features(at, encoder, &images, batch))?;
        let x0 = match self.dataset.latents() {
            Some(latents) => cached::samples(latents.info(), &self.autoencoder, batch, streams, &self.device)?,
            None => self.autoencoder.encode(images, streams),
        };
        let x0 = Tensor::from_inner(x0);
        let draws = self.objective.draw(x0.dims(), streams, &training);
        let conditioner = self.conditioner(model);
        let condition = conditioner.condition(&batch.labels, &batch.captions, &training)?;
        let null = conditioner.null(batch.labels.len(), &training);
        let input = ObjectiveInput { x0, condition, null, draws, taps: &taps };
        let output = self.objective.loss(&*model.backbone, input)?;
        let mut scalars: Vec<_> =
            output.scalars.into_iter().map(|(name, value)| (format!("train/{name}"), value)).collect();
        let aligned =
            self.alignment.loss(&model.projectors, &output.taps, targets, streams.step, |term| term.proj_coeff)?;
        for (i, loss) in aligned.by_term {
            let suffix = if i == 0 { String::new() } else { format!("_{i}") };
            scalars.push((format!("train/align_loss{suffix}"), loss));
        }
        let total = match aligned.total {
            Some(aligned) => {
                scalars.push(("train/proj_loss".into(), aligned.clone().detach()));
                output.loss + aligned
            }
            None => output.loss,
        };
        scalars.push(("train/loss".into(), total.clone().detach()));
        Ok(MicroLoss { total, scalars })
    }
}

fn build_term(plan: &Plan, term: &AlignmentTerm, device: &Device) -> Result<Term> {
    let context = plan.encoder_context();
    let encoders =
        term.encoders.iter().map(|encoder| Ok(Slot::new(encoder.build(&context, device).context("encoder")?)));
    Ok(Term {
        num_projectors: term.encoders.len(),
        encoders: encoders.collect::<Result<_>>()?,
        normalizer: term.normalizer.build(),
        loss: term.loss.build(),
        proj_coeff: term.proj_coeff,
        encoder_depth: term.encoder_depth,
        until_step: term.until_step,
    })
}
