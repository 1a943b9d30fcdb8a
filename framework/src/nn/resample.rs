//! Resizing of pictures and position tables, as PyTorch's `interpolate` with `align_corners=False`.
//!
//! Both axes are linear maps of pixels; see [`ops::resize`].

use burn::tensor::{DType, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ops::{self, AxisMap};

/// How a picture gets another size. With `s` the pixels of the source for one of the result, pixel `i` of the result
/// lies at `s · (i + 1/2) − 1/2` of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// Two neighbors; the border pixel is repeated.
    Bilinear,
    /// A triangle as wide as a pixel of the result; weights are divided by their sum.
    BilinearAntialias,
    /// Four neighbors with the cubic kernel of a = −0.75; the border pixel is repeated.
    Bicubic,
    /// The cubic kernel of a = −0.5, as wide as a pixel of the result; weights are divided by their sum.
    BicubicAntialias,
}

impl Resampling {
    /// The map of one axis, computed in f64.
    ///
    /// # Shapes
    /// * result: `[to, from]`, row-major; `from` and `to` are at least 1
    pub fn weights(self, from: usize, to: usize) -> Vec<f32> {
        self.exact_weights(from, to).into_iter().map(|weight| weight as f32).collect()
    }

    fn exact_weights(self, from: usize, to: usize) -> Vec<f64> {
        let scale = from as f64 / to as f64;
        let mut map = vec![0.0f64; to * from];
        for (i, row) in map.chunks_exact_mut(from.max(1)).enumerate() {
            match self {
                Self::Bilinear => interpolate(row, scale, i, 1, triangle),
                Self::Bicubic => interpolate(row, scale, i, 2, |x| cubic(x, -0.75)),
                Self::BilinearAntialias => filter(row, scale, i, 1.0, triangle),
                Self::BicubicAntialias => filter(row, scale, i, 2.0, |x| cubic(x, -0.5)),
            }
        }
        map
    }

    /// Resizes pictures of whole numbers from 0 to 255 as Pillow does with the antialiased filters, equal in every byte:
    /// weights are multiples of 2⁻²², and each axis is rounded on its own.
    ///
    /// # Shapes
    /// * `pictures`: `[batch, channels, from_height, from_width]`
    /// * result: `[batch, channels, height, width]`
    pub fn resize_bytes(self, pictures: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
        let [_, _, from_height, from_width] = pictures.dims();
        let dtype = pictures.dtype();
        // Sums of bytes with such weights have less than 53 bits: f64 is exact.
        let map = |from: usize, to: usize| {
            let bits = f64::from(1 << 22);
            let rounded = self.exact_weights(from, to).into_iter().map(|weight| (weight * bits).round() / bits);
            Tensor::<2>::from_data(TensorData::new(rounded.collect(), [to, from]), (&pictures.device(), DType::F64))
        };
        let bytes = |x: Tensor<4>| (x + 0.5).floor().clamp(0.0, 255.0);
        let mut resized = pictures.clone().cast(DType::F64);
        if width != from_width {
            resized = bytes(ops::map_columns(resized, map(from_width, width)));
        }
        if height != from_height {
            resized = bytes(ops::map_rows(resized, map(from_height, height)));
        }
        resized.cast(dtype)
    }

    /// Resizes pictures to `height` by `width`; the same size is returned untouched.
    ///
    /// # Shapes
    /// * `pictures`: `[batch, channels, from_height, from_width]`
    /// * result: `[batch, channels, height, width]`
    pub fn resize(self, pictures: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
        let [_, _, from_height, from_width] = pictures.dims();
        let map = |from: usize, to: usize| (from != to).then(|| AxisMap::new(&self.weights(from, to), from));
        ops::resize(pictures, map(from_height, height).as_ref(), map(from_width, width).as_ref())
    }
}

/// The `2 · reach` pixels around the point, outer ones moved to the border.
fn interpolate(row: &mut [f64], scale: f64, i: usize, reach: i64, kernel: impl Fn(f64) -> f64) {
    let center = scale * (i as f64 + 0.5) - 0.5;
    let below = center.floor();
    let last = row.len() as i64 - 1;
    for tap in 1 - reach..=reach {
        let at = (below as i64 + tap).clamp(0, last);
        // `at` lies in the row after the clamp.
        row[at as usize] += kernel(center - below - tap as f64);
    }
}

/// All pixels under a kernel that is widened where the picture shrinks.
fn filter(row: &mut [f64], scale: f64, i: usize, radius: f64, kernel: impl Fn(f64) -> f64) {
    let center = scale * (i as f64 + 0.5);
    let wide = scale.max(1.0);
    let first = (center - radius * wide + 0.5).max(0.0) as usize;
    let end = ((center + radius * wide + 0.5).max(0.0) as usize).min(row.len());
    let taps = &mut row[first.min(end)..end];
    for (k, weight) in taps.iter_mut().enumerate() {
        *weight = kernel(((first + k) as f64 - center + 0.5) / wide);
    }
    let sum: f64 = taps.iter().sum();
    if sum != 0.0 {
        taps.iter_mut().for_each(|weight| *weight /= sum);
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64, a: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{DeviceChoice, backend_names, open};
    use crate::streams::Streams;
    use crate::weights::to_host;

    const ALL: [Resampling; 4] =
        [Resampling::Bilinear, Resampling::BilinearAntialias, Resampling::Bicubic, Resampling::BicubicAntialias];

    fn resampled(method: Resampling, source: &[f32], to: usize) -> Vec<f32> {
        let rows = method.weights(source.len(), to);
        rows.chunks(source.len()).map(|row| row.iter().zip(source).map(|(w, x)| w * x).sum()).collect()
    }

    #[test]
    fn results_are_those_of_pytorch() {
        let source = [3.0, -1.0, 4.0, 1.0, -5.0];
        // torch.nn.functional.interpolate in f64, version 2.11.
        let smaller = [
            [1.666667, 4.0, -3.0],
            [1.285714, 2.222222, -2.428571],
            [1.462963, 4.0, -3.277778],
            [1.276923, 2.4, -2.446154],
        ];
        let linear = [3.0, 1.25, -0.6875, 2.4375, 3.0625, 1.1875, -2.375, -5.0];
        let larger = [
            linear,
            linear,
            [3.371338, 0.877014, -0.908142, 2.669128, 3.978943, 1.409973, -2.663391, -5.557007],
            [3.287823, 1.169083, -0.920044, 2.726196, 3.754028, 1.284546, -2.782281, -5.431734],
        ];
        for ((method, smaller), larger) in ALL.into_iter().zip(smaller).zip(larger) {
            for (expected, found) in
                [(&smaller[..], resampled(method, &source, 3)), (&larger, resampled(method, &source, 8))]
            {
                for (a, b) in found.iter().zip(expected) {
                    assert!((a - b).abs() < 2e-6, "{method:?}: {found:?}, expected {expected:?}");
                }
            }
        }
    }

    #[test]
    fn the_same_size_is_the_identity_and_a_constant_stays_constant() {
        for method in ALL {
            let source = Streams::new(1).normal("source", 7);
            assert_eq!(resampled(method, &source, 7), source);
            for to in [1, 3, 7, 40] {
                assert!(resampled(method, &[2.5; 7], to).iter().all(|x| (x - 2.5).abs() < 1e-6), "{method:?} {to}");
            }
        }
    }

    #[test]
    fn bytes_are_those_of_pillow() {
        // A row of noise that Pillow 13 resizes to 9 and to 4 pixels; sums that end on one half are among them.
        let row = [17.0, 240.0, 3.0, 99.0, 255.0, 0.0];
        for name in backend_names() {
            let device = open(if *name == "flex" { DeviceChoice::Flex } else { DeviceChoice::Cpu }).unwrap();
            let picture = Tensor::<4>::from_floats([[[row]]], &device);
            for (width, expected) in [
                (9, &[2.0, 136.0, 223.0, 29.0, 26.0, 126.0, 252.0, 129.0, 0.0][..]),
                (4, &[105.0, 89.0, 147.0, 96.0][..]),
            ] {
                let found = Resampling::BicubicAntialias.resize_bytes(picture.clone(), [1, width]);
                assert_eq!(to_host(found), expected, "{name}");
            }
        }
    }

    #[test]
    fn pictures_are_resized_along_each_axis_on_its_own_on_every_backend() {
        let values = Streams::new(2).normal("pictures", 2 * 3 * 5 * 7);
        for name in backend_names() {
            let choice = if *name == "flex" { DeviceChoice::Flex } else { DeviceChoice::Cpu };
            let device = open(choice).unwrap();
            let pictures = Tensor::<4>::from_data(TensorData::new(values.clone(), [2, 3, 5, 7]), &device);
            for method in ALL {
                let found = method.resize(pictures.clone(), [9, 4]);
                assert_eq!(found.dims(), [2, 3, 9, 4]);
                let found = to_host(found);
                for (picture, found) in values.chunks(35).zip(found.chunks(36)) {
                    let narrow: Vec<f32> = picture.chunks(7).flat_map(|row| resampled(method, row, 4)).collect();
                    for column in 0..4 {
                        let tall: Vec<f32> = narrow.iter().skip(column).step_by(4).copied().collect();
                        let expected = resampled(method, &tall, 9);
                        for (row, expected) in expected.into_iter().enumerate() {
                            assert!((found[row * 4 + column] - expected).abs() < 1e-5);
                        }
                    }
                }
            }
        }
    }
}
