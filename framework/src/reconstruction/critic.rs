//! A discriminator with its optimizer: the adversary of an autoencoder in training.

use std::path::PathBuf;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adversarial::{LeCam, hinge_loss};
use super::discriminator::Discriminator;
use crate::nn::ParamBuilder;
use crate::recipe::Check;
use crate::train::{Gradients, Optimizer, OptimizerSettings};
use crate::weights::{HostTensor, StateDict, load_state_dict, read_weights, state_dict, to_host};

/// The discriminator of a training program, and its part in the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscriminatorSection {
    /// Weight of its judgment in the autoencoder's loss; constant, as REPA-E's.
    pub weight: f64,
    /// Factor on its judgment and on its own loss.
    pub factor: f64,
    /// First step, counted from 0, at which it judges and learns.
    pub start: u64,
    /// Channels behind its first convolution.
    pub width: usize,
    /// Convolutions that halve the picture.
    pub num_layers: usize,
    /// Weight of the LeCam regularization in its own loss.
    pub lecam_weight: f64,
    /// Share of LeCam's averages that each step keeps.
    pub lecam_decay: f64,
    /// Factor on the learning rate.
    pub rate: f64,
    /// File of its weights; drawn at random when left out.
    pub weights: Option<PathBuf>,
}

impl Default for DiscriminatorSection {
    fn default() -> Self {
        Self {
            weight: 0.1,
            factor: 1.0,
            start: 0,
            width: 64,
            num_layers: 3,
            lecam_weight: 0.0,
            lecam_decay: 0.999,
            rate: 1.0,
            weights: None,
        }
    }
}

impl DiscriminatorSection {
    /// Reports values that cannot work.
    pub fn validate(&self, check: &mut Check<'_>) {
        check.range("weight", self.weight, 0.0, 1e6);
        check.range("factor", self.factor, 0.0, 1e6);
        check.range("width", self.width, 1, 4096);
        check.range("num_layers", self.num_layers, 1, 8);
        check.range("lecam_weight", self.lecam_weight, 0.0, 1e6);
        check.range("lecam_decay", self.lecam_decay, 0.0, 1.0);
        check.range("rate", self.rate, 0.0, 1e3);
    }
}

/// The discriminator, LeCam's averages and the optimizer of both.
#[derive(Debug)]
pub struct Critic {
    /// The network.
    pub network: Discriminator,
    lecam: LeCam,
    optimizer: Optimizer,
    settings: DiscriminatorSection,
}

/// What a critic thinks of pictures and reconstructions.
#[derive(Debug)]
pub struct Judgment {
    /// Its loss, to be differentiated, `[1]`.
    pub total: Tensor<1>,
    /// Named scalars, `[1]` each, detached.
    pub scalars: Vec<(&'static str, Tensor<1>)>,
}

const LECAM: [&str; 2] = ["lecam.real", "lecam.fake"]; // beside the optimizer's moments

impl Critic {
    /// A critic that has learned nothing, or what the file of its weights holds.
    ///
    /// # Errors
    /// The file is absent or holds something else.
    pub fn new(
        settings: DiscriminatorSection,
        optimizer: OptimizerSettings,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let params = ParamBuilder::new(device, seed).child("discriminator");
        let mut network = Discriminator::new(&params, settings.width, settings.num_layers);
        if let Some(path) = &settings.weights {
            let load = || load_state_dict(network, plain_names(read_weights(path)?));
            network = load().with_context(|| format!("discriminator: `{}`", path.display()))?;
        }
        let zero = || Tensor::zeros([1], device);
        let lecam = LeCam { real: zero(), fake: zero(), decay: settings.lecam_decay };
        Ok(Self { optimizer: Optimizer::new(&network, optimizer), network, lecam, settings })
    }

    /// Whether it judges and learns at this step.
    pub fn is_active(&self, step: u64) -> bool {
        step >= self.settings.start && self.settings.factor > 0.0
    }

    /// Its loss by the statistics of each batch, the real one first; both move the running ones.
    ///
    /// # Shapes
    /// * `real`, `fake`: `[batch, 3, height, width]` in [-1, 1], without graph
    pub fn judge(&mut self, real: Tensor<4>, fake: Tensor<4>) -> Judgment {
        let (real, fake) = (self.network.forward_train(real), self.network.forward_train(fake));
        let mut total = hinge_loss(real.clone(), fake.clone()) * self.settings.factor;
        let mut lecam = total.zeros_like().detach();
        if self.settings.lecam_weight > 0.0 {
            let loss = self.lecam.loss(real.clone(), fake.clone()) * self.settings.lecam_weight;
            self.lecam.update(real.clone(), fake.clone());
            lecam = loss.clone().detach();
            total = total + loss;
        }
        let scalars = vec![
            ("d_loss", total.clone().detach()),
            ("logits_real", real.mean().detach()),
            ("logits_fake", fake.mean().detach()),
            ("lecam_loss", lecam),
        ];
        Judgment { total, scalars }
    }

    /// Learns to tell pictures from reconstructions. Returns named scalars, `[1]` each.
    ///
    /// # Shapes
    /// As [`judge`](Self::judge).
    pub fn learn(&mut self, real: Tensor<4>, fake: Tensor<4>, learning_rate: f64) -> Vec<(&'static str, Tensor<1>)> {
        let Judgment { total, mut scalars } = self.judge(real, fake);
        let gradients = Gradients::of_loss(&self.network, total);
        let norm = self.optimizer.step(&mut self.network, gradients, learning_rate * self.settings.rate);
        scalars.push(("grad_norm_disc", norm));
        scalars
    }

    /// The network, and the optimizer's moments with LeCam's averages.
    pub fn state_dicts(&self) -> [StateDict; 2] {
        let mut optimizer = self.optimizer.counted_state_dict();
        for (name, average) in LECAM.into_iter().zip([&self.lecam.real, &self.lecam.fake]) {
            optimizer.insert(name.into(), HostTensor { shape: vec![1], values: to_host(average.clone()) });
        }
        [state_dict(&self.network), optimizer]
    }

    /// Takes what [`state_dicts`](Self::state_dicts) returned.
    ///
    /// # Errors
    /// A tensor is missing or does not fit.
    pub fn load_state_dicts(&mut self, [network, mut optimizer]: [StateDict; 2]) -> Result<()> {
        for (name, average) in LECAM.into_iter().zip([&mut self.lecam.real, &mut self.lecam.fake]) {
            let saved = optimizer.remove(name).filter(|saved| saved.values.len() == 1);
            let saved = saved.with_context(|| format!("`{name}` is missing or no single value"))?;
            *average = Tensor::from_data(TensorData::new(saved.values, [1]), &average.device());
        }
        self.network = load_state_dict(self.network.clone(), network)?;
        self.optimizer.load_counted_state_dict(optimizer)
    }
}

/// Published names without the wrapper of parallel training and PyTorch's counts of batches.
fn plain_names(dict: StateDict) -> StateDict {
    let plain = |name: String| name.strip_prefix("module.").map(String::from).unwrap_or(name);
    let named = dict.into_iter().map(|(name, tensor)| (plain(name), tensor));
    named.filter(|(name, _)| !name.ends_with(".num_batches_tracked")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Decayed;
    use burn::tensor::Distribution;

    fn critic(settings: DiscriminatorSection, device: &Device) -> Critic {
        let betas = [0.9, 0.999];
        let optimizer =
            OptimizerSettings { betas, eps: 1e-8, weight_decay: 0.0, decayed: Decayed::All, max_grad_norm: None };
        Critic::new(settings, optimizer, 3, device).unwrap()
    }

    fn pictures(device: &Device) -> Tensor<4> {
        Tensor::random([3, 3, 16, 18], Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn it_learns_and_its_state_comes_back() {
        let device = Device::flex().autodiff();
        let settings = DiscriminatorSection { width: 2, num_layers: 1, lecam_weight: 0.1, ..Default::default() };
        let mut first = critic(settings.clone(), &device);
        let (real, fake) = (pictures(&device), pictures(&device));
        let losses: Vec<f32> =
            (0..20).map(|_| to_host(first.learn(real.clone(), fake.clone(), 1e-2)[0].1.clone())[0]).collect();
        assert!(losses[19] < losses[0], "{losses:?}");
        let mut second = critic(settings, &device);
        second.load_state_dicts(first.state_dicts()).unwrap();
        assert_eq!(first.state_dicts(), second.state_dicts());
        let [a, b] = [&mut first, &mut second].map(|critic| critic.learn(real.clone(), fake.clone(), 1e-2));
        assert!(a.into_iter().zip(b).all(|((_, a), (_, b))| to_host(a) == to_host(b)));
        assert_eq!(first.state_dicts(), second.state_dicts());
    }

    #[test]
    fn it_waits_for_its_first_step() {
        let critic = critic(
            DiscriminatorSection { start: 5, width: 2, num_layers: 1, ..Default::default() },
            &Device::flex().autodiff(),
        );
        assert_eq!([4, 5].map(|step| critic.is_active(step)), [false, true]);
    }
}
