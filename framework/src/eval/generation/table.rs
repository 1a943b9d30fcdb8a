//! Features of many pictures, on the host, and pieces of them on a device.

use anyhow::{Result, ensure};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

/// One row of features for each picture.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeatureTable {
    dim: usize,
    values: Vec<f32>,
}

impl FeatureTable {
    /// Rows of `dim` values.
    ///
    /// # Errors
    /// The values are no such rows.
    pub fn new(values: Vec<f32>, dim: usize) -> Result<Self> {
        ensure!(dim > 0 && values.len().is_multiple_of(dim), "{} values are no rows of {dim}", values.len());
        Ok(Self { dim, values })
    }

    /// Appends rows; the first decide how many values each has.
    ///
    /// # Errors
    /// They have another number of values, or one is not finite.
    pub fn extend(&mut self, rows: &[f32], dim: usize) -> Result<()> {
        ensure!(
            rows.iter().all(|value| value.is_finite()),
            "features are not finite (NaN or infinite); are the network's weights whole?"
        );
        if self.values.is_empty() {
            self.dim = dim;
        }
        ensure!(dim == self.dim, "a picture has {dim} features, and those before it have {}", self.dim);
        self.values.extend_from_slice(rows);
        Ok(())
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Rows `first .. first + count`, fewer at the end, in f64: distances of features nearly cancel.
    ///
    /// # Shapes
    /// * result: `[count, dim]`
    pub fn rows(&self, first: usize, count: usize, device: &Device) -> Tensor<2> {
        let end = (first + count).min(self.len());
        let values = self.values[first * self.dim..end * self.dim].to_vec();
        let rows = Tensor::<2>::from_data(TensorData::new(values, [end - first, self.dim]), device);
        rows.cast(FloatDType::F64)
    }

    /// All rows as blocks of at most `count`.
    pub(super) fn blocks<'a>(&'a self, count: usize, device: &'a Device) -> impl Iterator<Item = Tensor<2>> + 'a {
        (0..self.len()).step_by(count.max(1)).map(move |first| self.rows(first, count, device))
    }
}

/// Squared distances of the rows of `a` from those of `b`, at least 0.
///
/// # Shapes
/// * `a`: `[n, dim]`, `b`: `[m, dim]`, result: `[n, m]`
pub(super) fn squared_distances(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let norms = |x: &Tensor<2>| x.clone().square().sum_dim(1);
    let (of_a, of_b) = (norms(&a), norms(&b));
    (of_a - a.matmul(b.transpose()) * 2.0 + of_b.transpose()).clamp_min(0.0)
}

/// The values of a tensor in f64, row-major.
pub(super) fn to_f64<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    // Converted to f64 just before, so the element type is right.
    tensor.into_data().convert::<f64>().try_to_vec().unwrap_or_default()
}
