//! Mean and variance of latents, by channel.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::data::latents::LatentNorm;
use crate::weights::{HostTensor, StateDict};

/// Sums over all latents drawn from their posteriors: the expectation over the draws, not one draw of each.
///
/// Summed in f64 shard by shard, in the order of the shards, so that the result does not depend on interruptions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelSums {
    /// Values per channel.
    pub count: u64,
    /// Sum of the values of each channel.
    pub sum: Vec<f64>,
    /// Sum of their squares.
    pub squares: Vec<f64>,
}

impl ChannelSums {
    /// Nothing yet of `channels` channels.
    pub fn new(channels: usize) -> Self {
        Self { count: 0, sum: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    /// Whether something was taken in of as many channels.
    pub fn is_of(&self, channels: usize) -> bool {
        self.count > 0 && [&self.sum, &self.squares].iter().all(|sums| sums.len() == channels)
    }

    /// Takes in one example: a draw has the second moment `mean² + deviation²`.
    ///
    /// # Shapes
    /// * `moments`: `2 · channels · pixels` values, mean then deviation
    pub fn add(&mut self, moments: &[f32]) {
        let channels = self.sum.len().max(1);
        let pixels = moments.len() / (2 * channels);
        let (means, deviations) = moments.split_at(channels * pixels);
        self.count += pixels as u64;
        for (channel, (mean, deviation)) in
            means.chunks_exact(pixels.max(1)).zip(deviations.chunks_exact(pixels.max(1))).enumerate()
        {
            self.sum[channel] += mean.iter().map(|m| f64::from(*m)).sum::<f64>();
            let second = |(m, s): (&f32, &f32)| f64::from(*m).powi(2) + f64::from(*s).powi(2);
            self.squares[channel] += mean.iter().zip(deviation).map(second).sum::<f64>();
        }
    }

    /// Takes in the sums of another part.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.iter_mut().zip(&other.sum).for_each(|(sum, other)| *sum += other);
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, other)| *sum += other);
    }

    /// Mean of each channel.
    pub fn means(&self) -> Vec<f64> {
        self.sum.iter().map(|sum| sum / self.count.max(1) as f64).collect()
    }

    /// Standard deviation of each channel.
    pub fn deviations(&self) -> Vec<f64> {
        let second = self.squares.iter().map(|sum| sum / self.count.max(1) as f64);
        second.zip(self.means()).map(|(second, mean)| (second - mean * mean).max(0.0).sqrt()).collect()
    }

    /// The normalization that gives each channel mean 0 and variance 1.
    ///
    /// # Errors
    /// A channel does not vary, or holds values that are not finite.
    pub fn norm(&self) -> Result<LatentNorm> {
        let deviations = self.deviations();
        for (channel, deviation) in deviations.iter().enumerate() {
            ensure!(
                deviation.is_finite() && *deviation > 0.0,
                "channel {channel} of the latents has the deviation {deviation}; are these the autoencoder's weights?"
            );
        }
        let scale = deviations.iter().map(|deviation| (1.0 / deviation) as f32).collect();
        LatentNorm::new(scale, self.means().into_iter().map(|mean| mean as f32).collect())
    }
}

/// A normalization as files hold it: `latents_scale` and `latents_bias`, `[1, channels, 1, 1]`.
pub fn statistics_file(norm: &LatentNorm) -> StateDict {
    let tensor = |values: &[f32]| HostTensor { shape: vec![1, values.len(), 1, 1], values: values.to_vec() };
    StateDict::from([
        ("latents_scale".to_string(), tensor(norm.scale())),
        ("latents_bias".to_string(), tensor(norm.bias())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_merge_to_the_statistics_of_the_whole() {
        // Two channels of two pixels: means, then deviations.
        let examples = [[1.0, 3.0, 10.0, 10.0, 0.0, 0.0, 2.0, 2.0], [5.0, 7.0, 12.0, 12.0, 0.0, 0.0, 2.0, 2.0]];
        let mut whole = ChannelSums::new(2);
        let mut merged = ChannelSums::new(2);
        for example in examples {
            whole.add(&example);
            let mut part = ChannelSums::new(2);
            part.add(&example);
            merged.merge(&part);
        }
        assert_eq!(whole, merged);
        assert_eq!((whole.count, whole.means()), (4, vec![4.0, 11.0]));
        // Variance of 1, 3, 5, 7 is 5; that of the means 10, 10, 12, 12 is 1, and the posterior adds 4.
        let expected = [5f64.sqrt(), 5f64.sqrt()];
        assert!(whole.deviations().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!(whole.norm().unwrap().bias(), [4.0, 11.0]);
    }

    #[test]
    fn latents_that_do_not_vary_have_no_normalization() {
        let mut sums = ChannelSums::new(1);
        sums.add(&[3.0, 3.0, 0.0, 0.0]);
        assert!(sums.norm().unwrap_err().to_string().contains("channel 0"));
    }
}
