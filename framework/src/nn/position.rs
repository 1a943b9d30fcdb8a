//! Fixed sine-cosine position table.

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
}
