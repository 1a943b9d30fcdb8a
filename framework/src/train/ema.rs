//! Exponential moving averages of the weights.

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Tensor;

use super::flat::{flat_parameters, with_flat};
use super::model::TrainModel;
use crate::ops::{self, Phase};
use crate::recipe::{EmaSection, EmaWarmup};
use crate::weights::{StateDict, load_state_dict, state_dict};

/// A moving average over all parameters, frozen ones included, as the reference keeps it.
#[derive(Debug)]
pub struct Ema<M = TrainModel> {
    /// Name and decay.
    pub settings: EmaSection,
    model: M,
    flat: Vec<Tensor<1>>,
}

impl<M: Module> Ema<M> {
    /// An average that starts as a copy of the model.
    ///
    /// # Errors
    /// Never for a model that can be copied to the host.
    pub fn new(model: &M, settings: EmaSection) -> Result<Self> {
        // Through the host: a module's clone shares memory with the weights that training writes in place.
        Self::from_state_dict(model, settings, state_dict(model))
    }

    /// An average that was saved.
    ///
    /// # Errors
    /// The tensors do not fit the model.
    pub fn from_state_dict(model: &M, settings: EmaSection, dict: StateDict) -> Result<Self> {
        let model = load_state_dict(model.valid(), dict)?;
        let (_, flat) = flat_parameters(&model, false);
        Ok(Self { settings, model, flat })
    }

    /// The averaged weights, without autodiff.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Takes in the weights after optimizer step `step`, counted from 0.
    pub fn update(&mut self, model: &M, step: u64) {
        let (_, new) = flat_parameters(model, false);
        let weight = 1.0 - decay_at(&self.settings, step);
        ops::in_phase(Phase::Update, || ops::lerp(&mut self.flat, &new, weight));
        let is_in_place = self.flat.first().is_none_or(|first| ops::on_libtorch(&first.device()));
        if !is_in_place {
            self.model = with_flat(self.model.clone(), &self.flat, false);
        }
    }
}

fn decay_at(settings: &EmaSection, step: u64) -> f64 {
    match settings.warmup {
        EmaWarmup::None => settings.decay,
        EmaWarmup::ShortHorizon => settings.decay.min((1.0 - 5.0 / (step + 1) as f64).max(0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_horizon_starts_at_the_weights_and_ends_at_the_decay() {
        let settings = EmaSection { name: "ema".into(), decay: 0.99, warmup: EmaWarmup::ShortHorizon };
        assert_eq!(decay_at(&settings, 0), 0.0);
        assert_eq!(decay_at(&settings, 9), 0.5);
        assert_eq!(decay_at(&settings, 10_000), 0.99);
    }
}
