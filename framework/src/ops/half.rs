//! bf16 in memory: operands of products whose sums are f32, and what one op hands to the next under that policy.
//!
//! libtorch's CPU kernels in bf16 need instructions that few machines have and crawl without them. There values in bf16
//! are multiplied in f32, which gives the numbers that tensor cores give: a product of two bf16 values is exact in f32.

use tch::{Device, Kind};

use super::libtorch::{Handle, Prim, T, check, fresh, handle, own};

unsafe extern "C" {
    fn rl_mm_f32(a: Handle, b: Handle, product: *mut Handle) -> i32;
}

/// The values in bf16.
pub(super) fn rounded(x: &T) -> T {
    x.to_kind(Kind::BFloat16)
}

/// The values in f32.
pub(super) fn full(x: &T) -> T {
    x.to_kind(Kind::Float)
}

/// Whether the values are in bf16.
pub(super) fn is_half(x: &T) -> bool {
    x.kind() == Kind::BFloat16
}

/// The values in bf16, and the tensor itself where they are.
pub(super) fn rounded_prim(x: Prim) -> Prim {
    if is_half(&x.tensor) { x } else { fresh(rounded(&x.tensor)) }
}

/// The values in f32, and the tensor itself where they are.
pub(super) fn full_prim(x: Prim) -> Prim {
    if x.tensor.kind() == Kind::Float { x } else { fresh(full(&x.tensor)) }
}

/// In the type of `like`, what is in f32.
pub(super) fn as_in(y: T, like: &T) -> T {
    if is_half(like) { rounded(&y) } else { y }
}

/// The sum with another tensor, where there is one.
pub(super) fn with(mut sum: T, other: Option<&T>) -> T {
    if let Some(other) = other {
        let _ = sum.g_add_(other);
    }
    sum
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

/// `a · b` in bf16 of matrices in bf16.
pub(super) fn rounded_matmul(a: &T, b: &T) -> T {
    if a.device() == Device::Cpu { rounded(&operand(a).mm(&operand(b))) } else { a.mm(b) }
}

/// `bias + a · b` in bf16 of a vector and matrices in bf16.
pub(super) fn rounded_affine(bias: &T, a: &T, b: &T) -> T {
    if a.device() == Device::Cpu {
        return rounded(&operand(bias).addmm(&operand(a), &operand(b)));
    }
    bias.addmm(a, b)
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
