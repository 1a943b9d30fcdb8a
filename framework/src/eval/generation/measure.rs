//! From pictures to numbers: what a network makes of samples, beside what it makes of a reference.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};

use super::frechet::FrechetReference;
use super::manifold::{NEIGHBORS, PrecisionRecall};
use super::metric::Metric;
use super::mmd::discrepancy;
use super::moments::{Gaussian, Moments};
use super::score::{ClassProbabilities, ScoreParts};
use super::table::FeatureTable;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::spatial::mean_of_numbers;
use crate::ops;
use crate::plugin::FeatureNetwork;
use crate::weights::to_host;

const BLOCK: usize = 4096; // rows of a piece of a covariance
const NORMAL_95: f64 = 1.96; // deviations of a normal value that hold 95 % of it

/// What a network made of pictures.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// One row for each picture.
    pub features: FeatureTable,
    /// Those that keep where things are, where they are wanted.
    pub spatial: FeatureTable,
    /// Scores of classes, where they are wanted.
    pub logits: FeatureTable,
}

impl Collected {
    /// Adds pictures.
    ///
    /// # Shapes
    /// * `pictures`: `[count, height, width, 3]` bytes
    ///
    /// # Errors
    /// The network refuses them, gives values that are not finite, or lacks what a metric needs.
    pub fn add(
        &mut self,
        network: &dyn FeatureNetwork,
        pictures: &[u8],
        [height, width]: [usize; 2],
        metrics: &[Metric],
        device: &Device,
    ) -> Result<()> {
        let count = pictures.len() / (height * width * 3).max(1);
        let values: Vec<f32> = pictures.iter().map(|byte| f32::from(*byte)).collect();
        ops::guard(|| {
            let images = Tensor::<4>::from_data(TensorData::new(values, [count, height, width, 3]), device);
            let output = network.features(images.permute([0, 3, 1, 2]))?;
            extend(&mut self.features, output.features)?;
            if metrics.contains(&Metric::SpatialFrechetDistance) {
                extend(&mut self.spatial, output.spatial.context("the network has no spatial features")?)?;
            }
            if metrics.contains(&Metric::Score) {
                extend(&mut self.logits, output.logits.context("the network names no classes")?)?;
            }
            Ok(())
        })
    }
}

fn extend(table: &mut FeatureTable, rows: Tensor<2>) -> Result<()> {
    let [_, dim] = rows.dims();
    table.extend(&to_host(rows), dim)
}

/// What samples are compared with; parts that no metric needs are left out.
#[derive(Debug, Default)]
pub struct Reference {
    /// Mean and covariance of the features.
    pub gaussian: Option<FrechetReference>,
    /// The same of the spatial features.
    pub spatial: Option<FrechetReference>,
    /// The features themselves.
    pub features: FeatureTable,
}

impl Reference {
    /// The reference that pictures are.
    ///
    /// # Errors
    /// There are too few of them.
    pub fn of(collected: Collected, metrics: &[Metric]) -> Result<Self> {
        let of = |metric, table| -> Result<_> {
            let is_wanted = metrics.contains(&metric);
            is_wanted.then(|| FrechetReference::new(gaussian(table, None)?)).transpose()
        };
        Ok(Self {
            gaussian: of(Metric::FrechetDistance, &collected.features)?,
            spatial: of(Metric::SpatialFrechetDistance, &collected.spatial)?,
            features: collected.features,
        })
    }
}

/// A number and the interval in which 95 % of it would lie with other samples from the same source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement {
    /// What was measured.
    pub metric: Metric,
    /// The number.
    pub value: f64,
    /// Ends of the interval; none without a bootstrap.
    pub interval: Option<[f64; 2]>,
}

/// How samples are measured.
#[derive(Debug, Clone, Copy)]
pub struct Measure<'a> {
    /// What is measured.
    pub metrics: &'a [Metric],
    /// How the score divides samples.
    pub parts: ScoreParts,
    /// Draws of the bootstrap; 0 is none.
    pub bootstrap: usize,
    /// Where distances of many features are computed.
    pub device: &'a Device,
}

impl Measure<'_> {
    /// Measures samples against a reference.
    ///
    /// The bootstrap draws samples anew, with replacement; the reference stays. Of precision, recall and the discrepancy,
    /// which are means over pictures, the interval holds 95 % of the draws. The distance of a draw is biased upward by
    /// its repetitions, and its score downward, so that theirs is the number and 1.96 deviations of the draws to
    /// either side.
    ///
    /// # Errors
    /// There are too few samples, the reference lacks a part, or the tensor library fails.
    pub fn run(&self, samples: &Collected, reference: &Reference) -> Result<Vec<Measurement>> {
        let draws = Bootstrap::new(samples.features.len(), self.bootstrap, 0);
        let mut manifold = None;
        let mut measured = vec![];
        for &metric in self.metrics {
            let (value, interval) = match metric {
                Metric::FrechetDistance => self.distance(&samples.features, reference.gaussian.as_ref(), &draws)?,
                Metric::SpatialFrechetDistance => {
                    self.distance(&samples.spatial, reference.spatial.as_ref(), &draws)?
                }
                Metric::Score => self.score(&samples.logits, &draws)?,
                Metric::Precision | Metric::Recall => {
                    if manifold.is_none() {
                        let reference = &reference.features;
                        manifold = Some(PrecisionRecall::new(&samples.features, reference, NEIGHBORS, self.device)?);
                    }
                    // Filled just above where it was empty.
                    let both = manifold.as_ref().context("no manifold")?;
                    let is_precision = metric == Metric::Precision;
                    self.mean(if is_precision { &both.precise } else { &both.recalled }, &draws)
                }
                Metric::Discrepancy => {
                    let found = discrepancy(&samples.features, &reference.features, true, self.device)?;
                    let around = draws.interval(&found.influence);
                    let moved = [around.low, around.high].map(|end| found.value + end - around.mean);
                    (found.value, moved)
                }
            };
            ensure!(value.is_finite(), "{metric:?} is not a number; are there too few pictures?");
            let interval = (self.bootstrap > 0).then_some(interval);
            measured.push(Measurement { metric, value, interval });
        }
        Ok(measured)
    }

    fn distance(
        &self,
        samples: &FeatureTable,
        reference: Option<&FrechetReference>,
        draws: &Bootstrap,
    ) -> Result<(f64, [f64; 2])> {
        let reference = reference.context("the reference has no mean and covariance of these features")?;
        let value = reference.distance(&gaussian(samples, None)?)?;
        let drawn = draws.draws().iter().map(|draw| {
            let mut times = vec![0u32; samples.len()];
            draw.iter().for_each(|&picture| times[picture] += 1);
            reference.distance(&gaussian(samples, Some(&times))?)
        });
        Ok((value, around(value, &drawn.collect::<Result<Vec<_>>>()?)))
    }

    fn score(&self, logits: &FeatureTable, draws: &Bootstrap) -> Result<(f64, [f64; 2])> {
        let probabilities = ClassProbabilities::of_logits(logits.values(), logits.dim())?;
        let value = probabilities.score(self.parts)?;
        let drawn: Result<Vec<_>> = draws.draws().iter().map(|draw| probabilities.score_of(draw, self.parts)).collect();
        Ok((value, around(value, &drawn?)))
    }

    fn mean(&self, flags: &[bool], draws: &Bootstrap) -> (f64, [f64; 2]) {
        let values: Vec<f64> = flags.iter().map(|flag| f64::from(u8::from(*flag))).collect();
        let own = Bootstrap::new(values.len(), self.bootstrap, 0); // recall is a mean over the reference
        let draws = if values.len() == draws.num_images() { draws } else { &own };
        let found = draws.interval(&values);
        (found.mean, [found.low, found.high])
    }
}

/// Mean and covariance of all rows, each counted as often as `times` says.
///
/// # Errors
/// There are too few rows.
pub fn gaussian(table: &FeatureTable, times: Option<&[u32]>) -> Result<Gaussian> {
    let mut moments = Moments::new(table.dim());
    for (i, rows) in table.values().chunks((BLOCK * table.dim()).max(1)).enumerate() {
        let first = i * BLOCK;
        moments.add(rows, times.map(|times| &times[first..(first + BLOCK).min(times.len())]));
    }
    moments.gaussian()
}

fn around(value: f64, drawn: &[f64]) -> [f64; 2] {
    let mean = mean_of_numbers(drawn);
    let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (drawn.len().max(2) - 1) as f64;
    let half = NORMAL_95 * variance.sqrt();
    [value - half, value + half]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::NetworkOutput;
    use crate::streams::Streams;

    /// Mean color of each picture, and the same as two classes.
    #[derive(Debug)]
    struct Colors;

    impl FeatureNetwork for Colors {
        fn features(&self, images: Tensor<4>) -> Result<NetworkOutput> {
            let [batch, ..] = images.dims();
            let features = images.mean_dim(2).mean_dim(3).reshape([batch, 3]);
            let logits = features.clone().narrow(1, 0, 2) / 10.0;
            Ok(NetworkOutput { features, spatial: None, logits: Some(logits) })
        }
        fn digest(&self) -> String {
            "colors".into()
        }
    }

    const METRICS: [Metric; 5] =
        [Metric::FrechetDistance, Metric::Score, Metric::Precision, Metric::Recall, Metric::Discrepancy];

    fn collected(seed: u64, count: usize, shift: f32, batch: usize) -> Collected {
        let draws = Streams::new(seed).normal("pictures", count * 5 * 7 * 3);
        let bytes: Vec<u8> = draws.iter().map(|x| (128.0 + shift + 40.0 * x).clamp(0.0, 255.0) as u8).collect();
        let mut collected = Collected::default();
        for batch in bytes.chunks(batch * 5 * 7 * 3) {
            collected.add(&Colors, batch, [5, 7], &METRICS, &Device::flex()).unwrap();
        }
        collected
    }

    fn measure(samples: &Collected, reference: Collected, bootstrap: usize) -> Vec<Measurement> {
        let reference = Reference::of(reference, &METRICS).unwrap();
        let parts = ScoreParts::Size(5000);
        Measure { metrics: &METRICS, parts, bootstrap, device: &Device::flex() }.run(samples, &reference).unwrap()
    }

    #[test]
    fn other_pictures_are_farther_and_the_same_ones_are_nowhere() {
        let reference = || collected(1, 151, 0.0, 151);
        let same = measure(&reference(), reference(), 0);
        assert!(same[0].value.abs() < 1e-6 && same[4].value.abs() < 1e-6, "{same:?}");
        assert_eq!((same[2].value, same[3].value), (1.0, 1.0));
        let [near, far] = [0.0, 30.0].map(|shift| measure(&collected(2, 101, shift, 101), reference(), 0));
        assert!(near[0].value < far[0].value && near[4].value < far[4].value, "{near:?} {far:?}");
        assert!(near[2].value > far[2].value && far[2].interval.is_none());
    }

    #[test]
    fn the_batch_does_not_matter() {
        assert_eq!(collected(3, 10, 0.0, 10).features, collected(3, 10, 0.0, 3).features);
    }

    #[test]
    fn the_interval_of_a_distance_is_as_wide_as_fresh_samples_differ() {
        let reference = || collected(1, 401, 0.0, 401);
        let values: Vec<f64> =
            (10..50).map(|seed| measure(&collected(seed, 101, 6.0, 101), reference(), 0)[0].value).collect();
        let mean = mean_of_numbers(&values);
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 39.0).sqrt();
        let found = measure(&collected(10, 101, 6.0, 101), reference(), 200)[0];
        let [low, high] = found.interval.unwrap();
        let half = (high - low) / 2.0;
        assert!((0.6..1.6).contains(&(half / (1.96 * deviation))), "{half} {deviation}");
        assert!((low + high) / 2.0 - found.value < 1e-9);
    }

    #[test]
    fn what_the_network_or_the_reference_lacks_is_said() {
        let mut collected = Collected::default();
        let metrics = [Metric::SpatialFrechetDistance];
        let refused = collected.add(&Colors, &[0; 105], [5, 7], &metrics, &Device::flex());
        assert!(refused.unwrap_err().to_string().contains("no spatial features"));
        let measure = Measure {
            metrics: &[Metric::FrechetDistance],
            parts: ScoreParts::Size(5),
            bootstrap: 0,
            device: &Device::flex(),
        };
        let message = measure.run(&collected, &Reference::default()).unwrap_err().to_string();
        assert!(message.contains("no mean and covariance"), "{message}");
    }
}
