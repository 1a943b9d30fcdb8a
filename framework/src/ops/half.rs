//! bf16 operands of products whose sums and results are f32.
//!
//! libtorch's CPU kernels in bf16 need instructions that few machines have and crawl without them. There the operands
//! are rounded to bf16 and multiplied in f32, which gives the numbers that tensor cores give: a product of two bf16 values
//! is exact in f32.

use tch::{Device, Kind};

use super::libtorch::{Handle, T, check, handle, own};

unsafe extern "C" {
    fn rl_mm_f32(a: Handle, b: Handle, product: *mut Handle) -> i32;
}

/// The values in bf16.
pub(super) fn rounded(x: &T) -> T {
    x.to_kind(Kind::BFloat16)
}

/// What a kernel takes of bf16 values on their device.
pub(super) fn operand(rounded: &T) -> T {
    match rounded.device() {
        Device::Cpu => rounded.to_kind(Kind::Float),
        _ => rounded.shallow_clone(),
    }
}

/// In f32, what a kernel made of [`operand`]s, rounded as its result is on a device with bf16.
pub(super) fn result(y: &T) -> T {
    rounded(y).to_kind(Kind::Float)
}

/// `a · b` in f32 of matrices in bf16.
pub(super) fn matmul(a: &T, b: &T) -> T {
    if a.device() == Device::Cpu {
        return operand(a).mm(&operand(b));
    }
    let mut product = std::ptr::null_mut();
    // SAFETY: live tensors in, an owned tensor out.
    check(unsafe { rl_mm_f32(handle(a), handle(b), &mut product) });
    own(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_rounded_operands_is_not_rounded_itself() {
        let [a, b] = [1.0 + 2f32.powi(-9), 1.0 + 2f32.powi(-7)].map(|value| T::from_slice(&[value]).view([1, 1]));
        let product = |a: &T, b: &T| matmul(&rounded(a), &rounded(b)).double_value(&[0, 0]) as f32;
        assert_eq!(product(&a, &b), 1.0 + 2f32.powi(-7)); // the first operand becomes 1
        assert_eq!(product(&b, &b), (1.0 + 2f32.powi(-7)).powi(2)); // 14 bits behind the point
        let y = result(&b.square());
        assert_eq!((y.kind(), y.double_value(&[0, 0]) as f32), (Kind::Float, 1.0 + 2f32.powi(-6)));
    }
}
