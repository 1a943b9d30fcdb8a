//! Similarity inside an object against similarity with what lies around it.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kernel::{cosine_kernel, pair_table};
use crate::plugin::PatchGrid;

const EPS: f64 = 1e-12; // the code's, smaller here than for the other metrics

/// Settings of [`srss`]. The paper's text samples triplets; its code, followed here, takes the mean over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Srss {
    /// Least distance from an anchor to its positives.
    pub nearest: usize,
    /// Largest distance from an anchor to its positives.
    pub near: usize,
    /// Least distance from an anchor to its negatives.
    pub far: usize,
}

impl Default for Srss {
    fn default() -> Self {
        Self { nearest: 1, near: 1, far: 6 }
    }
}

impl Srss {
    /// Values of a batch.
    ///
    /// # Shapes
    /// * `tokens`: `[batch, grid.tokens(), channels]`
    /// * `mask`: `[batch, grid.tokens()]`, 1 on the object, 0 elsewhere
    /// * result: `[batch]`
    pub fn measure(&self, tokens: Tensor<3>, mask: Tensor<2>, grid: PatchGrid) -> Tensor<1> {
        srss(tokens, mask, grid, *self)
    }
}

/// For each anchor on the object, mean K to tokens of the object at distances `nearest` to `near`, less mean K to
/// tokens off the object at distance `far` and more; the mean over anchors that have at least one of each.
///
/// NaN for an image without such an anchor, and for an object of one token.
///
/// # Shapes
/// * `tokens`: `[batch, grid.tokens(), channels]`
/// * `mask`: `[batch, grid.tokens()]`, 1 on the object, 0 elsewhere
/// * result: `[batch]`
pub fn srss(tokens: Tensor<3>, mask: Tensor<2>, grid: PatchGrid, distances: Srss) -> Tensor<1> {
    let ([batch, count, _], device) = (tokens.dims(), tokens.device());
    let kernel = cosine_kernel(tokens, EPS);
    let object = mask.reshape([batch, count, 1]);
    let pairs = |is_meant: &dyn Fn(usize) -> bool| {
        Tensor::<3>::from_data(pair_table(grid, |distance| f32::from(is_meant(distance))), &device)
    };
    // Sums over partners `s`, `[batch, tokens, 1]`: of K, and of ones.
    let sums = |pairs: Tensor<3>, partners: Tensor<3>| {
        let similar = (kernel.clone() * pairs.clone()).matmul(partners.clone());
        (similar, pairs.expand([batch, count, count]).matmul(partners))
    };
    let (positive, num_positive) =
        sums(pairs(&|distance| (distances.nearest..=distances.near).contains(&distance)), object.clone());
    let (negative, num_negative) = sums(pairs(&|distance| distance >= distances.far), object.clone().neg() + 1.0);
    let has_two = object.clone().sum_dim(1).greater_elem(1.5).float(); // [batch, 1, 1]
    let has_both = (num_positive.clone() * num_negative.clone()).greater_elem(0.5).float();
    let anchors = object * has_both * has_two;
    let contrast = positive / num_positive.clamp_min(1.0) - negative / num_negative.clamp_min(1.0);
    // 0 / 0 is the NaN that says there was nothing to measure.
    ((contrast * anchors.clone()).sum_dim(1) / anchors.sum_dim(1)).reshape([batch])
}
