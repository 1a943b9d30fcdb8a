//! The losses of one step, and which network each gradient reaches.
//!
//! | loss | autoencoder | network up to the aligned block, projectors | blocks behind | statistics of latents |
//! | --- | --- | --- | --- | --- |
//! | reconstruction, divergence, discriminator | yes | | | |
//! | alignment, of the autoencoder | its encoder | through, frozen | | used |
//! | objective | stopped | yes | yes | moved |
//! | alignment, of the network | stopped | yes | | moved |

use anyhow::{Context, Result};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor, TensorData};
use realign::data::latents::LatentNorm;
use realign::erase::Slot;
use realign::nn::{BatchNorm2d, ParamBuilder};
use realign::plugin::{
    AutoencoderKind, BackboneKind, Condition, ConditionerKind, Draws, Objective, ObjectiveInput, ProjectorKind,
    TapsOnly,
};
use realign::reconstruction::{Reconstruction, ReconstructionLoss};
use realign::train::{Alignment, TrainModel};
use realign::weights::to_host;

const EPS: f64 = 1e-4; // of the norm of latents, as the reference

/// The diffusion model with the norm of its latents. Parameters have the names of REPA-E's checkpoints.
#[derive(Module, Debug)]
pub struct LatentModel {
    /// The network.
    pub backbone: Slot<BackboneKind>,
    /// One projector for each encoder of each alignment term.
    pub projectors: Vec<Slot<ProjectorKind>>,
    /// The conditioner, where it trains with the network.
    pub conditioner: Option<Slot<ConditionerKind>>,
    /// Normalizes latents; without parameters, so that scale cannot buy a lower loss.
    pub bn: BatchNorm2d,
}

impl LatentModel {
    /// The norm begins with the statistics that `norm` knows: mean `bias` and variance `scale⁻²`.
    pub fn new(model: TrainModel, norm: &LatentNorm, momentum: f64, device: &Device) -> Self {
        let TrainModel { backbone, projectors, conditioner } = model;
        let channels = norm.scale().len();
        let mut bn = BatchNorm2d::new(&ParamBuilder::new(device, 0), channels, None, EPS, momentum);
        let values = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [channels]), device);
        let variance = norm.scale().iter().map(|scale| scale.powi(-2)).collect();
        bn.running_mean = bn.running_mean.map(|_| values(norm.bias().to_vec()));
        bn.running_var = bn.running_var.map(|_| values(variance));
        Self { backbone, projectors, conditioner, bn }
    }

    /// The normalization that a stand-alone autoencoder gets: the running statistics, without eps as the reference.
    ///
    /// # Errors
    /// A channel does not vary.
    pub fn norm(&self) -> Result<LatentNorm> {
        let variance = to_host(self.bn.running_var.val());
        let scale = variance.into_iter().map(|variance| variance.sqrt().recip()).collect();
        LatentNorm::new(scale, to_host(self.bn.running_mean.val()))
    }

    /// Network and projectors, for whoever samples.
    pub fn train_model(&self) -> TrainModel {
        TrainModel {
            backbone: self.backbone.clone(),
            projectors: self.projectors.clone(),
            conditioner: self.conditioner.clone(),
        }
    }
}

/// Everything that has a loss, and what the losses need.
#[derive(Debug)]
pub struct Networks {
    /// The diffusion model.
    pub model: LatentModel,
    /// The autoencoder.
    pub vae: Slot<AutoencoderKind>,
    /// What it is trained with beside alignment.
    pub loss: ReconstructionLoss,
    /// Weight of each alignment term in the autoencoder's loss.
    pub vae_align_proj_coeff: f64,
}

/// What both passes through the diffusion model share.
#[derive(Debug)]
pub struct TrainingBatch {
    /// What the samples shall show.
    pub condition: Condition,
    /// The null condition, as many times.
    pub null: Condition,
    /// Noise, times, and which conditions are dropped when the network learns.
    pub draws: Draws,
    /// Normalized features by term and encoder.
    pub targets: Vec<Vec<Tensor<3>>>,
}

/// The autoencoder's loss.
#[derive(Debug)]
pub struct VaeLoss {
    /// To be differentiated, `[1]`.
    pub total: Tensor<1>,
    /// Named scalars, `[1]` each, detached.
    pub scalars: Vec<(&'static str, Tensor<1>)>,
}

/// The network's loss.
#[derive(Debug)]
pub struct DiffusionLoss {
    /// To be differentiated, `[1]`.
    pub total: Tensor<1>,
    /// Named scalars, `[1]` each, detached.
    pub scalars: Vec<(String, Tensor<1>)>,
}

impl Networks {
    /// What the autoencoder pays: reconstruction, and alignment of its latents through the frozen network.
    ///
    /// The network is in eval mode: no condition is dropped, and latents are normalized by running statistics.
    ///
    /// # Errors
    /// A part refuses the batch.
    pub fn vae_loss(
        &mut self,
        objective: &dyn Objective,
        alignment: &Alignment,
        pictures: &Reconstruction,
        batch: &TrainingBatch,
        step: u64,
    ) -> Result<VaeLoss> {
        let terms = self.loss.terms(pictures, step);
        let mut scalars = terms.scalars;
        let taps = alignment.taps(step);
        let frozen = TapsOnly { backbone: self.model.backbone.clone().no_grad() };
        let input = ObjectiveInput {
            x0: self.model.bn.forward_eval(pictures.latents.clone()),
            condition: batch.condition.clone().detach(),
            null: batch.null.clone().detach(),
            draws: Draws { drop: None, ..batch.draws.clone() },
            taps: &taps,
        };
        let tokens = objective.loss(&frozen, input)?.taps;
        let projectors = self.model.projectors.clone().no_grad();
        let weight = self.vae_align_proj_coeff;
        let aligned = alignment.loss(&projectors, &tokens, batch.targets.clone(), step, |_| weight)?;
        let total = match aligned.total {
            Some(aligned) => {
                scalars.push(("vae_align_loss", aligned.clone().detach()));
                terms.total + aligned
            }
            None => terms.total,
        };
        scalars.push(("vae_loss", total.clone().detach()));
        Ok(VaeLoss { total, scalars })
    }

    /// What the network pays on latents without graph, in train mode: conditions are dropped, latents are normalized by
    /// the batch's statistics, and the running ones move.
    ///
    /// # Errors
    /// A part refuses the batch.
    pub fn diffusion_loss(
        &mut self,
        objective: &dyn Objective,
        alignment: &Alignment,
        latents: &Tensor<4>,
        batch: TrainingBatch,
        step: u64,
    ) -> Result<DiffusionLoss> {
        let taps = alignment.taps(step);
        let x0 = self.model.bn.forward_train(latents.clone().detach());
        let TrainingBatch { condition, null, draws, targets } = batch;
        let output =
            objective.loss(&*self.model.backbone, ObjectiveInput { x0, condition, null, draws, taps: &taps })?;
        let named = output.scalars.into_iter().map(|(name, value)| (name.to_string(), value));
        let mut scalars: Vec<(String, Tensor<1>)> = named.collect();
        let aligned = alignment.loss(&self.model.projectors, &output.taps, targets, step, |term| term.proj_coeff)?;
        for (i, loss) in aligned.by_term {
            let suffix = if i == 0 { String::new() } else { format!("_{i}") };
            scalars.push((format!("align_loss{suffix}"), loss));
        }
        let total = match aligned.total {
            Some(aligned) => {
                scalars.push(("proj_loss".into(), aligned.clone().detach()));
                output.loss + aligned
            }
            None => output.loss,
        };
        scalars.push(("loss".into(), total.clone().detach()));
        Ok(DiffusionLoss { total, scalars })
    }

    /// The autoencoder with the normalization of its latents that `model` knows, without autodiff.
    ///
    /// # Errors
    /// A channel of the latents does not vary.
    pub fn autoencoder(&self, model: &LatentModel) -> Result<Slot<AutoencoderKind>> {
        let variational = self.vae.variational().context("the autoencoder has no posterior")?;
        let renormalized: Slot<AutoencoderKind> = Slot::new(variational.renormalized(model.norm()?));
        Ok(renormalized.valid())
    }
}
