//! SIFT as OpenCV describes keypoints that it is given: on the blurred picture, in wide cells.
//!
//! Source: Lowe, 2004; OpenCV `modules/features2d/src/sift.simd.hpp`, as iREPA `jit/vision_encoder.py`,
//! `SIFTOpenCVEncoder` calls it: keypoints of octave 0 whose angle is unset. OpenCV takes their angle -1 at its word
//! and turns the descriptor by one degree. Values are whole numbers in 0..255, of length about 512.
//!
//! OpenCV's fast arc tangent is off by up to 0.01 degrees, and it puts a fiftieth of the gradients below one degree
//! into a neighboring cell by an index that wraps; here both are exact.

use super::super::resized_planes::join_planes;

const NUM_ORIENTATIONS: usize = 8;
const NUM_CELLS: usize = 4; // along a side
const CELL_SCALE: f32 = 1.5; // side of a cell, in diameters of the keypoint
const TURN_DEGREES: f32 = 361.0; // 360 less the unset angle -1
const CLIP: f32 = 0.2;
const LENGTH: f32 = 512.0;
/// √(1.6² − 0.5²): from a camera's sharpness to the first level of the scale space.
const BLUR_DEVIATION: f64 = 1.519_868_415_357_066;
const BLUR_RADIUS: isize = 6; // OpenCV's for this deviation and floats

/// Gradients of a blurred gray picture.
#[derive(Debug, Clone)]
pub struct Gradients {
    side: usize,
    /// Length and direction in degrees, `[side, side]`; the outermost pixels are zero and not read.
    polar: Vec<(f32, f32)>,
}

impl Gradients {
    /// # Shapes
    /// * `planes`: `[3, height, width]`, RGB in 0..255
    pub fn new(planes: &[f32], height: usize, width: usize, side: usize) -> Self {
        let picture = blurred(&join_planes(planes, [height, width], side, gray), side);
        let mut polar = vec![(0.0, 0.0); side * side];
        for row in 1..side.saturating_sub(1) {
            for column in 1..side - 1 {
                let at = row * side + column;
                let (dx, dy) = (picture[at + 1] - picture[at - 1], picture[at - side] - picture[at + side]);
                polar[at] = ((dx * dx + dy * dy).sqrt(), dy.atan2(dx).to_degrees().rem_euclid(360.0));
            }
        }
        Self { side, polar }
    }

    /// The descriptor of a keypoint at column `x` and row `y` with diameter `size`, all in pixels.
    pub fn describe(&self, x: f32, y: f32, size: f32, descriptor: &mut [f32]) {
        let cell_side = CELL_SCALE * size;
        let (sin, cos) = TURN_DEGREES.to_radians().sin_cos();
        let (sin, cos) = (sin / cell_side, cos / cell_side);
        let (x, y) = (x.round_ties_even(), y.round_ties_even());
        let cells = NUM_CELLS as f32;
        let radius = (cell_side * std::f32::consts::SQRT_2 * (cells + 1.0) * 0.5).round_ties_even();
        let first = |center: f32| (center - radius).max(1.0) as usize;
        let last = |center: f32| ((center + radius) as usize).min(self.side.saturating_sub(2));
        descriptor.fill(0.0);
        for row in first(y)..=last(y) {
            for column in first(x)..=last(x) {
                let (i, j) = (row as f32 - y, column as f32 - x);
                let (along, down) = (j * cos - i * sin, j * sin + i * cos);
                let (cell_row, cell_column) = (down + cells / 2.0 - 0.5, along + cells / 2.0 - 0.5);
                let is_inside = |cell: f32| cell > -1.0 && cell < cells;
                if !is_inside(cell_row) || !is_inside(cell_column) {
                    continue;
                }
                let (length, direction) = self.polar[row * self.side + column];
                let window = (-(along * along + down * down) / (cells * cells * 0.5)).exp();
                let bin = (direction - TURN_DEGREES) * NUM_ORIENTATIONS as f32 / 360.0;
                spread([cell_row, cell_column, bin], length * window, descriptor);
            }
        }
        quantize(descriptor);
    }
}

/// Adds `value` to the eight bins around a place; cells outside are dropped and orientations are circular.
fn spread([row, column, bin]: [f32; 3], value: f32, descriptor: &mut [f32]) {
    let parts = |at: f32| {
        let low = at.floor();
        [(low as isize, 1.0 - (at - low)), (low as isize + 1, at - low)]
    };
    let is_cell = |cell: isize| (0..NUM_CELLS as isize).contains(&cell);
    let bins = parts(bin).map(|(bin, share)| (bin.rem_euclid(NUM_ORIENTATIONS as isize) as usize, share));
    for (row, by_row) in parts(row).into_iter().filter(|(row, _)| is_cell(*row)) {
        for (column, by_column) in parts(column).into_iter().filter(|(column, _)| is_cell(*column)) {
            let cell = (row as usize * NUM_CELLS + column as usize) * NUM_ORIENTATIONS;
            for (bin, by_bin) in bins {
                descriptor[cell + bin] += value * by_row * by_column * by_bin;
            }
        }
    }
}

/// Clips at a fifth of the length, then scales to length 512 and rounds to bytes.
fn quantize(descriptor: &mut [f32]) {
    let length = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
    let limit = length(descriptor) * CLIP;
    descriptor.iter_mut().for_each(|value| *value = value.min(limit));
    let scale = LENGTH / length(descriptor).max(f32::EPSILON);
    descriptor.iter_mut().for_each(|value| *value = (*value * scale).round_ties_even().clamp(0.0, 255.0));
}

/// Gray of a byte picture in OpenCV's whole-number weights, 0..255.
fn gray(color: [f32; 3]) -> f32 {
    const WEIGHTS: [u32; 3] = [9798, 19235, 3735]; // of 2^15
    let byte = |value: f32| value.clamp(0.0, 255.0).round_ties_even() as u32;
    let sum: u32 = color.into_iter().zip(WEIGHTS).map(|(value, weight)| weight * byte(value)).sum();
    ((sum + (1 << 14)) >> 15) as f32
}

/// Gaussian blur with edges mirrored around the outermost pixel.
fn blurred(picture: &[f32], side: usize) -> Vec<f32> {
    let weight = |offset: isize| (-((offset * offset) as f64) / (2.0 * BLUR_DEVIATION * BLUR_DEVIATION)).exp();
    let sum: f64 = (-BLUR_RADIUS..=BLUR_RADIUS).map(weight).sum();
    let kernel: Vec<(isize, f32)> =
        (-BLUR_RADIUS..=BLUR_RADIUS).map(|offset| (offset, (weight(offset) / sum) as f32)).collect();
    let mirrored = |at: isize| {
        let (last, at) = (side as isize - 1, at.abs());
        let at = if last == 0 { 0 } else { at % (2 * last) };
        at.min(2 * last - at) as usize
    };
    let mut lines = vec![0.0; side * side];
    let mut blurred = vec![0.0; side * side];
    for row in 0..side {
        for column in 0..side {
            let value =
                |(offset, weight): &(isize, f32)| weight * picture[row * side + mirrored(column as isize + offset)];
            lines[row * side + column] = kernel.iter().map(value).sum();
        }
    }
    for row in 0..side {
        let places: Vec<(usize, f32)> =
            kernel.iter().map(|(offset, weight)| (mirrored(row as isize + offset) * side, *weight)).collect();
        for (column, value) in blurred[row * side..][..side].iter_mut().enumerate() {
            *value = places.iter().map(|(start, weight)| weight * lines[start + column]).sum();
        }
    }
    blurred
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blur_keeps_the_sum_of_a_spot_and_mirrors_edges() {
        let mut spot = vec![0.0; 21 * 21];
        spot[10 * 21 + 10] = 1.0;
        let found = blurred(&spot, 21);
        assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let ratio = found[10 * 21 + 11] / found[10 * 21 + 10];
        assert!((ratio - (-1.0f32 / (2.0 * 2.31)).exp()).abs() < 1e-5, "{ratio}");
        for side in [1, 2, 5] {
            assert!(blurred(&vec![3.0; side * side], side).iter().all(|value| (value - 3.0).abs() < 1e-5));
        }
    }

    #[test]
    fn a_ramp_fills_one_direction_of_every_cell() {
        // Rows run downwards and OpenCV's directions upwards: a ramp that grows downwards points to 270 degrees.
        for (toward, bin) in [([0, 1], 0), ([1, 0], 6)] {
            let planes: Vec<f32> =
                (0..3 * 35 * 35).map(|i| ((i / 35 % 35) * toward[0] + (i % 35) * toward[1]) as f32 * 6.0).collect();
            let mut found = vec![0.0; 128];
            Gradients::new(&planes, 35, 35, 35).describe(17.0, 17.0, 4.0, &mut found);
            // One degree of turn puts a little into the bin below.
            for (i, value) in found.iter().enumerate().filter(|(i, _)| i % 8 != bin && (i + 1) % 8 != bin) {
                assert_eq!(*value, 0.0, "channel {i}");
            }
            assert!((0..16).all(|cell| found[cell * 8 + bin] > 50.0), "{found:?}");
        }
    }

    #[test]
    fn gray_rounds_each_color_to_a_byte_first() {
        assert_eq!([gray([255.0; 3]), gray([-3.0, 300.0, 0.4]), gray([0.0; 3])], [255.0, 150.0, 0.0]);
    }
}
