//! Histograms of oriented gradients of one gray picture, on a token grid.
//!
//! Source: Dalal and Triggs, 2005; scikit-image `feature.hog` with L2-Hys blocks, in f32. Orientations are without
//! sign and binned without interpolation.

use super::resized_planes::{Tap, join_planes, taps};

const BLOCK_EPS: f32 = 1e-5; // scikit-image's, inside the root as a square
const TOKEN_EPS: f32 = 1e-12;
const CLIP: f32 = 0.2; // the "Hys" of L2-Hys
const HALF_TURN: f32 = 180.0;

/// Sizes of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrientedGradients {
    /// Side of the picture, in pixels.
    pub size: usize,
    /// Side of a cell, in pixels.
    pub pixels_per_cell: usize,
    /// Side of a block, in cells; blocks lie one cell apart.
    pub cells_per_block: usize,
    /// Bins of a half turn.
    pub num_orientations: usize,
}

impl OrientedGradients {
    /// Cells along a side.
    fn num_cells(&self) -> usize {
        self.size / self.pixels_per_cell
    }

    /// Blocks along a side; 0 when the picture is smaller than a block.
    pub fn num_blocks(&self) -> usize {
        (self.num_cells() + 1).saturating_sub(self.cells_per_block)
    }

    /// Values of a block, in the order cell row, cell column, orientation.
    pub fn channels(&self) -> usize {
        self.cells_per_block * self.cells_per_block * self.num_orientations
    }

    /// Blocks of unit length, resized bilinearly to `rows` by `columns` tokens and not normalized again.
    ///
    /// # Shapes
    /// * `gray`: `[size, size]`
    /// * `tokens`: `[rows, columns, channels]`, overwritten
    pub fn describe(&self, gray: &[f32], rows: usize, columns: usize, tokens: &mut [f32]) {
        let cells = self.cells(gray);
        let (row_taps, column_taps) = (taps(self.num_blocks(), rows), taps(self.num_blocks(), columns));
        // Only the blocks that some token needs: at 256 pixels that is a fifteenth of them.
        let (block_rows, block_columns) = (needed(&row_taps), needed(&column_taps));
        let channels = self.channels();
        let mut blocks = vec![0.0; block_rows.len() * block_columns.len() * channels];
        let places = block_rows.iter().flat_map(|row| block_columns.iter().map(move |column| (*row, *column)));
        for ((row, column), block) in places.zip(blocks.chunks_exact_mut(channels)) {
            self.fill_block(&cells, row, column, block);
        }
        let place = |kept: &[usize], wanted: usize| kept.partition_point(|&block| block < wanted);
        let block_at = |row: usize, column: usize| {
            let start = (place(&block_rows, row) * block_columns.len() + place(&block_columns, column)) * channels;
            &blocks[start..start + channels]
        };
        let grid = row_taps.iter().flat_map(|row| column_taps.iter().map(move |column| (row, column)));
        for ((row, column), token) in grid.zip(tokens.chunks_exact_mut(channels)) {
            let (top_left, top_right) = (block_at(row.low, column.low), block_at(row.low, column.high));
            let (low_left, low_right) = (block_at(row.high, column.low), block_at(row.high, column.high));
            for (channel, value) in token.iter_mut().enumerate() {
                let top = column.mix(top_left[channel], top_right[channel]);
                *value = row.mix(top, column.mix(low_left[channel], low_right[channel]));
            }
        }
    }

    /// Mean gradient magnitude per cell and orientation, `[cells, cells, orientations]`.
    fn cells(&self, gray: &[f32]) -> Vec<f32> {
        let (size, side, num_cells) = (self.size, self.pixels_per_cell, self.num_cells());
        let mut cells = vec![0.0; num_cells * num_cells * self.num_orientations];
        let bin_width = HALF_TURN / self.num_orientations as f32;
        let covered = num_cells * side; // pixels beyond the last whole cell belong to none
        for row in 0..covered {
            let line = &gray[row * size..(row + 1) * size];
            let has_rows = row > 0 && row + 1 < size;
            for column in 0..covered {
                let by_row =
                    if has_rows { gray[(row + 1) * size + column] - gray[(row - 1) * size + column] } else { 0.0 };
                let has_columns = column > 0 && column + 1 < size;
                let by_column = if has_columns { line[column + 1] - line[column - 1] } else { 0.0 };
                let magnitude = (by_row * by_row + by_column * by_column).sqrt();
                if magnitude == 0.0 {
                    continue;
                }
                let bin = (by_row.atan2(by_column).to_degrees().rem_euclid(HALF_TURN) / bin_width) as usize;
                // An angle just below 0 can round up to a whole half turn, which the source puts in no bin.
                if bin < self.num_orientations {
                    cells[((row / side) * num_cells + column / side) * self.num_orientations + bin] += magnitude;
                }
            }
        }
        let area = (side * side) as f32;
        cells.iter_mut().for_each(|value| *value /= area);
        cells
    }

    /// One block: L2-Hys, then unit length.
    fn fill_block(&self, cells: &[f32], row: usize, column: usize, block: &mut [f32]) {
        let width = self.cells_per_block * self.num_orientations;
        for (cell_row, line) in block.chunks_exact_mut(width).enumerate() {
            let start = ((row + cell_row) * self.num_cells() + column) * self.num_orientations;
            line.copy_from_slice(&cells[start..start + width]);
        }
        let scale = 1.0 / (squared_length(block) + BLOCK_EPS * BLOCK_EPS).sqrt();
        block.iter_mut().for_each(|value| *value = (*value * scale).min(CLIP));
        let scale = 1.0 / (squared_length(block) + BLOCK_EPS * BLOCK_EPS).sqrt();
        let scale = scale / (squared_length(block).sqrt() * scale).max(TOKEN_EPS);
        block.iter_mut().for_each(|value| *value *= scale);
    }
}

/// Sum of squares in eight lanes, which the compiler turns into vector instructions.
fn squared_length(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let chunks = values.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|value| value * value).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value * value);
    }
    lanes.iter().sum::<f32>() + rest
}

fn needed(taps: &[Tap]) -> Vec<usize> {
    let mut needed: Vec<usize> = taps.iter().flat_map(|tap| [tap.low, tap.high]).collect();
    needed.sort_unstable();
    needed.dedup();
    needed
}

/// Picture of side `size` from planes of any size: resized, clamped to 0..255, weighted to gray in 0..1.
///
/// # Shapes
/// * `planes`: `[3, height, width]`, RGB in 0..255; result: `[size, size]`
pub fn gray(planes: &[f32], height: usize, width: usize, size: usize) -> Vec<f32> {
    const WEIGHTS: [f32; 3] = [0.2126, 0.7152, 0.0722];
    join_planes(planes, [height, width], size, |color| {
        color.iter().zip(WEIGHTS).map(|(value, weight)| weight * value.clamp(0.0, 255.0)).sum::<f32>() / 255.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOG: OrientedGradients =
        OrientedGradients { size: 21, pixels_per_cell: 2, cells_per_block: 3, num_orientations: 8 };

    fn tokens(gray: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let picture: Vec<f32> = (0..21 * 21).map(|i| gray(i / 21, i % 21)).collect();
        let mut tokens = vec![f32::NAN; 5 * 7 * HOG.channels()];
        HOG.describe(&picture, 5, 7, &mut tokens);
        tokens
    }

    #[test]
    fn a_constant_picture_gives_zeros() {
        assert!(tokens(|_, _| 0.7).iter().all(|&value| value == 0.0));
    }

    #[test]
    fn a_ramp_fills_the_bin_of_its_direction() {
        let direction = |degrees: f32| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            tokens(move |row, column| 0.02 * (sin * row as f32 + cos * column as f32))
        };
        // Token (2, 3) lies in the middle, away from the borders, where gradients are zero.
        for (degrees, bin) in [(0.0, 0), (30.0, 1), (60.0, 2), (100.0, 4), (170.0, 7), (210.0, 1), (300.0, 5)] {
            let token = direction(degrees)[(2 * 7 + 3) * HOG.channels()..][..HOG.channels()].to_vec();
            for (channel, value) in token.iter().enumerate() {
                let expected = if channel % 8 == bin { 1.0 / 3.0 } else { 0.0 }; // nine equal cells of unit length
                assert!((value - expected).abs() < 1e-5, "{degrees} degrees, channel {channel}: {value}");
            }
        }
    }

    #[test]
    fn an_edge_is_seen_only_by_the_tokens_beside_it() {
        let found = tokens(|_, column| if column < 3 { 0.0 } else { 1.0 });
        let length = |column: usize| squared_length(&found[(2 * 7 + column) * HOG.channels()..][..HOG.channels()]);
        // A mixture of blocks of unit length is shorter than they are.
        assert!(length(0) > 0.5 && length(6) == 0.0, "{} {}", length(0), length(6));
    }

    #[test]
    fn gray_weighs_the_channels_and_clamps() {
        let planes: Vec<f32> = [255.0, 300.0, -20.0].iter().flat_map(|&value| [value; 3 * 5]).collect();
        let found = gray(&planes, 3, 5, 7);
        assert!(found.len() == 49 && found.iter().all(|value| (value - 0.9278).abs() < 1e-6), "{found:?}");
    }
}
