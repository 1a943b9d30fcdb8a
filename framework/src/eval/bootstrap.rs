//! How far a mean over images can be trusted: the bootstrap.

use rand::RngExt;

use super::spatial::mean_of_numbers;
use crate::streams::Streams;

/// A mean and the interval in which 95 % of its resampled values lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Mean over the images.
    pub mean: f64,
    /// 2.5 % of the resampled means are below.
    pub low: f64,
    /// 2.5 % of the resampled means are above.
    pub high: f64,
}

/// The same draws of images for everything that was measured on them, so that encoders can be compared in pairs.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    num_images: usize,
    draws: Vec<Vec<usize>>,
}

impl Bootstrap {
    /// `num_draws` draws of `num_images` images with replacement; the same seed gives the same ones.
    pub fn new(num_images: usize, num_draws: usize, seed: u64) -> Self {
        let draw = |i: usize| {
            let mut stream = Streams::new(seed).at(i as u64, 0).stream("bootstrap");
            (0..num_images).map(|_| stream.random_range(0..num_images)).collect()
        };
        Self { num_images, draws: (0..num_draws).map(draw).collect() }
    }

    /// Images that are drawn from, and drawn each time.
    pub fn num_images(&self) -> usize {
        self.num_images
    }

    /// The images of each draw, which repeat.
    pub fn draws(&self) -> &[Vec<usize>] {
        &self.draws
    }

    /// Mean and interval of one value per image; images without a number are left out.
    pub fn interval(&self, values: &[f64]) -> Interval {
        let mut means = self.means(values);
        means.retain(|mean| !mean.is_nan());
        means.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * means.len().saturating_sub(1) as f64).round() as usize;
            means.get(place).copied().unwrap_or(f64::NAN)
        };
        Interval { mean: mean_of_numbers(values), low: at(0.025), high: at(0.975) }
    }

    /// Share of the draws in which the mean of `a` is above that of `b`, the images being the same.
    pub fn share_above(&self, a: &[f64], b: &[f64]) -> f64 {
        let pairs = self.means(a).into_iter().zip(self.means(b));
        let above = pairs.filter(|(a, b)| a > b).count();
        above as f64 / self.draws.len().max(1) as f64
    }

    fn means(&self, values: &[f64]) -> Vec<f64> {
        let mean = |draw: &Vec<usize>| {
            let drawn: Vec<f64> = draw.iter().filter_map(|&image| values.get(image).copied()).collect();
            mean_of_numbers(&drawn)
        };
        self.draws.iter().map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_normal_draws_is_the_one_of_theory() {
        let values: Vec<f64> = Streams::new(3).normal("values", 401).into_iter().map(f64::from).collect();
        let found = Bootstrap::new(401, 1000, 0).interval(&values);
        let deviation = (values.iter().map(|x| (x - found.mean).powi(2)).sum::<f64>() / 400.0).sqrt();
        let half = 1.96 * deviation / 401f64.sqrt();
        assert!((found.mean - found.low - half).abs() < 0.15 * half, "{found:?} {half}");
        assert!((found.high - found.mean - half).abs() < 0.15 * half, "{found:?} {half}");
    }

    #[test]
    fn pairs_share_their_images() {
        let values: Vec<f64> = Streams::new(3).normal("values", 53).into_iter().map(f64::from).collect();
        let slightly_more: Vec<f64> = values.iter().map(|value| value + 0.01).collect();
        let bootstrap = Bootstrap::new(53, 100, 0);
        assert_eq!(bootstrap.share_above(&slightly_more, &values), 1.0);
        assert_eq!(bootstrap.share_above(&values, &slightly_more), 0.0);
    }

    #[test]
    fn images_without_a_number_are_left_out() {
        let found = Bootstrap::new(4, 200, 0).interval(&[1.0, f64::NAN, 3.0, f64::NAN]);
        assert_eq!(found.mean, 2.0);
        assert!(found.low >= 1.0 && found.high <= 3.0);
        assert!(Bootstrap::new(2, 10, 0).interval(&[f64::NAN; 2]).mean.is_nan());
        assert!(Bootstrap::new(0, 10, 0).interval(&[]).low.is_nan());
    }
}
