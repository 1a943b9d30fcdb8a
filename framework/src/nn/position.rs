//! Fixed position tables: sine-cosine and rotary.

use burn::tensor::{Device, Tensor};

use crate::ops;
use crate::plugin::PatchGrid;

/// The 2-D table of DiT: for token (row i, column j) the first half of the channels encodes j, the second half i;
/// each half is all sines, then all cosines, of `position · 10000^(−k / (channels/4))`.
///
/// Computed in f64; row-major, `grid.tokens() · channels` values. Channels must be a multiple of 4.
pub fn sincos_position_table(grid: PatchGrid, channels: usize) -> Vec<f32> {
    let quarter = channels / 4;
    let half = |position: usize| {
        let angles = (0..quarter).map(move |k| position as f64 * 10000f64.powf(-(k as f64) / quarter as f64));
        angles.clone().map(f64::sin).chain(angles.map(f64::cos)).map(|value| value as f32)
    };
    let mut table = Vec::with_capacity(grid.tokens() * channels);
    for row in 0..grid.rows {
        for column in 0..grid.columns {
            table.extend(half(column).chain(half(row)));
        }
    }
    table
}

/// Angles of the 2-D rotary embedding: for token (row i, column j) the first half of the pairs turns by `i · f`, the
/// second by `j · f`, with `f = 10000^(−k / quarter)` for `k` below `quarter = head_dim / 4`.
///
/// Tokens that stand before the grid's are not turned. Source: JiT `util/model_util.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryTable {
    angles: Vec<f32>,
    num_pairs: usize,
}

impl RotaryTable {
    /// For `num_before` tokens and then those of `grid`. `head_dim` must be a multiple of 4.
    pub fn new(grid: PatchGrid, head_dim: usize, num_before: usize) -> Self {
        let (quarter, num_pairs) = (head_dim / 4, head_dim / 2);
        // In f32, as the reference.
        let frequency = |k: usize| 1.0 / 10000f32.powf(2.0 * k as f32 / num_pairs as f32);
        let turned = |position: usize| (0..quarter).map(move |k| position as f32 * frequency(k));
        let mut angles = vec![0.0; num_before * num_pairs];
        for row in 0..grid.rows {
            for column in 0..grid.columns {
                angles.extend(turned(row).chain(turned(column)));
            }
        }
        Self { angles, num_pairs }
    }

    /// Cosines and sines, `[tokens, head_dim / 2]` each.
    pub fn tensors(&self, device: &Device) -> [Tensor<2>; 2] {
        let shape = [self.angles.len() / self.num_pairs.max(1), self.num_pairs];
        [f32::cos, f32::sin].map(|f| {
            let values: Vec<f32> = self.angles.iter().map(|angle| f(*angle)).collect();
            ops::upload(&values, shape, device)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_half_encodes_the_column_and_the_second_the_row() {
        let table = sincos_position_table(PatchGrid::new(3, 5), 8);
        assert_eq!(table.len(), 15 * 8);
        let token = &table[(2 * 5 + 3) * 8..][..8];
        let expected = [3f64.sin(), 0.03f64.sin(), 3f64.cos(), 0.03f64.cos()];
        for (found, expected) in token.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-7);
        }
        assert!((f64::from(token[4]) - 2f64.sin()).abs() < 1e-7);
    }

    #[test]
    fn rotary_angles_turn_rows_first_and_leave_tokens_before_the_grid() {
        let table = RotaryTable::new(PatchGrid::new(3, 5), 8, 2);
        assert_eq!(table.angles.len(), 17 * 4);
        assert!(table.angles[..8].iter().all(|angle| *angle == 0.0));
        let token = &table.angles[(2 + 2 * 5 + 3) * 4..][..4];
        for (found, expected) in token.iter().zip([2.0, 0.02, 3.0, 0.03]) {
            assert!((found - expected).abs() < 1e-7, "{token:?}");
        }
    }
}
