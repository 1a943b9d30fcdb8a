//! The HOG descriptor of scikit-image (Dalal and Triggs, 2005; block norm L2-Hys), dense and resampled.

use rayon::prelude::*;
use realign::plugin::PatchGrid;

const BLOCK_EPS: f32 = 1e-10; // scikit-image's 1e-5, squared
const CLIP: f32 = 0.2; // L2-Hys
const TOKEN_EPS: f32 = 1e-12;

/// Sizes of a dense HOG.
#[derive(Debug, Clone)]
pub struct Hog {
    /// Side that pictures are resized to.
    pub image_size: usize,
    /// Grid that the dense map is resampled to.
    pub grid: PatchGrid,
    /// Bins over 180 degrees.
    pub orientations: usize,
    /// Side of a cell, in pixels.
    pub pixels_per_cell: usize,
    /// Side of a block, in cells.
    pub cells_per_block: usize,
}

impl Hog {
    /// Channels of a token.
    pub fn channels(&self) -> usize {
        self.orientations * self.cells_per_block * self.cells_per_block
    }

    /// Tokens of a batch of RGB planes in 0..255: batch, token, channel.
    pub fn tokens(&self, images: &[f32], batch: usize, size: [usize; 2]) -> Vec<f32> {
        let each = 3 * size[0] * size[1];
        let mut tokens = vec![0.0; batch * self.grid.tokens() * self.channels()];
        let per_image = (self.grid.tokens() * self.channels()).max(1);
        tokens.par_chunks_mut(per_image).zip(images.par_chunks(each.max(1))).for_each(|(tokens, image)| {
            let gray = self.gray(image, size);
            let blocks = self.blocks(&self.cells(&gray));
            self.resample(&blocks, tokens);
        });
        tokens
    }

    /// Luma in [0, 1] at `image_size`, resized bilinearly (half-pixel centers, no antialiasing).
    fn gray(&self, image: &[f32], [height, width]: [usize; 2]) -> Vec<f32> {
        let (plane, side) = (height * width, self.image_size);
        let luma = |[r, g, b]: [f32; 3]| (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255.0;
        if [height, width] == [side, side] {
            return (0..plane).map(|i| luma([0, 1, 2].map(|c| image[c * plane + i].clamp(0.0, 255.0)))).collect();
        }
        let rows: Vec<_> = (0..side).map(|row| taps(row, side, height)).collect();
        let columns: Vec<_> = (0..side).map(|column| taps(column, side, width)).collect();
        let mut gray = Vec::with_capacity(side * side);
        for (above, below, down) in &rows {
            for (left, right, across) in &columns {
                gray.push(luma([0, 1, 2].map(|c| {
                    let at = |row: usize, column: usize| image[c * plane + row * width + column];
                    let top = at(*above, *left) * (1.0 - across) + at(*above, *right) * across;
                    let bottom = at(*below, *left) * (1.0 - across) + at(*below, *right) * across;
                    (top * (1.0 - down) + bottom * down).clamp(0.0, 255.0)
                })));
            }
        }
        gray
    }

    /// Histograms of gradient magnitude by orientation, per cell: row, column, orientation.
    fn cells(&self, gray: &[f32]) -> Vec<f32> {
        let (side, pixels, bins) = (self.image_size, self.pixels_per_cell, self.orientations);
        let cells = side / pixels;
        let mut histograms = vec![0.0; cells * cells * bins];
        let share = 1.0 / (pixels * pixels) as f32;
        let bin_width = 180.0 / bins as f32;
        for row in 0..cells * pixels {
            for column in 0..cells * pixels {
                let inside = |at: usize| at > 0 && at + 1 < side;
                let at = row * side + column;
                let down = if inside(row) { gray[at + side] - gray[at - side] } else { 0.0 };
                let across = if inside(column) { gray[at + 1] - gray[at - 1] } else { 0.0 };
                let magnitude = across.hypot(down);
                if magnitude == 0.0 {
                    continue;
                }
                // In f64: an angle that is a bin's border must fall on the same side as in NumPy.
                let degrees = f64::from(down).atan2(f64::from(across)).to_degrees().rem_euclid(180.0);
                let bin = ((degrees / f64::from(bin_width)) as usize).min(bins - 1);
                histograms[((row / pixels) * cells + column / pixels) * bins + bin] += magnitude * share;
            }
        }
        histograms
    }

    /// Normalized descriptors of all blocks, stride one cell: row, column, channel.
    fn blocks(&self, cells: &[f32]) -> Vec<f32> {
        let (n, bins, channels) = (self.cells_per_block, self.orientations, self.channels());
        let side = self.image_size / self.pixels_per_cell;
        let count = side + 1 - n;
        let mut blocks = vec![0.0; count * count * channels];
        for (i, block) in blocks.chunks_exact_mut(channels).enumerate() {
            let (row, column) = (i / count, i % count);
            for (k, line) in block.chunks_exact_mut(n * bins).enumerate() {
                let start = ((row + k) * side + column) * bins;
                line.copy_from_slice(&cells[start..start + n * bins]);
            }
            normalize(block);
            block.iter_mut().for_each(|value| *value = value.min(CLIP));
            normalize(block);
            let norm = squares(block).sqrt().max(TOKEN_EPS);
            block.iter_mut().for_each(|value| *value /= norm);
        }
        blocks
    }

    /// Bilinear resampling of the dense map to the token grid; tokens are not normalized again.
    fn resample(&self, blocks: &[f32], tokens: &mut [f32]) {
        let (channels, count) = (self.channels(), self.image_size / self.pixels_per_cell + 1 - self.cells_per_block);
        for (i, token) in tokens.chunks_exact_mut(channels).enumerate() {
            let (above, below, down) = taps(i / self.grid.columns, self.grid.rows, count);
            let (left, right, across) = taps(i % self.grid.columns, self.grid.columns, count);
            let corners = [
                (above, left, (1.0 - down) * (1.0 - across)),
                (above, right, (1.0 - down) * across),
                (below, left, down * (1.0 - across)),
                (below, right, down * across),
            ];
            for (row, column, weight) in corners {
                let block = &blocks[(row * count + column) * channels..][..channels];
                for (value, part) in token.iter_mut().zip(block) {
                    *value += weight * part;
                }
            }
        }
    }
}

fn squares(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum()
}

fn normalize(block: &mut [f32]) {
    let norm = (squares(block) + BLOCK_EPS).sqrt();
    block.iter_mut().for_each(|value| *value /= norm);
}

/// The two source positions and the weight of the second for output `at` of `outputs` over `inputs`.
fn taps(at: usize, outputs: usize, inputs: usize) -> (usize, usize, f32) {
    let source = ((at as f32 + 0.5) * (inputs as f32 / outputs as f32) - 0.5).max(0.0);
    let low = (source as usize).min(inputs - 1);
    (low, (low + 1).min(inputs - 1), source - low as f32)
}
