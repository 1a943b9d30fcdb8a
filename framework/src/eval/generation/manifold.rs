//! Precision and recall: how many samples lie among the reference pictures, and how many of these among the samples.
//!
//! Source: Kynkäänniemi et al., 2019, with the k = 3 of ADM's evaluator. A set of features spans the union of balls around
//! each of its points that reach the k-th nearest other point. ADM computes distances in float16 where it can; here they
//! are in f64, and differ from published numbers in the third decimal.

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};

use super::table::{FeatureTable, squared_distances, to_f64};
use crate::ops;

/// Neighbors that a ball reaches.
pub const NEIGHBORS: usize = 3;

const BLOCK_BYTES: usize = 256 << 20; // of distances at once

/// Which points lie in the union of the other set's balls, one entry for each point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrecisionRecall {
    /// Of the samples, among reference pictures: their share is the precision.
    pub precise: Vec<bool>,
    /// Of the reference pictures, among samples: their share is the recall.
    pub recalled: Vec<bool>,
}

impl PrecisionRecall {
    /// Compares samples with reference pictures, with balls that reach `neighbors` others.
    ///
    /// # Errors
    /// A set has no more points than that, or the tensor library fails.
    pub fn new(samples: &FeatureTable, reference: &FeatureTable, neighbors: usize, device: &Device) -> Result<Self> {
        ensure!(
            samples.dim() == reference.dim(),
            "features of {} values cannot be compared with those of {} values",
            samples.dim(),
            reference.dim()
        );
        Ok(Self {
            precise: is_inside(samples, reference, &radii(reference, neighbors, device)?, device)?,
            recalled: is_inside(reference, samples, &radii(samples, neighbors, device)?, device)?,
        })
    }
}

/// Squared distance of each point from its k-th nearest other one.
///
/// # Errors
/// There are no more than `neighbors` points, or the tensor library fails.
pub fn radii(points: &FeatureTable, neighbors: usize, device: &Device) -> Result<Vec<f64>> {
    let count = points.len();
    ensure!(
        neighbors > 0 && count > neighbors,
        "precision and recall need more than {neighbors} pictures on either side; found {count}"
    );
    ops::guard(|| {
        let all = points.rows(0, count, device);
        let mut found = Vec::with_capacity(count);
        for block in points.blocks(rows_of_block(count), device) {
            // The point itself is the nearest.
            let nearest = squared_distances(block, all.clone()).neg().topk(neighbors + 1, 1);
            found.extend(to_f64(nearest.min_dim(1).neg()));
        }
        Ok(found)
    })
}

/// Whether each point lies in a ball of these centers.
fn is_inside(points: &FeatureTable, centers: &FeatureTable, radii: &[f64], device: &Device) -> Result<Vec<bool>> {
    ops::guard(|| {
        let all = centers.rows(0, centers.len(), device);
        let radii = TensorData::new(radii.to_vec(), [1, radii.len()]);
        let radii = Tensor::<2>::from_data(radii, (device, burn::tensor::DType::F64));
        let mut found = Vec::with_capacity(points.len());
        for block in points.blocks(rows_of_block(centers.len()), device) {
            let margin = radii.clone() - squared_distances(block, all.clone());
            found.extend(to_f64(margin.max_dim(1)).into_iter().map(|margin| margin >= 0.0));
        }
        Ok(found)
    })
}

fn rows_of_block(columns: usize) -> usize {
    (BLOCK_BYTES / (8 * columns.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{DeviceChoice, backend_names, open};

    fn devices() -> Vec<Device> {
        let choice = |name: &&str| if *name == "flex" { DeviceChoice::Flex } else { DeviceChoice::Cpu };
        backend_names().iter().map(|name| open(choice(name)).unwrap()).collect()
    }

    fn waves(count: usize, wave: impl Fn(f64, f64) -> f64) -> FeatureTable {
        let values = (0..count * 6).map(|at| wave((at / 6) as f64, (at % 6) as f64) as f32).collect();
        FeatureTable::new(values, 6).unwrap()
    }

    fn share(flags: &[bool]) -> f64 {
        flags.iter().filter(|flag| **flag).count() as f64 / flags.len() as f64
    }

    #[test]
    fn shares_are_those_of_the_reference() {
        let reference = waves(30, |i, j| (0.1 * (i + 1.0) * (j + 1.0)).sin());
        let samples = waves(40, |i, j| (0.07 * (i + 2.0) * (j + 1.0)).cos());
        for device in devices() {
            let found = PrecisionRecall::new(&samples, &reference, 3, &device).unwrap();
            assert_eq!((share(&found.precise), share(&found.recalled)), (0.55, 0.3));
        }
    }

    #[test]
    fn points_on_a_line_are_worked_by_hand() {
        // With one neighbor the balls of 0, 1 and 5 reach 1, 1 and 4 far.
        let line = |points: &[f32]| FeatureTable::new(points.to_vec(), 1).unwrap();
        for device in devices() {
            assert_eq!(radii(&line(&[0.0, 1.0, 5.0]), 1, &device).unwrap(), [1.0, 1.0, 16.0]);
            let found = PrecisionRecall::new(&line(&[2.0, 9.0, 9.5]), &line(&[0.0, 1.0, 5.0]), 1, &device).unwrap();
            assert_eq!(found.precise, [true, true, false]); // 2 is 1 from 1, 9 is 4 from 5
            assert_eq!(found.recalled, [true, true, true]); // within 7 of 2
        }
    }

    #[test]
    fn too_few_points_are_refused() {
        let few = waves(3, |i, j| i + j);
        let message = radii(&few, 3, &Device::flex()).unwrap_err().to_string();
        assert!(message.contains("more than 3 pictures") && message.contains("found 3"), "{message}");
    }
}
