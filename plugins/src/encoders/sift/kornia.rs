//! SIFT as kornia computes it: the patch of a frame is sampled upright, turned by its dominant gradient, described.
//!
//! Source: kornia `feature.SIFTDescriptor`, `LAFOrienter`, `extract_patches_from_pyramid`, as iREPA
//! `jit/vision_encoder.py`, `SIFTEncoder` calls them. All in f32. kornia takes smaller pyramid levels for frames that
//! are large beside their patch; frames of up to 20 pixels, all that this encoder makes at the published sizes, lie
//! on the picture itself, and so do larger ones here.

use std::f32::consts::{PI, TAU};

use super::super::resized_planes::join_planes;

/// Side of the patch that is described, in samples.
pub const PATCH_SIDE: usize = 41;
/// Values of a descriptor: orientation, then row, then column.
pub const NUM_CHANNELS: usize = NUM_ORIENTATIONS * NUM_CELLS * NUM_CELLS;

const NUM_ORIENTATIONS: usize = 8;
const NUM_CELLS: usize = 4; // along a side
const CELL_WINDOW: usize = 16; // samples of the triangle that pools into one cell
const CELL_STRIDE: usize = 10;
const CELL_PADDING: usize = 4;
const CLIP: f32 = 0.2;
const DESCRIPTOR_EPS: f32 = 1e-10;
const MIN_LENGTH: f32 = 1e-12; // torch.nn.functional.normalize

const TURN_SIDE: usize = PATCH_SIDE / 2; // of the patch whose gradients say how the frame is turned
const TURN_BINS: usize = 36;
const TURN_EPS: f32 = 1e-8;
/// Gaussian of deviation 1.6 on whole numbers: modified Bessel functions of 1.6², divided by their sum.
const TURN_SMOOTHING: [f32; 5] = [0.119_063, 0.231_124, 0.299_628, 0.231_124, 0.119_063];

/// A square gray picture in 0..1.
#[derive(Debug, Clone)]
pub struct Picture {
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
        Self { angle: dominant_angle(&picture.patch(&self, TURN_SIDE)), ..self }
    }
}

impl Picture {
    /// # Shapes
    /// * `planes`: `[3, height, width]`, RGB in 0..255
    pub fn new(planes: &[f32], height: usize, width: usize, side: usize) -> Self {
        let gray = |[red, green, blue]: [f32; 3]| 0.299 * (red / 255.0) + 0.587 * (green / 255.0) + 0.114 * (blue / 255.0);
        Self { side, pixels: join_planes(planes, [height, width], side, gray) }
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

    /// Bilinear value with repeated edges. kornia counts pixels from center to center when it scales a place to
    /// [-1, 1] and from edge to edge when it reads there, so that a place moves by up to half a pixel.
    fn sample(&self, x: f32, y: f32) -> f32 {
        let last = self.side - 1;
        let tap = |at: f32| {
            let at = (at * self.side as f32 / last as f32 - 0.5).clamp(0.0, last as f32);
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
fn dominant_angle(patch: &[f32]) -> f32 {
    let window = gaussian(TURN_SIDE, TURN_SIDE as f32 / 6.0);
    let mut histogram = [0.0; TURN_BINS];
    for row in 0..TURN_SIDE {
        for column in 0..TURN_SIDE {
            let (gx, gy) = sobel(patch, row, column);
            let magnitude = (gx * gx + gy * gy + TURN_EPS).sqrt() * (window[row] * window[column]);
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

/// The descriptor of a patch of [`PATCH_SIDE`] samples: unit length, after clipping at 0.2.
pub fn describe(patch: &[f32], descriptor: &mut [f32]) {
    let side = PATCH_SIDE;
    let window = gaussian(side, side as f32 / std::f32::consts::SQRT_2);
    descriptor.fill(0.0);
    for row in 0..side {
        let rows = cells(row);
        for column in 0..side {
            let at = |row: usize, column: usize| patch[row * side + column];
            let gx = (at(row, (column + 1).min(side - 1)) - at(row, column.saturating_sub(1))) * 0.5;
            let gy = (at((row + 1).min(side - 1), column) - at(row.saturating_sub(1), column)) * 0.5;
            let magnitude = (gx * gx + gy * gy + DESCRIPTOR_EPS).sqrt() * (window[row] * window[column]);
            let direction = NUM_ORIENTATIONS as f32 * (gy.atan2(gx + DESCRIPTOR_EPS) + TAU) / TAU;
            let mut bins = [0.0; NUM_ORIENTATIONS];
            split(direction, magnitude, &mut bins);
            let columns = cells(column);
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
fn cells(sample: usize) -> [(usize, f32); 2] {
    let half = CELL_WINDOW as f32 / 2.0;
    let last = (sample + CELL_PADDING) / CELL_STRIDE;
    [last, last.saturating_sub(1)].map(|cell| {
        let inside = (sample + CELL_PADDING).wrapping_sub(cell * CELL_STRIDE);
        let weight = if inside < CELL_WINDOW && cell < NUM_CELLS { (half - (inside as f32 + 0.5 - half).abs()) / half } else { 0.0 };
        (cell.min(NUM_CELLS - 1), weight)
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
        Picture { side: 35, pixels }
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
            describe(&ramp.patch(&frame, PATCH_SIDE), &mut descriptor);
            found.push(descriptor);
        }
        let gap = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap(&found[0], &found[1]) < 0.02 && gap(&found[0], &found[2]) < 0.02);
    }

    #[test]
    fn descriptors_have_unit_length_and_constant_pictures_are_finite() {
        for gray in [0.0, 0.3, 1.0] {
            let constant = picture(|_, _| gray);
            let frame = Frame { x: 1.0, y: 34.0, scale: 9.0, angle: 0.0 }.oriented(&constant);
            let mut descriptor = vec![0.0; NUM_CHANNELS];
            describe(&constant.patch(&frame, PATCH_SIDE), &mut descriptor);
            let length: f32 = descriptor.iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
        }
    }

    #[test]
    fn every_sample_is_pooled_by_triangles_ten_samples_apart() {
        for sample in 0..PATCH_SIDE {
            for cell in 0..NUM_CELLS {
                let found: f32 = cells(sample).iter().filter(|(c, _)| *c == cell).map(|(_, weight)| weight).sum();
                let center = 10.0 * cell as f32 + 3.5;
                let expected = (1.0 - (sample as f32 - center).abs() / 8.0).max(0.0);
                assert!((found - expected).abs() < 1e-6, "sample {sample}, cell {cell}: {found} and {expected}");
            }
        }
    }
}
