//! SIFT as kornia computes it: the patch of a frame is sampled upright, turned by its dominant gradient, described.
//!
//! Source: kornia `feature.SIFTDescriptor`, `LAFOrienter`, `extract_patches_from_pyramid`, as iREPA
//! `jit/vision_encoder.py`, `SIFTEncoder` calls them. All in f32. kornia takes smaller pyramid levels for frames that
//! are large beside their patch; frames below 20 pixels, as the published encoder makes them, lie on the picture
//! itself, and so do larger ones here.

use std::f32::consts::{PI, TAU};

use super::super::resized_planes::join_planes;

/// Side of the patch that is described, in samples.
pub const PATCH_SIDE: usize = 41;
/// Values of a descriptor: orientation, then row, then column.
pub const NUM_CHANNELS: usize = NUM_ORIENTATIONS * NUM_CELLS * NUM_CELLS;

const NUM_ORIENTATIONS: usize = 8;
const NUM_CELLS: usize = 4; // along a side
const CELL_STRIDE: usize = 10;
const CLIP: f32 = 0.2;
const DESCRIPTOR_EPS: f32 = 1e-10;
const MIN_LENGTH: f32 = 1e-12; // torch.nn.functional.normalize

const TURN_SIDE: usize = PATCH_SIDE / 2; // of the patch whose gradients say how the frame is turned
const TURN_BINS: usize = 36;
const TURN_EPS: f32 = 1e-8;
/// Gaussian of deviation 1.6 on whole numbers: modified Bessel functions of 1.6², divided by their sum.
const TURN_SMOOTHING: [f32; 5] = [0.119_063, 0.231_124, 0.299_628, 0.231_124, 0.119_063];

/// Whose rules: kornia 0.9 corrected three of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Up to kornia 0.8. Samples lie up to half a pixel off, because places are scaled to [-1, 1] from center to center
    /// of the outer pixels and read from edge to edge; the grid of cells lies half a sample off the patch's center;
    /// pixels without gradient count a little for direction 0.
    V08,
    /// From kornia 0.9.
    V09,
}

impl Rules {
    /// Samples of the triangle that pools into a cell, and how many of the first one lie outside the patch.
    fn cell_window(self) -> (usize, usize) {
        match self {
            Self::V08 => (16, 4),
            Self::V09 => (17, 3),
        }
    }

    fn magnitude(self, gx: f32, gy: f32, eps: f32) -> f32 {
        let square = gx * gx + gy * gy;
        if self == Self::V09 && square == 0.0 { 0.0 } else { (square + eps).sqrt() }
    }
}

/// A square gray picture in 0..1.
#[derive(Debug, Clone)]
pub struct Picture {
    rules: Rules,
    side: usize,
    pixels: Vec<f32>,
}

/// A turned square in a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Column of the center, in pixels.
    pub x: f32,
    /// Row of the center, in pixels.
    pub y: f32,
    /// Half the side, in pixels.
    pub scale: f32,
    /// Rotation, in radians.
    pub angle: f32,
}

impl Frame {
    /// kornia's local affine frame: what takes the square [-1, 1]² to the picture, `[2, 3]` row by row.
    pub fn affine(&self) -> [f32; 6] {
        let (sin, cos) = self.angle.sin_cos();
        let [sin, cos] = [sin * self.scale, cos * self.scale];
        [cos, sin, self.x, -sin, cos, self.y]
    }

    /// The frame turned by the strongest gradient direction inside it.
    pub fn oriented(self, picture: &Picture) -> Self {
        Self { angle: dominant_angle(picture.rules, &picture.patch(&self, TURN_SIDE)), ..self }
    }
}

impl Picture {
    /// # Shapes
    /// * `planes`: `[3, height, width]`, RGB in 0..255
    pub fn new(rules: Rules, planes: &[f32], height: usize, width: usize, side: usize) -> Self {
        let gray =
            |[red, green, blue]: [f32; 3]| 0.299 * (red / 255.0) + 0.587 * (green / 255.0) + 0.114 * (blue / 255.0);
        Self { rules, side, pixels: join_planes(planes, [height, width], side, gray) }
    }

    /// `side` by `side` samples of a frame, row by row.
    pub fn patch(&self, frame: &Frame, side: usize) -> Vec<f32> {
        let [xx, xy, x0, yx, yy, y0] = frame.affine();
        let place = |i: usize| (2 * i + 1) as f32 / side as f32 - 1.0;
        let mut patch = Vec::with_capacity(side * side);
        for v in (0..side).map(place) {
            for u in (0..side).map(place) {
                patch.push(self.sample(xx * u + xy * v + x0, yx * u + yy * v + y0));
            }
        }
        patch
    }

    /// The descriptor of a frame, [`NUM_CHANNELS`] values.
    pub fn describe(&self, frame: &Frame, descriptor: &mut [f32]) {
        describe(self.rules, &self.patch(frame, PATCH_SIDE), descriptor);
    }

    /// Bilinear value with repeated edges.
    fn sample(&self, x: f32, y: f32) -> f32 {
        let last = self.side - 1;
        let tap = |at: f32| {
            let at = match self.rules {
                Rules::V08 => at * self.side as f32 / last as f32 - 0.5,
                Rules::V09 => at,
            };
            let at = at.clamp(0.0, last as f32);
            let low = at as usize;
            (low, (low + 1).min(last), at - low as f32)
        };
        let ((left, right, along), (top, bottom, down)) = (tap(x), tap(y));
        let line = |row: usize| {
            let line = &self.pixels[row * self.side..][..self.side];
            line[left] * (1.0 - along) + line[right] * along
        };
        line(top) * (1.0 - down) + line(bottom) * down
    }
}

/// Direction of the strongest peak in a smoothed histogram of gradients, in radians.
fn dominant_angle(rules: Rules, patch: &[f32]) -> f32 {
    let window = gaussian(TURN_SIDE, TURN_SIDE as f32 / 6.0);
    let mut histogram = [0.0; TURN_BINS];
    for row in 0..TURN_SIDE {
        for column in 0..TURN_SIDE {
            let (gx, gy) = sobel(patch, row, column);
            let magnitude = rules.magnitude(gx, gy, TURN_EPS) * (window[row] * window[column]);
            let at = TURN_BINS as f32 * (gy.atan2(gx + TURN_EPS) + TAU + PI) / TAU;
            split(at, magnitude, &mut histogram);
        }
    }
    let at = |i: usize, offset: usize| (i + TURN_BINS + offset - 2) % TURN_BINS;
    let smooth = |i: usize| (0..5).map(|k| TURN_SMOOTHING[k] * histogram[at(i, k)]).sum::<f32>();
    let smoothed: [f32; TURN_BINS] = std::array::from_fn(smooth);
    // The first of equal peaks, as PyTorch takes it.
    let peak = (1..TURN_BINS).fold(0, |best, i| if smoothed[i] > smoothed[best] { i } else { best });
    let (left, right) = (smoothed[at(peak, 1)], smoothed[at(peak, 3)]);
    let curvature = left + right - 2.0 * smoothed[peak];
    let shift = if curvature == 0.0 { 0.0 } else { 0.5 * (left - right) / curvature };
    PI - TAU * (peak as f32 + shift) / TURN_BINS as f32
}

/// The descriptor of a patch of [`PATCH_SIDE`] samples: unit length, after clipping at 0.2; zero where nothing counts.
fn describe(rules: Rules, patch: &[f32], descriptor: &mut [f32]) {
    let side = PATCH_SIDE;
    let window = gaussian(side, side as f32 / std::f32::consts::SQRT_2);
    descriptor.fill(0.0);
    for row in 0..side {
        let rows = cells(rules, row);
        for column in 0..side {
            let at = |row: usize, column: usize| patch[row * side + column];
            let gx = (at(row, (column + 1).min(side - 1)) - at(row, column.saturating_sub(1))) * 0.5;
            let gy = (at((row + 1).min(side - 1), column) - at(row.saturating_sub(1), column)) * 0.5;
            let magnitude = rules.magnitude(gx, gy, DESCRIPTOR_EPS) * (window[row] * window[column]);
            let direction = NUM_ORIENTATIONS as f32 * (gy.atan2(gx + DESCRIPTOR_EPS) + TAU) / TAU;
            let mut bins = [0.0; NUM_ORIENTATIONS];
            split(direction, magnitude, &mut bins);
            let columns = cells(rules, column);
            for (bin, value) in bins.into_iter().enumerate().filter(|(_, value)| *value > 0.0) {
                for (cell_row, by_row) in rows {
                    for (cell_column, by_column) in columns {
                        let cell = (bin * NUM_CELLS + cell_row) * NUM_CELLS + cell_column;
                        descriptor[cell] += by_row * by_column * value;
                    }
                }
            }
        }
    }
    normalize(descriptor);
    descriptor.iter_mut().for_each(|value| *value = value.min(CLIP));
    normalize(descriptor);
}

/// The two cells whose triangles cover a sample, and their weights; weight 0 stands for none.
fn cells(rules: Rules, sample: usize) -> [(usize, f32); 2] {
    let (window, padding) = rules.cell_window();
    let half = window as f32 / 2.0;
    let last = (sample + padding) / CELL_STRIDE;
    let triangle = |inside: usize| (half - (inside as f32 + 0.5 - half).abs()) / half;
    [Some(last), last.checked_sub(1)].map(|cell| match cell {
        Some(cell) if cell < NUM_CELLS && sample + padding - cell * CELL_STRIDE < window => {
            (cell, triangle(sample + padding - cell * CELL_STRIDE))
        }
        _ => (0, 0.0),
    })
}

/// Adds `value` to the two circular bins beside the place `at`, which is not negative.
fn split(at: f32, value: f32, bins: &mut [f32]) {
    let low = at.floor();
    let (first, share) = (low as usize % bins.len(), at - low);
    bins[first] += (1.0 - share) * value;
    bins[(first + 1) % bins.len()] += share * value;
}

/// Sobel's differences divided by 8, with repeated edges.
fn sobel(patch: &[f32], row: usize, column: usize) -> (f32, f32) {
    let last = TURN_SIDE - 1;
    let rows = [row.saturating_sub(1), row, (row + 1).min(last)];
    let columns = [column.saturating_sub(1), column, (column + 1).min(last)];
    let at = |i: usize, j: usize| patch[rows[i] * TURN_SIDE + columns[j]];
    let gx = at(0, 2) - at(0, 0) + 2.0 * (at(1, 2) - at(1, 0)) + at(2, 2) - at(2, 0);
    let gy = at(2, 0) - at(0, 0) + 2.0 * (at(2, 1) - at(0, 1)) + at(2, 2) - at(0, 2);
    (gx / 8.0, gy / 8.0)
}

/// One axis of a Gaussian window, with sum 1.
fn gaussian(size: usize, deviation: f32) -> Vec<f32> {
    let center = (size as f32 - 1.0) / 2.0;
    let values: Vec<f32> =
        (0..size).map(|i| (-(i as f32 - center).powi(2) / (2.0 * deviation * deviation)).exp()).collect();
    let sum: f32 = values.iter().sum();
    values.into_iter().map(|value| value / sum).collect()
}

fn normalize(values: &mut [f32]) {
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt().max(MIN_LENGTH);
    values.iter_mut().for_each(|value| *value /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(gray: impl Fn(f32, f32) -> f32) -> Picture {
        let pixels = (0..35 * 35).map(|i| gray((i / 35) as f32, (i % 35) as f32)).collect();
        Picture { rules: Rules::V09, side: 35, pixels }
    }

    #[test]
    fn a_ramp_turns_its_frame_into_its_direction() {
        for degrees in [-150.0f32, -60.0, -5.0, 0.0, 40.0, 95.0, 170.0] {
            let (sin, cos) = degrees.to_radians().sin_cos();
            let ramp = picture(|row, column| 0.5 + 0.01 * (cos * column + sin * row));
            let frame = Frame { x: 17.0, y: 17.0, scale: 9.0, angle: 0.0 }.oriented(&ramp);
            // kornia turns counterclockwise with rows upwards, hence the sign; bins are ten degrees wide.
            let gap = (frame.angle.to_degrees() + degrees + 540.0).rem_euclid(360.0) - 180.0;
            assert!(gap.abs() < 1.0, "{degrees} degrees: found {}", frame.angle.to_degrees());
        }
    }

    #[test]
    fn a_turned_ramp_is_described_as_an_upright_one() {
        let mut found = vec![];
        for degrees in [0.0f32, 30.0, -120.0] {
            let (sin, cos) = degrees.to_radians().sin_cos();
            let ramp = picture(|row, column| 0.5 + 0.01 * (cos * column + sin * row));
            let frame = Frame { x: 17.0, y: 17.0, scale: 9.0, angle: 0.0 }.oriented(&ramp);
            let mut descriptor = vec![0.0; NUM_CHANNELS];
            ramp.describe(&frame, &mut descriptor);
            found.push(descriptor);
        }
        let gap = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap(&found[0], &found[1]) < 0.02 && gap(&found[0], &found[2]) < 0.02);
    }

    #[test]
    fn a_flat_patch_is_zero_by_the_new_rules_and_of_unit_length_by_the_old() {
        for (rules, expected) in [(Rules::V08, 1.0), (Rules::V09, 0.0)] {
            let constant = Picture { rules, ..picture(|_, _| 0.3) };
            let frame = Frame { x: 1.0, y: 34.0, scale: 9.0, angle: 0.0 }.oriented(&constant);
            let mut descriptor = vec![f32::NAN; NUM_CHANNELS];
            constant.describe(&frame, &mut descriptor);
            let length: f32 = descriptor.iter().map(|value| value * value).sum();
            assert!((length - expected).abs() < 1e-5, "{rules:?}: {length}");
        }
    }

    #[test]
    fn every_sample_is_pooled_by_triangles_ten_samples_apart() {
        for (rules, first, half) in [(Rules::V08, 3.5, 8.0), (Rules::V09, 5.0, 8.5)] {
            for sample in 0..PATCH_SIDE {
                for cell in 0..NUM_CELLS {
                    let all = cells(rules, sample);
                    let found: f32 = all.iter().filter(|(c, _)| *c == cell).map(|(_, weight)| weight).sum();
                    let center = 10.0 * cell as f32 + first;
                    let expected = (1.0 - (sample as f32 - center).abs() / half).max(0.0);
                    assert!((found - expected).abs() < 1e-6, "sample {sample}, cell {cell}: {found} and {expected}");
                }
            }
        }
    }
}
