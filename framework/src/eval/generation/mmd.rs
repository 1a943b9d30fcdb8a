//! The maximum mean discrepancy of embeddings: CMMD where they are CLIP's.
//!
//! Source: Jayasumana et al., 2024, and Google's `cmmd/distance.py`: Gaussian kernel with σ = 10 on unit vectors, the
//! diagonal included, times 1000. Such a kernel lies in 0.98 to 1, so everything is in f64, and 1 is taken off each entry.

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};

use super::table::{FeatureTable, squared_distances, to_f64};
use crate::ops;

const SIGMA: f64 = 10.0;
const SCALE: f64 = 1000.0;
const BLOCK: usize = 4096; // rows and columns of the kernel at once, 128 MiB

/// The discrepancy, and what each sample adds to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Discrepancy {
    /// `1000 · (mean k(x, x') + mean k(y, y') − 2 mean k(x, y))`.
    pub value: f64,
    /// `2000 · (mean k(x, ·) over samples − mean k(x, ·) over the reference)`: how the value moves with the share of
    /// each sample x, for the bootstrap.
    pub influence: Vec<f64>,
}

/// The discrepancy of samples from a reference; `is_normalized` first divides each row by its length.
///
/// # Errors
/// A set is empty, the sizes differ, or the tensor library fails.
pub fn discrepancy(
    samples: &FeatureTable,
    reference: &FeatureTable,
    is_normalized: bool,
    device: &Device,
) -> Result<Discrepancy> {
    ensure!(!samples.is_empty() && !reference.is_empty(), "a discrepancy needs pictures on either side");
    ensure!(
        samples.dim() == reference.dim(),
        "embeddings of {} values cannot be compared with those of {} values",
        samples.dim(),
        reference.dim()
    );
    ops::guard(|| {
        let kernel = |a: &FeatureTable, b: &FeatureTable| row_means(a, b, is_normalized, device);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (among, between) = (kernel(samples, samples), kernel(samples, reference));
        let of_reference = mean(&kernel(reference, reference));
        let value = SCALE * (mean(&among) + of_reference - 2.0 * mean(&between));
        let influence = among.iter().zip(&between).map(|(among, between)| 2.0 * SCALE * (among - between));
        Ok(Discrepancy { value, influence: influence.collect() })
    })
}

/// For each row of `a`, the mean over rows of `b` of the kernel less 1.
fn row_means(a: &FeatureTable, b: &FeatureTable, is_normalized: bool, device: &Device) -> Vec<f64> {
    let unit = |rows: Tensor<2>| {
        let length = rows.clone().square().sum_dim(1).sqrt();
        if is_normalized { rows / length.clamp_min(f64::MIN_POSITIVE) } else { rows }
    };
    let gamma = 1.0 / (2.0 * SIGMA * SIGMA);
    let mut means = Vec::with_capacity(a.len());
    for rows in a.blocks(BLOCK, device).map(unit) {
        let sums = b.blocks(BLOCK, device).map(unit).map(|columns| {
            let kernel = (squared_distances(rows.clone(), columns) * -gamma).exp() - 1.0;
            kernel.sum_dim(1)
        });
        let total = sums.reduce(|total, sum| total + sum);
        means.extend(total.map(to_f64).unwrap_or_default().into_iter().map(|sum| sum / b.len() as f64));
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{DeviceChoice, backend_names, open};

    fn waves(wave: impl Fn(f64, f64) -> f64) -> FeatureTable {
        let values = (0..300).map(|at| wave((at / 6) as f64, (at % 6) as f64) as f32).collect();
        FeatureTable::new(values, 6).unwrap()
    }

    #[test]
    fn the_discrepancy_is_that_of_the_reference_and_of_its_parts() {
        let samples = waves(|i, j| (0.1 * (i + 1.0) * (j + 1.0)).sin());
        let reference = waves(|i, j| (0.07 * (i + 2.0) * (j + 1.0)).cos());
        for name in backend_names() {
            let device = open(if *name == "flex" { DeviceChoice::Flex } else { DeviceChoice::Cpu }).unwrap();
            let found = discrepancy(&samples, &reference, true, &device).unwrap();
            assert!((found.value - 0.5050397477).abs() < 1e-7, "{}", found.value); // rounded to f32 features
            assert!(discrepancy(&samples, &samples, false, &device).unwrap().value.abs() < 1e-9);
            assert_eq!(found.influence.len(), 50);
        }
    }

    #[test]
    fn two_points_are_worked_by_hand() {
        let point = |x: f32| FeatureTable::new(vec![x], 1).unwrap();
        let found = discrepancy(&point(3.0), &point(5.0), false, &Device::flex()).unwrap();
        let expected = 1000.0 * 2.0 * (1.0 - (-4.0f64 / 200.0).exp());
        assert!((found.value - expected).abs() < 1e-9 && (found.influence[0] - expected).abs() < 1e-9);
        assert!(discrepancy(&point(3.0), &FeatureTable::default(), true, &Device::flex()).is_err());
    }
}
