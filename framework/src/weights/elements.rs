//! Values as files hold them, and as floats.

use anyhow::{Context, Result, ensure};
use burn::tensor::{bf16, f16};

/// How a file holds a value, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say all
pub enum ElementType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl ElementType {
    /// Size of one value in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether it is a real number; only those are weights.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The floats of these bytes; nothing for other types.
    pub(super) fn floats(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            _ => vec![],
        }
    }
}

fn each<const N: usize>(bytes: &[u8], float: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| float(*chunk)).collect()
}

/// Which values of a stored array a tensor shows: the first one, and the distance of neighbors along each axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<u64>,
}

impl View {
    /// A tensor that is stored row by row, from the array's first value on.
    pub(super) fn whole(shape: Vec<usize>) -> Self {
        let mut strides = vec![1u64; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis] as u64);
        }
        Self { offset: 0, shape, strides }
    }

    /// Number of values.
    ///
    /// # Errors
    /// There are more than a machine can count.
    pub(super) fn count(&self) -> Result<usize> {
        let count = self.shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
        count.with_context(|| format!("the shape {:?} has too many values", self.shape))
    }

    /// Number of stored values from the first that the tensor shows to the last.
    ///
    /// # Errors
    /// It is not inside an array of `stored` values.
    pub(super) fn span(&self, stored: u64) -> Result<u64> {
        if self.count()? == 0 {
            return Ok(0);
        }
        let reach = |(size, stride): (&usize, &u64)| (*size as u64 - 1).checked_mul(*stride);
        let steps = self.shape.iter().zip(&self.strides).map(reach);
        let span = steps.into_iter().try_fold(1u64, |span, step| span.checked_add(step?));
        let end = span.and_then(|span| span.checked_add(self.offset));
        ensure!(
            end.is_some_and(|end| end <= stored),
            "its shape {:?}, strides {:?} and offset {} reach beyond the {stored} values that are stored",
            self.shape,
            self.strides,
            self.offset
        );
        Ok(span.unwrap_or(0)) // the sum above is larger and did not overflow
    }

    /// The tensor's values, row-major, out of the stored ones from its offset on.
    pub(super) fn gather(&self, stored: Vec<f32>) -> Vec<f32> {
        if self.strides == Self::whole(self.shape.clone()).strides {
            return stored;
        }
        let mut values = Vec::with_capacity(self.shape.iter().product());
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..values.capacity() {
            let at: u64 = index.iter().zip(&self.strides).map(|(i, stride)| *i as u64 * stride).sum();
            values.extend(stored.get(at as usize)); // inside: `span` was checked
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        values
    }
}
