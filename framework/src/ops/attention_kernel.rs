//! Attention's kernels on libtorch: which one serves which operands, forward and backward.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use tch::{Device, Kind};

use super::half;
use super::libtorch::{Handle, Prim, T, check, compute_capability, fresh, handle, own};

unsafe extern "C" {
    fn rl_attention(
        kernel: c_int,
        q: Handle,
        k: Handle,
        v: Handle,
        scale: f64,
        attended: *mut *mut c_void,
        out: *mut Handle,
    ) -> c_int;
    fn rl_attention_backward(
        attended: *const c_void,
        g: Handle,
        gq: *mut Handle,
        gk: *mut Handle,
        gv: *mut Handle,
    ) -> c_int;
    fn rl_attention_free(attended: *mut c_void);
}

/// A kernel for NVIDIA devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Cudnn = 0,
    Flash = 1,
    Efficient = 2,
}

/// What the kernels are chosen by.
#[derive(Debug, Clone, Copy)]
struct Operands {
    kind: Kind,
    /// Channels of a head.
    head_dim: i64,
    /// Tokens of the queries and of the keys.
    tokens: [i64; 2],
    /// Compute capability of the device.
    capability: [u32; 2],
}

impl Operands {
    fn of(q: &T, k: &T, device: usize) -> Self {
        let (size, tokens_k) = (q.size(), k.size()[2]);
        let capability = compute_capability(device);
        Self { kind: q.kind(), head_dim: size[3], tokens: [size[2], tokens_k], capability }
    }

    /// The kernel, and the head width that it takes: the next multiple of 16 bytes.
    ///
    /// Flash and cuDNN know bf16 only. cuDNN is the fastest on Hopper and Blackwell, for heads up to 128 channels, and right
    /// for whole tiles of 128 tokens only before its version 9.15.1. Flash has no gradient above 192 channels on some devices.
    fn choose(self) -> (Kernel, i64) {
        let multiple = if self.kind == Kind::BFloat16 { 8 } else { 4 };
        let head_dim = (self.head_dim + multiple - 1) / multiple * multiple;
        let has_whole_tiles = self.tokens.iter().all(|tokens| tokens % 128 == 0);
        let kernel = match (self.kind, self.capability) {
            (Kind::BFloat16, [9 | 10, 0]) if head_dim <= 128 && has_whole_tiles => Kernel::Cudnn,
            (Kind::BFloat16, [8..=u32::MAX, _]) if head_dim <= 192 => Kernel::Flash,
            _ => Kernel::Efficient,
        };
        (kernel, head_dim)
    }
}

/// What the gradient needs beside inputs and result.
#[derive(Debug, Clone)]
pub(super) enum Memory {
    /// Logarithms of the sums under the softmax.
    Cpu(Prim),
    /// What the kernel left.
    Cuda(Arc<Attended>),
}

/// An `Attended` of the shim. It shares the storage of inputs and result: whoever keeps it keeps those too, or burn would
/// write into them.
#[derive(Debug)]
pub(super) struct Attended {
    pointer: *mut c_void,
    /// Head width that the kernel took.
    head_dim: i64,
}

// SAFETY: nothing changes it between its making and its end, and libtorch's counts of references are atomic.
unsafe impl Send for Attended {}
// SAFETY: as above.
unsafe impl Sync for Attended {}

impl Drop for Attended {
    fn drop(&mut self) {
        // SAFETY: made by `rl_attention` and freed once.
        unsafe { rl_attention_free(self.pointer) };
    }
}

/// `softmax(q · kᵀ / √head_dim) · v` of f32 or bf16 operands, and what its gradient needs.
///
/// # Shapes
/// * `q`, `k`, `v` and the result: `[batch, heads, tokens, head_dim]`
pub(super) fn forward(qkv: [&T; 3]) -> (T, Memory) {
    let [q, k, _] = qkv;
    let Device::Cuda(device) = q.device() else {
        let [q, k, v] = qkv.map(|input| dense(&half::operand(input)));
        let (out, sums) =
            T::internal_scaled_dot_product_flash_attention_for_cpu::<T>(&q, &k, &v, 0.0, false, None, None);
        return (out, Memory::Cpu(fresh(sums)));
    };
    // Widening hides sizes that do not fit from the kernels.
    let [to_q, to_k, to_v] = qkv.map(T::size);
    let fits = to_q.len() == 4 && to_q[..2] == to_k[..2] && to_q[3] == to_k[3] && to_k == to_v;
    assert!(fits, "queries of {to_q:?}, keys of {to_k:?} and values of {to_v:?} do not fit together");
    let (kernel, head_dim) = Operands::of(q, k, device).choose();
    let (width, scale) = (q.size()[3], 1.0 / (q.size()[3] as f64).sqrt());
    let [q, k, v] = qkv.map(|input| widened(&dense(input), head_dim));
    let (mut pointer, mut out) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: live tensors in, an owned tensor and an owned `Attended` out.
    check(unsafe { rl_attention(kernel as c_int, handle(&q), handle(&k), handle(&v), scale, &mut pointer, &mut out) });
    (own(out).narrow(3, 0, width), Memory::Cuda(Arc::new(Attended { pointer, head_dim })))
}

/// Gradients of queries, keys and values.
pub(super) fn backward(g: &T, qkv: [&T; 3], out: &T, memory: &Memory) -> [T; 3] {
    let attended = match memory {
        Memory::Cuda(attended) => attended,
        Memory::Cpu(sums) => {
            let [q, k, v] = qkv.map(|input| dense(&half::operand(input)));
            let [g, out] = [g, out].map(|input| dense(&half::operand(input)));
            let (q, k, v) = T::internal_scaled_dot_product_flash_attention_for_cpu_backward::<T>(
                &g,
                &q,
                &k,
                &v,
                &out,
                &sums.tensor,
                0.0,
                false,
                None,
                None,
            );
            return [q, k, v];
        }
    };
    let g = widened(&dense(g), attended.head_dim);
    let mut found = [std::ptr::null_mut(); 3];
    let [gq, gk, gv] = &mut found;
    // SAFETY: a live tensor and a live `Attended` in, owned tensors out.
    check(unsafe { rl_attention_backward(attended.pointer, handle(&g), gq, gk, gv) });
    found.map(|gradient| own(gradient).narrow(3, 0, qkv[0].size()[3]))
}

/// The kernels read rows as if their values were adjacent, and return garbage when they are not.
fn dense(tensor: &T) -> T {
    let stride = tensor.stride();
    let is_repeated = tensor.device() != Device::Cpu && stride.contains(&0);
    if stride.last() == Some(&1) && !is_repeated { tensor.shallow_clone() } else { tensor.contiguous() }
}

/// Heads of `width` channels, the further ones zero: they change no score and are cut off afterwards.
fn widened(heads: &T, width: i64) -> T {
    match width - heads.size()[3] {
        0 => heads.shallow_clone(),
        missing => heads.constant_pad_nd([0, missing]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPPER: [u32; 2] = [9, 0];
    const AMPERE: [u32; 2] = [8, 0];

    fn choice(kind: Kind, head_dim: i64, tokens: [i64; 2], capability: [u32; 2]) -> (Kernel, i64) {
        Operands { kind, head_dim, tokens, capability }.choose()
    }

    #[test]
    fn the_published_sizes_take_the_fastest_kernel_as_they_are() {
        for head_dim in [64, 72] {
            assert_eq!(choice(Kind::BFloat16, head_dim, [256; 2], HOPPER), (Kernel::Cudnn, head_dim));
            assert_eq!(choice(Kind::BFloat16, head_dim, [256; 2], AMPERE), (Kernel::Flash, head_dim));
            assert_eq!(choice(Kind::Float, head_dim, [256; 2], HOPPER), (Kernel::Efficient, head_dim));
        }
    }

    #[test]
    fn tokens_beside_whole_tiles_and_wide_heads_avoid_what_does_not_serve_them() {
        assert_eq!(choice(Kind::BFloat16, 64, [288; 2], HOPPER), (Kernel::Flash, 64)); // JiT's label tokens
        assert_eq!(choice(Kind::BFloat16, 64, [256, 77], HOPPER), (Kernel::Flash, 64));
        assert_eq!(choice(Kind::BFloat16, 136, [256; 2], HOPPER), (Kernel::Flash, 136));
        assert_eq!(choice(Kind::BFloat16, 200, [256; 2], HOPPER), (Kernel::Efficient, 200));
        assert_eq!(choice(Kind::BFloat16, 64, [256; 2], [0, 0]), (Kernel::Efficient, 64));
    }

    #[test]
    fn heads_are_widened_to_sixteen_bytes() {
        assert_eq!(choice(Kind::BFloat16, 65, [256; 2], AMPERE), (Kernel::Flash, 72));
        assert_eq!(choice(Kind::Float, 65, [256; 2], AMPERE), (Kernel::Efficient, 68));
    }

    /// What the padding rests on, on the kernel that is here.
    #[test]
    fn wider_heads_of_zeros_change_nothing() {
        let [q, k, v, g] = [0, 1, 2, 3].map(|seed| {
            let angles = T::arange(2 * 3 * 5 * 7, (Kind::Float, Device::Cpu)) * (0.7 + f64::from(seed));
            angles.sin().view([2, 3, 5, 7])
        });
        let (expected, memory) = forward([&q, &k, &v]);
        let gradients = backward(&g, [&q, &k, &v], &expected, &memory);
        // The kernel scales by the width that it sees.
        let wide = [&(&q * (8f64 / 7.0).sqrt()), &k, &v].map(|x| widened(x, 8));
        let (out, memory) = forward(wide.each_ref());
        let [gq, gk, gv] = backward(&widened(&g, 8), wide.each_ref(), &out, &memory);
        let found = [out, gq * (8f64 / 7.0).sqrt(), gk, gv];
        for (expected, found) in std::iter::once(expected).chain(gradients).zip(found) {
            let gap = (expected - found.narrow(3, 0, 7)).abs().max().double_value(&[]);
            assert!(gap < 1e-6, "{gap}");
        }
    }
}
