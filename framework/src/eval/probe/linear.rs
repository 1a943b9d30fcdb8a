//! Linear probing: a normalization and a linear classifier on frozen features.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use rand::RngExt;
use rand_distr::StandardNormal;

use super::features::ProbeFeatures;
use super::lars::{Lars, LarsState};
use crate::streams::Streams;
use crate::weights::to_host;

const NORM_EPS: f64 = 1e-5; // PyTorch's default
const NORM_MOMENTUM: f64 = 0.1; // PyTorch's default
const EVALUATED_AT_ONCE: usize = 8192;

/// Settings: MAE's protocol for linear probing, with REPA's classifier, a normalization with affine and a linear layer
/// on mean patch tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearProbe {
    /// Passes over the data; MAE has 90, and 50 for its larger networks.
    pub epochs: u64,
    /// Epochs over which the learning rate rises from 0.
    pub warmup_epochs: u64,
    /// Pictures of one step; at most all there are.
    pub batch_size: usize,
    /// Learning rate of 256 pictures; it grows with the batch.
    pub base_learning_rate: f64,
    /// The optimizer.
    pub lars: Lars,
    /// Seed of weights and order.
    pub seed: u64,
}

impl Default for LinearProbe {
    fn default() -> Self {
        Self {
            epochs: 90,
            warmup_epochs: 10,
            batch_size: 16_384,
            base_learning_rate: 0.1,
            lars: Lars::default(),
            seed: 0,
        }
    }
}

impl LinearProbe {
    /// For `count` features that are encoded once and kept: small batches, ten an epoch at least, and plain momentum.
    pub fn cached(count: usize) -> Self {
        let lars = Lars { trust: None, ..Lars::default() };
        Self { batch_size: (count / 10).clamp(1, 256), lars, ..Self::default() }
    }

    /// Learning rate at a fraction of an epoch: linear warm-up from 0, then half a cosine to 0.
    fn learning_rate(&self, epoch: f64, batch_size: usize) -> f64 {
        let peak = self.base_learning_rate * batch_size as f64 / 256.0;
        let warmup = self.warmup_epochs as f64;
        if epoch < warmup {
            return peak * epoch / warmup;
        }
        let share = (epoch - warmup) / (self.epochs as f64 - warmup).max(1.0);
        peak * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
    }
}

/// What a probe found; accuracies are shares in 0..1.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReport {
    /// Best accuracy over the epochs on pictures it was not trained on: the number that papers quote.
    pub best_val_acc: f64,
    /// Accuracy after the last epoch.
    pub last_val_acc: f64,
}

/// Trains a probe; `train` gives the features of an epoch, the same ones or those of new crops.
///
/// # Errors
/// `train` fails, features are absent or of different widths, or a label is out of range.
pub fn linear_probe(
    settings: LinearProbe,
    num_classes: usize,
    val: &ProbeFeatures,
    device: &Device,
    mut train: impl FnMut(u64) -> Result<std::sync::Arc<ProbeFeatures>>,
) -> Result<ProbeReport> {
    ensure!(settings.epochs > 0 && num_classes > 0, "a probe needs epochs and classes");
    let channels = val.channels();
    let mut head = Head::new(channels, num_classes, settings.seed, device);
    let mut report = ProbeReport { best_val_acc: 0.0, last_val_acc: 0.0 };
    for epoch in 0..settings.epochs {
        let features = train(epoch)?;
        let count = features.labels.len();
        ensure!(count > 0 && !val.labels.is_empty(), "a probe needs pictures to train on and others to be judged on");
        ensure!(features.channels() == channels, "features have {} and {channels} channels", features.channels());
        let largest = features.labels.iter().chain(&val.labels).max().copied().unwrap_or(0);
        ensure!(largest < num_classes, "label {largest} of {num_classes} classes");
        let batch_size = settings.batch_size.clamp(1, count);
        let order = shuffled(count, &Streams::new(settings.seed).at(epoch, 0));
        let batches = order.chunks_exact(batch_size); // the last, smaller one is left out, as in MAE
        let num_batches = batches.len() as f64;
        for (i, batch) in batches.enumerate() {
            let rate = settings.learning_rate(epoch as f64 + i as f64 / num_batches, batch_size);
            head.step(&features, batch, settings.lars, rate, device)?;
        }
        report.last_val_acc = head.accuracy(val, device);
        report.best_val_acc = report.best_val_acc.max(report.last_val_acc);
    }
    Ok(report)
}

// Places of the parameters in the head's list; all have two axes, vectors one row.
const GAIN: usize = 0;
const SHIFT: usize = 1;
const WEIGHT: usize = 2;
const BIAS: usize = 3;

struct Head {
    params: Vec<Tensor<2>>,
    running: Option<[Tensor<2>; 2]>, // mean and variance, [1, channels]
    state: LarsState,
}

impl Head {
    fn new(channels: usize, num_classes: usize, seed: u64, device: &Device) -> Self {
        let mut stream = Streams::new(seed).stream("probe.weight");
        // Truncated at two units, not two deviations, as timm's `trunc_normal_(std=0.01)`: nothing is ever cut.
        let values: Vec<f32> =
            (0..num_classes * channels).map(|_| 0.01 * stream.sample::<f32, _>(StandardNormal)).collect();
        let row = |value: f64, width: usize| Tensor::<2>::full([1, width], value, device);
        let weight = Tensor::from_data(TensorData::new(values, [num_classes, channels]), device);
        Self {
            params: vec![row(1.0, channels), row(0.0, channels), weight, row(0.0, num_classes)],
            running: None,
            state: LarsState::default(),
        }
    }

    fn step(&mut self, data: &ProbeFeatures, batch: &[usize], lars: Lars, rate: f64, device: &Device) -> Result<()> {
        let (count, channels) = (batch.len(), data.channels());
        let rows = batch.iter().flat_map(|&idx| &data.mean[idx * channels..(idx + 1) * channels]);
        let x = Tensor::<2>::from_data(TensorData::new(rows.copied().collect::<Vec<f32>>(), [count, channels]), device);
        let mean = x.clone().mean_dim(0);
        let variance = (x.clone() - mean.clone()).square().mean_dim(0);
        let unbiased = variance.clone() * (count as f64 / count.saturating_sub(1).max(1) as f64);
        let seen = [mean.clone(), unbiased];
        // PyTorch starts at mean 0 and variance 1; where an epoch has few steps, tiny features would vanish in that.
        self.running = Some(match self.running.take() {
            None => seen,
            Some(known) => {
                let [mean, variance] =
                    [0, 1].map(|i| known[i].clone() * (1.0 - NORM_MOMENTUM) + seen[i].clone() * NORM_MOMENTUM);
                [mean, variance]
            }
        });
        let normalized = Tensor::from_inner((x - mean) / (variance + NORM_EPS).sqrt());
        let labels: Vec<i64> = batch.iter().map(|&idx| data.labels[idx] as i64).collect();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [count]), &device.clone().autodiff());
        let params: Vec<Tensor<2>> =
            self.params.iter().map(|param| Tensor::from_inner(param.clone()).require_grad()).collect();
        let scores = scores(normalized, &params);
        let loss = log_softmax(scores, 1).gather(1, labels.unsqueeze_dim(1)).mean().neg();
        let gradients = loss.backward();
        let gradients: Option<Vec<_>> = params.iter().map(|param| param.grad(&gradients)).collect();
        self.state.update(&mut self.params, gradients.context("a parameter has no gradient")?, lars, rate);
        Ok(())
    }

    fn accuracy(&self, data: &ProbeFeatures, device: &Device) -> f64 {
        let channels = data.channels();
        let Some([mean, variance]) = self.running.clone() else { return 0.0 };
        let mut right = 0;
        for (rows, labels) in data.mean.chunks(EVALUATED_AT_ONCE * channels).zip(data.labels.chunks(EVALUATED_AT_ONCE))
        {
            let x = Tensor::<2>::from_data(TensorData::new(rows.to_vec(), [labels.len(), channels]), device);
            let normalized = (x - mean.clone()) / (variance.clone() + NORM_EPS).sqrt();
            let scores = to_host(scores(normalized, &self.params));
            let best = |row: &[f32]| (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]));
            let guesses = scores.chunks_exact(scores.len() / labels.len()).map(best);
            right += guesses.zip(labels).filter(|(guess, label)| *guess == Some(**label)).count();
        }
        right as f64 / data.labels.len() as f64
    }
}

/// # Shapes
/// * `normalized`: `[batch, channels]`; result: `[batch, classes]`
fn scores(normalized: Tensor<2>, params: &[Tensor<2>]) -> Tensor<2> {
    let x = normalized * params[GAIN].clone() + params[SHIFT].clone();
    x.matmul(params[WEIGHT].clone().transpose()) + params[BIAS].clone()
}

fn shuffled(count: usize, streams: &Streams) -> Vec<usize> {
    let mut stream = streams.stream("probe_order");
    let mut order: Vec<usize> = (0..count).collect();
    for left in (1..count).rev() {
        order.swap(left, stream.random_range(0..=left));
    }
    order
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Classes along the axes, with noise and very different scales.
    fn features(count: usize, name: &str) -> ProbeFeatures {
        let noise = Streams::new(2).normal(name, count * 5);
        let value = |i: usize| {
            let (row, channel) = (i / 5, i % 5);
            (f32::from(u8::from(row % 3 == channel)) + 0.2 * noise[i]) * [1e-3, 1.0, 70.0, 3.0, 1.0][channel] + 5.0
        };
        ProbeFeatures {
            mean: (0..count * 5).map(value).collect(),
            class_token: None,
            labels: (0..count).map(|row| row % 3).collect(),
        }
    }

    #[test]
    fn classes_that_a_line_divides_are_learned_in_both_modes() {
        let (train, val) = (Arc::new(features(600, "train")), features(150, "val"));
        for (settings, expected) in [
            (LinearProbe { epochs: 30, warmup_epochs: 3, ..LinearProbe::cached(600) }, 0.97),
            (LinearProbe { base_learning_rate: 3.0, ..LinearProbe::default() }, 0.97),
        ] {
            let report = linear_probe(settings, 3, &val, &Device::flex(), |_| Ok(train.clone())).unwrap();
            assert!(report.best_val_acc > expected, "{report:?}");
            assert!(report.best_val_acc >= report.last_val_acc);
        }
    }

    #[test]
    fn labels_without_a_class_and_empty_data_are_refused() {
        let val = features(6, "val");
        let empty = || Ok(Arc::new(ProbeFeatures::default()));
        let settings = LinearProbe { epochs: 1, ..LinearProbe::default() };
        assert!(linear_probe(settings, 3, &val, &Device::flex(), |_| empty()).is_err());
        let same = Arc::new(val.clone());
        let problem = linear_probe(settings, 2, &val, &Device::flex(), |_| Ok(same.clone())).unwrap_err();
        assert!(problem.to_string().contains("label 2 of 2 classes"));
    }

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        let rate = |epoch| LinearProbe::default().learning_rate(epoch, 16_384);
        for (epoch, expected) in [(0.0, 0.0), (5.0, 3.2), (10.0, 6.4), (50.0, 3.2), (90.0, 0.0)] {
            assert!((rate(epoch) - expected).abs() < 1e-12, "{epoch}");
        }
    }
}
