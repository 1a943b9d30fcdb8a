//! The way of a step's data to the device: batches, noise, times, constants.
//!
//! On CUDA the values go through a pinned buffer and the host does not wait for the copy; `Tensor::from_data` waits for
//! all work that the device was given before. On other devices both do the same.

#[cfg(feature = "tch")]
use burn::tensor::kind::Autodiff;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// A tensor of these values, row-major.
///
/// ```
/// use realign::burn::tensor::Device;
/// let table = realign::ops::upload(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [3, 2], &Device::flex());
/// assert_eq!(table.dims(), [3, 2]);
/// ```
///
/// # Panics
/// The shape has another number of elements, as `Tensor::from_data`.
pub fn upload<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(device) {
        return trained_like(device, fused::float(fused::copy(values, shape, tch::Kind::Float, device)));
    }
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// [`upload`] of whole numbers.
///
/// # Panics
/// As [`upload`].
pub fn upload_ints<const D: usize>(values: &[i64], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(device) {
        return trained_like(device, fused::int(fused::copy(values, shape, tch::Kind::Int64, device)));
    }
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// [`upload`] of truth values.
///
/// # Panics
/// As [`upload`].
pub fn upload_flags<const D: usize>(values: &[bool], shape: [usize; D], device: &Device) -> Tensor<D, Bool> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(device) {
        return trained_like(device, fused::flags(fused::copy(values, shape, tch::Kind::Bool, device)));
    }
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// [`upload`] of bytes, which become floats in 0..255 on the device: a quarter of the data.
///
/// # Panics
/// As [`upload`].
pub fn upload_bytes<const D: usize>(values: &[u8], shape: [usize; D], device: &Device) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(device) {
        let bytes = fused::copy(values, shape, tch::Kind::Uint8, device);
        return trained_like(device, fused::float(bytes.to_kind(tch::Kind::Float)));
    }
    let values: Vec<f32> = values.iter().map(|byte| f32::from(*byte)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The tensor with autodiff where the device has it.
#[cfg(feature = "tch")]
fn trained_like<const D: usize, K: Autodiff>(device: &Device, tensor: Tensor<D, K>) -> Tensor<D, K> {
    match device.gradient_checkpointing_strategy() {
        Some(strategy) => tensor.autodiff().with_gradient_checkpointing_strategy(strategy),
        None => tensor,
    }
}

#[cfg(feature = "tch")]
mod fused {
    use std::ffi::c_void;

    use burn::backend::LibTorch;
    use burn::tensor::{Bool, Device, Int, Tensor};

    use crate::ops::libtorch::{Handle, T, check, cuda_index, fresh, own};

    unsafe extern "C" {
        fn rl_upload(
            values: *const c_void,
            bytes: i64,
            sizes: *const i64,
            dims: i64,
            scalar_type: i32,
            cuda: i32,
            out: *mut Handle,
        ) -> i32;
    }

    pub fn copy<E: Copy, const D: usize>(values: &[E], shape: [usize; D], kind: tch::Kind, device: &Device) -> T {
        let (sizes, mut out) = (shape.map(|size| size as i64), std::ptr::null_mut());
        let cuda = cuda_index(device).map_or(-1, |index| index as i32);
        let (bytes, kind) = (size_of_val(values) as i64, kind as i32);
        // SAFETY: the shim reads that many bytes and sizes while both live, and refuses bytes that do not fill the shape.
        check(unsafe { rl_upload(values.as_ptr().cast(), bytes, sizes.as_ptr(), D as i64, kind, cuda, &mut out) });
        own(out)
    }

    pub fn float<const D: usize>(tensor: T) -> Tensor<D> {
        Tensor::from_primitive::<LibTorch>(fresh(tensor))
    }

    pub fn int<const D: usize>(tensor: T) -> Tensor<D, Int> {
        Tensor::from_primitive::<LibTorch>(fresh(tensor))
    }

    pub fn flags<const D: usize>(tensor: T) -> Tensor<D, Bool> {
        Tensor::from_primitive::<LibTorch>(fresh(tensor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{self, DeviceChoice};

    #[test]
    fn every_kind_of_value_arrives_as_it_was_on_every_device() {
        for device in [Device::flex(), ops::open(DeviceChoice::Auto).unwrap()] {
            for device in [device.clone(), device.autodiff()] {
                let floats = upload(&[0.5, -1.0, 2.0, 3.0, 4.0, 5.5], [3, 2], &device);
                assert_eq!((floats.dims(), floats.is_autodiff()), ([3, 2], device.is_autodiff()));
                assert_eq!(floats.to_data().try_to_vec::<f32>().unwrap(), [0.5, -1.0, 2.0, 3.0, 4.0, 5.5]);
                let ints = upload_ints(&[7, -3, 5], [3], &device).to_data().convert::<i64>();
                assert_eq!(ints.try_to_vec::<i64>().unwrap(), [7, -3, 5]);
                let flags = upload_flags(&[true, false, true], [1, 3], &device).int().to_data().convert::<i64>();
                assert_eq!(flags.try_to_vec::<i64>().unwrap(), [1, 0, 1]);
                let bytes = upload_bytes(&[0, 3, 255], [3, 1], &device);
                assert_eq!(bytes.to_data().try_to_vec::<f32>().unwrap(), [0.0, 3.0, 255.0]);
            }
        }
    }

    #[test]
    fn a_shape_of_another_size_is_refused() {
        let device = ops::open(DeviceChoice::Auto).unwrap();
        let result = ops::guard(|| Ok(upload(&[1.0; 5], [2, 3], &device)));
        assert!(result.is_err());
    }
}
