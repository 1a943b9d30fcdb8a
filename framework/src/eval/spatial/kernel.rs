//! Cosine similarity of all pairs of tokens, and their distance on the grid.

use burn::tensor::{DType, Tensor, TensorData};

use crate::plugin::PatchGrid;

/// Smallest length by which LDS, CDS and RMSC divide a token: a zero token stays zero.
pub const UNIT_EPS: f64 = 1e-8;

/// Tokens of length one in f32: `x / max(|x|, eps)`.
///
/// # Shapes
/// * `tokens` and result: `[batch, tokens, channels]`
pub fn unit_tokens(tokens: Tensor<3>, eps: f64) -> Tensor<3> {
    let tokens = tokens.cast(DType::F32);
    let lengths = tokens.clone().square().sum_dim(2).sqrt().clamp_min(eps);
    tokens / lengths
}

/// The paper's kernel K: cosine similarity of every token with every other.
///
/// # Shapes
/// * `tokens`: `[batch, tokens, channels]`; result: `[batch, tokens, tokens]`
pub fn cosine_kernel(tokens: Tensor<3>, eps: f64) -> Tensor<3> {
    let unit = unit_tokens(tokens, eps);
    unit.clone().matmul(unit.swap_dims(1, 2))
}

/// Manhattan distance of two tokens of a grid, by their indices.
pub fn manhattan(grid: PatchGrid, a: usize, b: usize) -> usize {
    let columns = grid.columns.max(1);
    (a / columns).abs_diff(b / columns) + (a % columns).abs_diff(b % columns)
}

/// How many ordered pairs of tokens lie at each distance; index 0 counts every token with itself.
pub(super) fn pairs_by_distance(grid: PatchGrid) -> Vec<usize> {
    let mut counts = vec![0; (grid.rows + grid.columns).saturating_sub(1)];
    // Each displacement other than none occurs in both directions.
    let along = |side: usize, step: usize| (side - step) * if step == 0 { 1 } else { 2 };
    for dy in 0..grid.rows {
        for dx in 0..grid.columns {
            counts[dy + dx] += along(grid.rows, dy) * along(grid.columns, dx);
        }
    }
    counts
}

/// The sum over all ordered pairs of `weight(distance) · K`. LDS and CDS are both of this form.
///
/// # Shapes
/// * `tokens`: `[batch, tokens, channels]`; result: `[batch]`
pub(super) fn weighted_pairs(tokens: Tensor<3>, grid: PatchGrid, weights: &[f64]) -> Tensor<1> {
    let ([batch, ..], device) = (tokens.dims(), tokens.device());
    let weights = pair_table(grid, |distance| weights.get(distance).copied().unwrap_or(0.0) as f32);
    let kernel = cosine_kernel(tokens, UNIT_EPS);
    // One axis at a time: a single f32 sum over all pairs would lose a digit where the backend adds in order.
    (kernel * Tensor::from_data(weights, &device)).sum_dim(2).sum_dim(1).reshape([batch])
}

/// A value for every pair of tokens by their distance, `[1, tokens, tokens]`.
pub(super) fn pair_table(grid: PatchGrid, value: impl Fn(usize) -> f32) -> TensorData {
    let count = grid.tokens();
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    let values: Vec<f32> = pairs.map(|(a, b)| value(manhattan(grid, a, b))).collect();
    TensorData::new(values, [1, count, count])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::weights::to_host;

    #[test]
    fn pairs_are_counted_as_on_the_papers_grid() {
        let counts = pairs_by_distance(PatchGrid::new(16, 16));
        assert_eq!(counts[..9], [256, 960, 1796, 2512, 3112, 3600, 3980, 4256, 4432]);
        assert_eq!(counts[6..].iter().sum::<usize>(), 53_300);
    }

    #[test]
    fn pairs_of_an_odd_grid_are_those_that_a_count_finds() {
        let grid = PatchGrid::new(5, 7);
        let mut counts = vec![0; 11];
        (0..35).for_each(|a| (0..35).for_each(|b| counts[manhattan(grid, a, b)] += 1));
        assert_eq!(pairs_by_distance(grid), counts);
        assert_eq!(pairs_by_distance(PatchGrid::new(1, 1)), [1]);
    }

    #[test]
    fn a_zero_token_is_like_nothing_not_even_itself() {
        let tokens = Tensor::<3>::from_floats([[[3.0, 4.0], [0.0, 0.0], [-6.0, -8.0]]], &Device::flex());
        let kernel = to_host(cosine_kernel(tokens, UNIT_EPS));
        let expected = [1.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0];
        assert!(kernel.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{kernel:?}");
    }
}
