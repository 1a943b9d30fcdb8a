//! Slope of similarity over distance.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kernel::{pairs_by_distance, weighted_pairs};
use crate::plugin::PatchGrid;

/// Settings of [`cds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cds {
    /// Largest distance of the fit; the paper does not state it, its code has 8.
    pub max_distance: usize,
}

impl Default for Cds {
    fn default() -> Self {
        Self { max_distance: 8 }
    }
}

impl Cds {
    /// Values of a batch.
    ///
    /// # Shapes
    /// * `tokens`: `[batch, grid.tokens(), channels]`; result: `[batch]`
    pub fn measure(&self, tokens: Tensor<3>, grid: PatchGrid) -> Tensor<1> {
        cds(tokens, grid, self.max_distance)
    }
}

/// Minus the slope of the least-squares line through (distance, mean K at that distance), distances 1 to
/// `max_distance`, each counting once.
///
/// Distances without a pair are left out; with fewer than two left there is no slope, and the value is 0.
///
/// # Shapes
/// * `tokens`: `[batch, grid.tokens(), channels]`; result: `[batch]`
pub fn cds(tokens: Tensor<3>, grid: PatchGrid, max_distance: usize) -> Tensor<1> {
    let counts = pairs_by_distance(grid);
    let fitted: Vec<usize> =
        (1..counts.len()).filter(|&distance| distance <= max_distance && counts[distance] > 0).collect();
    let middle = fitted.iter().sum::<usize>() as f64 / fitted.len().max(1) as f64;
    let spread: f64 = fitted.iter().map(|&distance| (distance as f64 - middle).powi(2)).sum();
    let mut weights = vec![0.0; counts.len()];
    if spread > 0.0 {
        // The slope is linear in the means: the sum of (d − middle) / spread · mean K at d.
        for distance in fitted {
            weights[distance] = -(distance as f64 - middle) / spread / counts[distance] as f64;
        }
    }
    weighted_pairs(tokens, grid, &weights)
}
