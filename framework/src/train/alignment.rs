//! Alignment of backbone tokens with encoder features.

use anyhow::{Result, ensure};
use burn::tensor::Tensor;

use crate::erase::Slot;
use crate::plugin::{AlignmentLoss, EncoderKind, Normalizer, PatchGrid, ProjectorKind};

/// What the terms of one batch come to.
#[derive(Debug, Default)]
pub struct AlignmentLosses {
    /// The weighted sum, `[1]`; none when no term counts.
    pub total: Option<Tensor<1>>,
    /// Each counting term's index and unweighted loss, `[1]`, detached.
    pub by_term: Vec<(usize, Tensor<1>)>,
}

/// All alignment terms of a run.
#[derive(Debug)]
pub struct Alignment {
    /// The terms, in the recipe's order.
    pub terms: Vec<Term>,
    /// Grid of the backbone's tokens.
    pub grid: PatchGrid,
}

/// One term.
#[derive(Debug)]
pub struct Term {
    /// Frozen encoders, one for each projector; none where somebody else supplies the features.
    pub encoders: Vec<Slot<EncoderKind>>,
    /// Projectors of this term: the next that many of the model's.
    pub num_projectors: usize,
    /// What happens to their features first.
    pub normalizer: Box<dyn Normalizer>,
    /// Distance of features and projected tokens.
    pub loss: Box<dyn AlignmentLoss>,
    /// Weight of the term.
    pub proj_coeff: f64,
    /// The aligned block, counted from 1.
    pub encoder_depth: usize,
    /// The term is left out from this step on.
    pub until_step: Option<u64>,
}

impl Term {
    /// Whether the term counts at this optimizer step.
    pub fn is_active(&self, step: u64) -> bool {
        self.until_step.is_none_or(|until| step < until)
    }
}

impl Alignment {
    /// Blocks to tap at this step, ascending and without repetition.
    pub fn taps(&self, step: u64) -> Vec<usize> {
        let active = self.terms.iter().filter(|term| term.is_active(step));
        let mut taps: Vec<usize> = active.map(|term| term.encoder_depth).collect();
        taps.sort_unstable();
        taps.dedup();
        taps
    }

    /// Normalized features by term and encoder; empty for a term that does not count at this step.
    ///
    /// `features` makes those of term and encoder, by index, `[batch, tokens, channels]` without graph.
    ///
    /// # Errors
    /// Those of `features`.
    pub fn targets(
        &self,
        step: u64,
        features: impl Fn([usize; 2], &Slot<EncoderKind>) -> Result<Tensor<3>>,
    ) -> Result<Vec<Vec<Tensor<3>>>> {
        let of_term = |(i, term): (usize, &Term)| {
            let encoders = if term.is_active(step) { &term.encoders[..] } else { &[] };
            let of_encoder = |(k, encoder)| Ok(term.normalizer.normalize(features([i, k], encoder)?, self.grid));
            encoders.iter().enumerate().map(of_encoder).collect::<Result<Vec<_>>>()
        };
        self.terms.iter().enumerate().map(of_term).collect()
    }

    /// The sum of all terms, each times what `weight` says of it, and each term's raw loss.
    ///
    /// # Shapes
    /// * `projectors`: those of all terms, in order
    /// * `targets`: as [`targets`](Self::targets) returns them
    /// * `taps`: tokens after the blocks of [`taps`](Self::taps), of all samples or of the first ones
    ///
    /// # Errors
    /// Projected tokens and features have different shapes.
    pub fn loss(
        &self,
        projectors: &[Slot<ProjectorKind>],
        taps: &[Tensor<3>],
        targets: Vec<Vec<Tensor<3>>>,
        step: u64,
        weight: impl Fn(&Term) -> f64,
    ) -> Result<AlignmentLosses> {
        let depths = self.taps(step);
        let (mut losses, mut projector) = (AlignmentLosses::default(), 0);
        for (i, (term, targets)) in self.terms.iter().zip(targets).enumerate() {
            let (first, count) = (projector, targets.len());
            projector += term.num_projectors;
            let Some(tap) = depths.iter().position(|depth| *depth == term.encoder_depth).and_then(|at| taps.get(at))
            else {
                continue;
            };
            let [num_aligned, ..] = tap.dims();
            let mut sum = None;
            for (target, projector) in targets.into_iter().zip(&projectors[first..]) {
                let projected = projector.forward(tap.clone(), self.grid);
                let [batch, ..] = target.dims();
                let target = if num_aligned < batch { target.narrow(0, 0, num_aligned) } else { target };
                ensure!(
                    projected.dims() == target.dims(),
                    "alignment term {i}: projected tokens are {:?} and features {:?}",
                    projected.dims(),
                    target.dims()
                );
                let target = if target.is_autodiff() { target } else { Tensor::from_inner(target) };
                let loss = term.loss.loss(target, projected, tap.clone());
                sum = Some(sum.map_or(loss.clone(), |sum: Tensor<1>| sum + loss));
            }
            let Some(sum) = sum else { continue };
            let mean = sum / count as f64;
            losses.by_term.push((i, mean.clone().detach()));
            let weighted = mean * weight(term);
            losses.total = Some(losses.total.map_or(weighted.clone(), |total| total + weighted));
        }
        Ok(losses)
    }
}
