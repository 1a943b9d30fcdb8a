//! Local against distant similarity.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kernel::{pairs_by_distance, weighted_pairs};
use crate::plugin::PatchGrid;

/// Settings of [`lds`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lds {
    /// Whose distances are meant where none are given.
    pub mode: LdsMode,
    /// Pairs closer than this are near; half the grid's rows (paper) or 2, the four neighbors (code).
    pub near: Option<f64>,
    /// Pairs at least this far apart are far; half the grid's rows (paper) or 6 (code).
    pub far: Option<f64>,
}

/// The two definitions in circulation: they differ, and the published correlations come from the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LdsMode {
    /// Section 3 of the paper: near is a distance in (0, H/2), far is H/2 and more, of a grid of H rows.
    #[default]
    Paper,
    /// iREPA `metrics/spatial_metrics.py`: near are the four neighbors, far is 6 and more.
    Code,
}

impl Lds {
    /// Values of a batch.
    ///
    /// # Shapes
    /// * `tokens`: `[batch, grid.tokens(), channels]`; result: `[batch]`
    pub fn measure(&self, tokens: Tensor<3>, grid: PatchGrid) -> Tensor<1> {
        let half = grid.rows as f64 / 2.0;
        let [near, far] = match self.mode {
            LdsMode::Paper => [half, half],
            LdsMode::Code => [2.0, 6.0],
        };
        lds(tokens, grid, self.near.unwrap_or(near), self.far.unwrap_or(far))
    }
}

/// Mean K over pairs with a distance in (0, `near`), less mean K over pairs with a distance of `far` or more.
///
/// A token is no pair with itself. The mean over no pair is 0, as in the code.
///
/// # Shapes
/// * `tokens`: `[batch, grid.tokens(), channels]`; result: `[batch]`
pub fn lds(tokens: Tensor<3>, grid: PatchGrid, near: f64, far: f64) -> Tensor<1> {
    let counts = pairs_by_distance(grid);
    let is_near = |distance: usize| distance > 0 && (distance as f64) < near;
    let is_far = |distance: usize| distance as f64 >= far;
    let num_pairs = |is_meant: &dyn Fn(usize) -> bool| {
        let meant = counts.iter().enumerate().filter(|(distance, _)| is_meant(*distance));
        meant.map(|(_, count)| count).sum::<usize>().max(1) as f64
    };
    let (num_near, num_far) = (num_pairs(&is_near), num_pairs(&is_far));
    let weight = |distance| f64::from(is_near(distance)) / num_near - f64::from(is_far(distance)) / num_far;
    let weights: Vec<f64> = (0..counts.len()).map(weight).collect();
    weighted_pairs(tokens, grid, &weights)
}
