//! Resizing of picture planes by a linear map of each axis.

use burn::tensor::{Device, Tensor};

/// A linear map of one axis that touches few neighbors for each result.
#[derive(Debug, Clone, PartialEq)]
pub struct AxisMap {
    /// Values that it maps from.
    pub from: usize,
    /// First of the neighbors of each result; all have equally many.
    pub first: Vec<i32>,
    /// Weights of the neighbors, `[results, neighbors]`, row-major.
    pub weights: Vec<f32>,
}

impl AxisMap {
    /// The map of a dense matrix `[to, from]`, row-major; every result gets as many neighbors as the widest row needs.
    pub fn new(dense: &[f32], from: usize) -> Self {
        let rows = || dense.chunks_exact(from.max(1));
        let first = |row: &[f32]| row.iter().position(|weight| *weight != 0.0).unwrap_or(0);
        let end = |row: &[f32]| row.iter().rposition(|weight| *weight != 0.0).map_or(1, |last| last + 1);
        let count = rows().map(|row| end(row).saturating_sub(first(row))).max().unwrap_or(1).max(1).min(from);
        let starts: Vec<usize> = rows().map(|row| first(row).min(from - count)).collect();
        let weights = rows().zip(&starts).flat_map(|(row, start)| row[*start..start + count].iter().copied()).collect();
        // A start lies below `from`, which is the side of a picture.
        Self { from, first: starts.into_iter().map(|start| start as i32).collect(), weights }
    }

    fn size(&self) -> usize {
        self.first.len()
    }

    #[cfg(feature = "tch")]
    fn taps(&self) -> usize {
        self.weights.len() / self.size().max(1)
    }

    fn dense(&self, device: &Device) -> Tensor<2> {
        let (count, mut dense) = (self.weights.len() / self.size().max(1), vec![0.0; self.size() * self.from]);
        for (i, (first, weights)) in self.first.iter().zip(self.weights.chunks(count.max(1))).enumerate() {
            let start = i * self.from + *first as usize; // never negative
            dense[start..start + count].copy_from_slice(weights);
        }
        super::upload(&dense, [self.size(), self.from], device)
    }
}

/// Pictures with both axes mapped; an axis without map stays.
///
/// On libtorch's CPU without graph only the neighbors are touched; elsewhere it is a matrix product along each axis.
///
/// # Shapes
/// * `pictures`: `[batch, channels, height, width]`; the maps are from `height` and `width`
/// * result: `[batch, channels, rows, columns]`
pub fn resize(pictures: Tensor<4>, rows: Option<&AxisMap>, columns: Option<&AxisMap>) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if let (Some(rows), Some(columns)) = (rows, columns)
        && !pictures.is_autodiff()
        && super::device::on_libtorch_cpu(&pictures.device())
        && pictures.dtype() == burn::tensor::DType::F32
    {
        return fused::resize(pictures, rows, columns);
    }
    portable(pictures, rows, columns)
}

fn portable(pictures: Tensor<4>, rows: Option<&AxisMap>, columns: Option<&AxisMap>) -> Tensor<4> {
    let device = pictures.device();
    let narrow = match columns {
        Some(map) => map_columns(pictures, map.dense(&device)),
        None => pictures,
    };
    match rows {
        Some(map) => map_rows(narrow, map.dense(&device)),
        None => narrow,
    }
}

/// Pictures `[batch, channels, height, from]` under a dense map `[to, from]` of each row.
pub(crate) fn map_columns(pictures: Tensor<4>, map: Tensor<2>) -> Tensor<4> {
    let ([batch, channels, height, from], [to, _]) = (pictures.dims(), map.dims());
    let lines = pictures.reshape([batch * channels * height, from]);
    lines.matmul(map.transpose()).reshape([batch, channels, height, to])
}

/// Pictures `[batch, channels, from, width]` under a dense map `[to, from]` of each column.
pub(crate) fn map_rows(pictures: Tensor<4>, map: Tensor<2>) -> Tensor<4> {
    let ([batch, channels, from, width], [to, _]) = (pictures.dims(), map.dims());
    let planes = pictures.reshape([batch * channels, from, width]);
    let map = map.unsqueeze::<3>().expand([batch * channels, to, from]);
    map.matmul(planes).reshape([batch, channels, to, width])
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::LibTorch;
    use burn::tensor::Tensor;

    use super::AxisMap;
    use crate::ops::libtorch::{Handle, check, fresh, handle, own};

    unsafe extern "C" {
        fn rl_resize(
            x: Handle,
            row_first: *const i32,
            row_weights: *const f32,
            row_taps: i64,
            height: i64,
            column_first: *const i32,
            column_weights: *const f32,
            column_taps: i64,
            width: i64,
            y: *mut Handle,
        ) -> i32;
    }

    pub fn resize(pictures: Tensor<4>, rows: &AxisMap, columns: &AxisMap) -> Tensor<4> {
        let [batch, channels, height, width] = pictures.dims();
        let planes = pictures.reshape([batch * channels, height, width]);
        let Ok(planes) = planes.try_into_primitive::<LibTorch>() else {
            unreachable!("the caller asked for libtorch, and the tensor has no graph")
        };
        let [(row_first, row_weights), (column_first, column_weights)] =
            [rows, columns].map(|map| (map.first.as_ptr(), map.weights.as_ptr()));
        let ([row_taps, column_taps], [new_height, new_width]) =
            ([rows, columns].map(|map| map.taps() as i64), [rows, columns].map(AxisMap::size));
        let mut y = std::ptr::null_mut();
        // SAFETY: a live tensor in, an owned one out; each list of weights has `taps` values for every start, and the
        // kernel checks that no start leads outside of the picture.
        check(unsafe {
            rl_resize(
                handle(&planes.tensor),
                row_first,
                row_weights,
                row_taps,
                new_height as i64,
                column_first,
                column_weights,
                column_taps,
                new_width as i64,
                &mut y,
            )
        });
        let resized = Tensor::<3>::from_primitive::<LibTorch>(fresh(own(y)));
        resized.reshape([batch, channels, new_height, new_width])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::ops::gradient_check::{assert_close, devices};
    use crate::streams::Streams;
    use crate::weights::to_host;

    /// Weights of three neighbors here, two there, and of the two outermost values.
    const DENSE: [f32; 20] = [
        0.5, 0.25, 0.25, 0.0, 0.0, //
        0.0, 0.0, -0.5, 1.5, 0.0, //
        0.0, 0.0, 0.0, 0.0, 1.0, //
        0.0, 0.5, 0.0, 0.5, 0.0,
    ];

    #[test]
    fn a_map_keeps_what_its_widest_row_needs_and_stays_inside() {
        let map = AxisMap::new(&DENSE, 5);
        assert_eq!(map.first, [0, 2, 2, 1]);
        assert_eq!(map.weights, [0.5, 0.25, 0.25, -0.5, 1.5, 0.0, 0.0, 0.0, 1.0, 0.5, 0.0, 0.5]);
    }

    #[test]
    fn the_kernel_and_the_matrix_products_agree_with_the_sums() {
        let rows = AxisMap::new(&DENSE, 5);
        let columns = AxisMap::new(&[0.2, 0.3, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6, 0.2, 0.2], 7);
        let values = Streams::new(1).normal("pictures", 2 * 3 * 5 * 7);
        let expected: Vec<f32> = values
            .chunks(35)
            .flat_map(|plane| {
                let sum = |y: usize, x: usize| -> f32 {
                    let weight = |row: usize, column: usize| {
                        let along = |map: &AxisMap, at: usize, from: usize| {
                            let (first, taps) = (map.first[at] as usize, map.weights.len() / map.first.len());
                            if (first..first + taps).contains(&from) {
                                map.weights[at * taps + from - first]
                            } else {
                                0.0
                            }
                        };
                        along(&rows, y, row) * along(&columns, x, column)
                    };
                    (0..35).map(|i| plane[i] * weight(i / 7, i % 7)).sum()
                };
                (0..8).map(|i| sum(i / 2, i % 2)).collect::<Vec<_>>()
            })
            .collect();
        for device in devices() {
            let pictures = Tensor::<4>::from_data(TensorData::new(values.clone(), [2, 3, 5, 7]), &device);
            for resized in
                [resize(pictures.clone(), Some(&rows), Some(&columns)), portable(pictures, Some(&rows), Some(&columns))]
            {
                assert_eq!(resized.dims(), [2, 3, 4, 2]);
                assert_close(&format!("{device:?}"), &to_host(resized), &expected, 1e-6);
            }
        }
    }
}
