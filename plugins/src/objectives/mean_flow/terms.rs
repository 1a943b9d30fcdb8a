//! Predictions and targets of MeanFlow.

use std::ops::Range;

use anyhow::{Result, ensure};
use realign::burn::tensor::{Bool, Tensor};
use realign::ops::{self, Jvp};
use realign::plugin::{Backbone, BackboneInput, BackboneOutput, Condition, Draws, ObjectiveInput, Times};

use super::{AlignOn, MeanFlowConfig};

/// A batch on its way: samples with r = t first, then those with an interval.
struct Batch {
    /// `[batch, channels, height, width]`, without graph.
    xt: Tensor<4>,
    /// Velocity of the path, as `xt`.
    v: Tensor<4>,
    /// `[batch]`, without graph.
    t: Tensor<1>,
    /// Of the samples with an interval, when there are any.
    r: Option<Tensor<1>>,
    condition: Condition,
    null: Condition,
    dropped: Option<Tensor<1, Bool>>,
    num_instants: usize,
}

/// Targets and predictions of a batch.
#[derive(Debug)]
pub struct MeanFlowTerms {
    /// `u(x_t, r, t)` with its graph, `[batch, channels, height, width]`.
    pub u: Tensor<4>,
    /// Guided velocity, as `u`, without graph.
    pub guided: Tensor<4>,
    /// Samples that guidance is for, `[batch]`: t inside its interval, and the condition kept.
    pub is_guided: Tensor<1, Bool>,
    /// du/dt of the samples with an interval, without graph.
    pub derivative: Option<Tensor<4>>,
    /// What `u` is compared with, as `u`, without graph.
    pub target: Tensor<4>,
    /// Velocity of the path, as `u`, without graph.
    pub v: Tensor<4>,
    /// Tokens after the wanted blocks.
    pub taps: Vec<Tensor<3>>,
}

impl MeanFlowConfig {
    /// Predictions and targets.
    ///
    /// # Errors
    /// The batch has no sample to align on, or this runs inside another derivative.
    pub fn terms(&self, backbone: &dyn Backbone, input: ObjectiveInput<'_>) -> Result<MeanFlowTerms> {
        let taps = input.taps;
        let batch = Batch::new(input);
        ensure!(
            self.align_on == AlignOn::All || batch.num_instants > 0,
            "align_on `instants` needs a sample with r = t in every micro-batch, and one of {} has none at \
             instant_share `{}`; raise train.micro_batch_size or the share",
            batch.t.dims()[0],
            self.instant_share
        );
        let instants = (batch.num_instants > 0).then(|| {
            let (x, t) = batch.at(0..batch.num_instants);
            let (x, t) = (Tensor::from_inner(x), Tensor::from_inner(t));
            let times = Times { t: t.clone(), r: Some(t) };
            backbone.forward(BackboneInput { x, times, condition: batch.conditions(0..batch.num_instants), taps })
        });
        let is_guided = self.is_guided(&batch);
        let instant_velocity = instants.as_ref().map(|output| &output.prediction);
        let guided = self.guided(backbone, &batch, is_guided.clone(), instant_velocity);
        let mut target = guided.clone();
        let (mut outputs, mut derivative) = (Vec::from_iter(instants), None);
        if let Some(r) = batch.r.clone() {
            let range = batch.intervals();
            let Jvp { value, tangent, rest } = batch.interval(backbone, r.clone(), &guided, taps)?;
            let (_, t) = batch.at(range.clone());
            let length = (t - r).clamp(0.0, 1.0).reshape([-1, 1, 1, 1]);
            let corrected = guided.clone().slice_dim(0, range) - tangent.clone() * length;
            let before = guided.clone().slice_dim(0, 0..batch.num_instants);
            target = if batch.num_instants == 0 { corrected } else { Tensor::cat(vec![before, corrected], 0) };
            derivative = Some(tangent);
            outputs.push(BackboneOutput { prediction: value, taps: rest });
        }
        let BackboneOutput { prediction, taps } = self.join(outputs);
        Ok(MeanFlowTerms { u: prediction, guided, is_guided, derivative, target, v: batch.v, taps })
    }

    /// The outputs of both groups of samples as one batch; taps of those that take part in alignment.
    fn join(&self, outputs: Vec<BackboneOutput>) -> BackboneOutput {
        let num_aligned = if self.align_on == AlignOn::Instants { 1 } else { outputs.len() };
        let aligned = &outputs[..num_aligned];
        let cat = |n: usize| aligned.iter().map(|output| output.taps[n].clone()).collect::<Vec<_>>();
        let num_taps = outputs.first().map_or(0, |output| output.taps.len());
        let taps = (0..num_taps).map(|n| Tensor::cat(cat(n), 0)).collect();
        let predictions = outputs.into_iter().map(|output| output.prediction).collect();
        BackboneOutput { prediction: Tensor::cat(predictions, 0), taps }
    }

    fn is_guided(&self, batch: &Batch) -> Tensor<1, Bool> {
        let t = batch.t.clone();
        let is_inside =
            t.clone().greater_equal_elem(self.guidance.low).bool_and(t.lower_equal_elem(self.guidance.high));
        match &batch.dropped {
            Some(dropped) => is_inside.bool_and(dropped.clone().bool_not()),
            None => is_inside,
        }
    }

    /// The velocity that takes the place of `v`. `instants` is the network's prediction for the samples with r = t,
    /// which is their conditional velocity.
    fn guided(
        &self,
        backbone: &dyn Backbone,
        batch: &Batch,
        is_guided: Tensor<1, Bool>,
        instants: Option<&Tensor<4>>,
    ) -> Tensor<4> {
        let guidance = &self.guidance;
        if guidance.is_none() {
            return batch.v.clone();
        }
        let (count, frozen) = (batch.t.dims()[0], backbone.valid_dyn());
        let velocity = |range: Range<usize>, condition: Condition| {
            let (x, t) = batch.at(range);
            let times = Times { t: t.clone(), r: Some(t) };
            frozen.forward(BackboneInput { x, times, condition, taps: &[] }).prediction
        };
        let mut sum = batch.v.clone() * guidance.omega;
        if guidance.null_weight() != 0.0 {
            sum = sum + velocity(0..count, batch.null.clone()) * guidance.null_weight();
        }
        if guidance.kappa != 0.0 {
            let mut parts = Vec::from_iter(instants.map(|prediction| prediction.clone().inner()));
            if batch.r.is_some() {
                let range = batch.intervals();
                parts.push(velocity(range.clone(), batch.conditions(range).inner()));
            }
            sum = sum + Tensor::cat(parts, 0) * guidance.kappa;
        }
        batch.v.clone().mask_where(is_guided.reshape([count, 1, 1, 1]).expand(batch.v.dims()), sum)
    }
}

impl Batch {
    fn new(input: ObjectiveInput<'_>) -> Self {
        let Draws { noise, t, r, drop } = input.draws;
        let [x0, noise] = [input.x0, noise].map(plain);
        let t = plain(t);
        let batch = t.dims()[0];
        let at = t.clone().reshape([batch, 1, 1, 1]);
        let r = r.map(plain);
        let dropped = drop.clone().map(Tensor::inner);
        Self {
            xt: x0.clone() * (at.clone().neg() + 1.0) + noise.clone() * at,
            v: noise - x0,
            num_instants: r.as_ref().map_or(batch, |r| batch - r.dims()[0]),
            r,
            t,
            condition: match drop {
                Some(drop) => input.condition.replace(drop, input.null.clone()),
                None => input.condition,
            },
            null: input.null.inner(),
            dropped,
        }
    }

    fn intervals(&self) -> Range<usize> {
        self.num_instants..self.t.dims()[0]
    }

    fn at(&self, range: Range<usize>) -> (Tensor<4>, Tensor<1>) {
        (self.xt.clone().slice_dim(0, range.clone()), self.t.clone().slice_dim(0, range))
    }

    fn conditions(&self, range: Range<usize>) -> Condition {
        self.condition.clone().slice(range)
    }

    /// `u` of the samples with an interval, its derivative along (v, 0, 1), and their taps.
    fn interval(
        &self,
        backbone: &dyn Backbone,
        r: Tensor<1>,
        guided: &Tensor<4>,
        taps: &[usize],
    ) -> Result<Jvp<4, Vec<Tensor<3>>>> {
        let range = self.intervals();
        let (x, t) = self.at(range.clone());
        let [dx, x] = [guided.clone().slice_dim(0, range.clone()), x].map(Tensor::from_inner);
        let [t, r] = [t, r].map(Tensor::from_inner);
        let (dr, dt) = (r.zeros_like(), t.ones_like());
        let condition = self.conditions(range);
        let network = |(x, r, t): (Tensor<4>, Tensor<1>, Tensor<1>)| {
            let times = Times { t, r: Some(r) };
            let output = backbone.forward(BackboneInput { x, times, condition: condition.clone(), taps });
            Ok((output.prediction, output.taps))
        };
        ops::jvp(network, (x, r, t), (dx, dr, dt))
    }
}

/// The tensor without its graph.
pub(super) fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}
