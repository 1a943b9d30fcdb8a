//! Where tokens lie: trained tables brought to another grid, and rotary angles.

use std::f32::consts::TAU;

use realign::burn::tensor::{Device, Tensor};
use realign::ops;
use realign::plugin::PatchGrid;

use super::architecture::{Architecture, Positions, Rotary};

/// A table of positions on another grid. A row before the patches' is kept, and the same grid is returned untouched.
///
/// # Shapes
/// * `table`: `[1, rows, channels]`, its last `side²` rows those of a square grid
/// * result: `[1, rows − side² + grid.tokens(), channels]`
pub fn on_grid(table: Tensor<3>, side: usize, grid: PatchGrid, positions: Positions) -> Tensor<3> {
    let [_, rows, channels] = table.dims();
    let Some(resampling) = positions.resampling().filter(|_| grid != PatchGrid::new(side, side)) else {
        return table;
    };
    let num_before = rows - side * side;
    let picture = table.clone().narrow(1, num_before, side * side);
    let picture = picture.reshape([1, side, side, channels]).permute([0, 3, 1, 2]);
    let resized = match positions {
        Positions::BilinearCropped => {
            let cover = grid.rows.max(grid.columns);
            resampling.resize(picture, [cover, cover]).narrow(2, 0, grid.rows).narrow(3, 0, grid.columns)
        }
        _ => resampling.resize(picture, [grid.rows, grid.columns]),
    };
    let resized = resized.permute([0, 2, 3, 1]).reshape([1, grid.tokens(), channels]);
    if num_before == 0 { resized } else { Tensor::cat(vec![table.narrow(1, 0, num_before), resized], 1) }
}

/// DINOv3's periods, `100^(4 i / head_dim)` for `head_dim / 4` channels of an axis.
pub fn dinov3_periods(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 4).map(|i| 100f32.powf(4.0 * i as f32 / head_dim as f32)).collect()
}

/// Angles by which the pairs of a head's channels turn: rows of `head_dim / 2`, one for each token. In f32, as the
/// references.
pub fn angles(architecture: &Architecture, grid: PatchGrid, periods: &[f32]) -> Vec<f32> {
    let (num_pairs, num_prefix) = (architecture.head_dim() / 2, architecture.num_prefix());
    let mut angles = vec![0.0; num_prefix * num_pairs]; // tokens before the patches are not turned
    let frequency = |j: usize| 1.0 / 10_000f32.powf(2.0 * j as f32 / num_pairs as f32);
    // Where a token precedes the patches, they are counted from 1.
    let count = |index: usize| (index + usize::from(architecture.class_token)) as f32;
    for row in 0..grid.rows {
        for column in 0..grid.columns {
            match architecture.rotary {
                Rotary::None => {}
                Rotary::Dinov3 => {
                    for (index, length) in [(row, grid.rows), (column, grid.columns)] {
                        let place = 2.0 * ((index as f32 + 0.5) / length as f32) - 1.0;
                        angles.extend(periods.iter().map(|period| TAU * place / period));
                    }
                }
                Rotary::Perception => {
                    for place in [count(column), count(row)] {
                        angles.extend((0..num_pairs / 2).map(|j| place * frequency(j)));
                    }
                }
            }
        }
    }
    angles
}

/// Cosines and sines, `[tokens, num_pairs]` each.
pub fn rotation(angles: &[f32], num_pairs: usize, device: &Device) -> [Tensor<2>; 2] {
    let shape = [angles.len() / num_pairs.max(1), num_pairs];
    [f32::cos, f32::sin].map(|f| {
        let values: Vec<f32> = angles.iter().map(|angle| f(*angle)).collect();
        ops::upload(&values, shape, device)
    })
}
