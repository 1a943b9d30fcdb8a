//! A plan's parts, built for a device.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor};

use super::alignment::{Alignment, Term};
use super::cached;
use super::model::TrainModel;
use super::pictures::images;
use crate::data::loader::Batch;
use crate::erase::Slot;
use crate::ops::{self, DeviceChoice};
use crate::plugin::{
    AutoencoderKind, ConditionerContext, ConditionerKind, Dataset, Objective, ObjectiveInput, Sampler,
};
use crate::recipe::{AlignmentTerm, Plan};
use crate::streams::Streams;

/// Everything of a run that is not trained.
#[derive(Debug)]
pub struct Assembly {
    /// Where the run happens, without autodiff.
    pub device: Device,
    /// Where pictures come from.
    pub dataset: Arc<dyn Dataset>,
    /// From pictures to clean samples.
    pub autoencoder: Slot<AutoencoderKind>,
    /// From labels to conditions.
    pub conditioner: Slot<ConditionerKind>,
    /// What the network learns to predict.
    pub objective: Box<dyn Objective>,
    /// What its tokens are aligned with.
    pub alignment: Alignment,
    /// How samples are drawn.
    pub sampler: Box<dyn Sampler>,
    /// Further samplers of previews.
    pub also: Vec<Box<dyn Sampler>>,
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
    /// The device, the data or a weight file is not there; the message says how to get it.
    pub fn new(plan: &Plan) -> Result<Self> {
        let recipe = &plan.recipe;
        let device = DeviceChoice::parse(&recipe.device).and_then(ops::open).context("device")?;
        if let Some(missing) = plan.missing.first() {
            bail!("{missing}");
        }
        let dataset: Arc<dyn Dataset> = recipe.data.open(&plan.dataset_context()).context("data")?.into();
        let context = ConditionerContext { num_classes: dataset.num_classes(), device: device.clone() };
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
            conditioner: Slot::new(recipe.conditioner.build(&context).context("conditioner")?),
            objective: recipe.objective.build(),
            sampler: recipe.sample.sampler.build(),
            also: recipe.sample.also.iter().map(|sampler| sampler.build()).collect(),
            alignment,
            dataset,
            device,
        })
    }

    /// The recipe's sampler, then its further ones.
    pub fn samplers(&self) -> impl Iterator<Item = &dyn Sampler> {
        std::iter::once(&*self.sampler).chain(self.also.iter().map(|sampler| &**sampler))
    }

    /// The loss of one micro-batch: objective plus alignment. Design, section 6.
    ///
    /// # Errors
    /// A part refuses the batch.
    pub fn loss(&self, model: &TrainModel, batch: &Batch, streams: &Streams) -> Result<MicroLoss> {
        let images = images(batch, &self.device)?;
        let training = self.device.clone().autodiff();
        let taps = self.alignment.taps(streams.step);
        let targets = self.alignment.targets(&images, streams.step)?;
        let x0 = match self.dataset.latents() {
            Some(latents) => cached::samples(latents.info(), &self.autoencoder, batch, streams, &self.device)?,
            None => self.autoencoder.encode(images, streams),
        };
        let x0 = Tensor::from_inner(x0);
        let draws = self.objective.draw(x0.dims(), streams, &training);
        let condition = self.conditioner.condition(&batch.labels, &batch.captions, &training)?;
        let null = self.conditioner.null(batch.labels.len(), &training);
        let input = ObjectiveInput { x0, condition, null, draws, taps: &taps };
        let output = self.objective.loss(&*model.backbone, input)?;
        let mut scalars: Vec<_> =
            output.scalars.into_iter().map(|(name, value)| (format!("train/{name}"), value)).collect();
        let aligned = self.alignment.loss(&model.projectors, &output.taps, targets, streams.step, |term| term.proj_coeff)?;
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
