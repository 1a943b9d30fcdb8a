//! Kernels for NVIDIA devices that libtorch does not have: one pass over memory for what it does in several.
//!
//! They are compiled when they are first needed, by the compiler that comes with libtorch. Where it is missing, ops take
//! libtorch's own operations.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use tch::Device;

use super::libtorch::{Handle, T, check, handle, own};

/// Ends with a zero, as the shim reads it.
const SOURCE: &str = concat!(include_str!("shim/cuda/kernels.cu"), "\0");

unsafe extern "C" {
    fn rl_cuda_source(text: *const c_char);
    fn rl_has_cuda_kernels() -> c_int;
    fn rl_has_width(width: i64, is_kept: c_int) -> c_int;
    fn rl_cuda_norm(
        is_rms: c_int,
        x: Handle,
        shift: Handle,
        scale: Handle,
        eps: f64,
        is_half: c_int,
        y: *mut Handle,
        mean: *mut Handle,
        rstd: *mut Handle,
    ) -> c_int;
    fn rl_cuda_norm_backward(
        is_rms: c_int,
        g: Handle,
        x: Handle,
        scale: Handle,
        mean: Handle,
        rstd: Handle,
        stream: Handle,
        gx: *mut Handle,
        gshift: *mut Handle,
        gscale: *mut Handle,
    ) -> c_int;
    fn rl_cuda_gate(x: Handle, gate: Handle, branch: Handle, y: *mut Handle) -> c_int;
    fn rl_cuda_gate_backward(
        g: Handle,
        gate: Handle,
        branch: Handle,
        ggate: *mut Handle,
        gbranch: *mut Handle,
    ) -> c_int;
    fn rl_cuda_rotary(
        qkv: Handle,
        heads: i64,
        q: Handle,
        k: Handle,
        cos: Handle,
        sin: Handle,
        eps: f64,
        y: *mut Handle,
        rstd: *mut Handle,
    ) -> c_int;
    fn rl_cuda_rotary_backward(
        g: Handle,
        qkv: Handle,
        heads: i64,
        q: Handle,
        k: Handle,
        cos: Handle,
        sin: Handle,
        rstd: Handle,
        gx: *mut Handle,
        gq: *mut Handle,
        gk: *mut Handle,
    ) -> c_int;
    fn rl_cuda_swiglu(x: Handle, y: *mut Handle) -> c_int;
    fn rl_cuda_swiglu_backward(g: Handle, x: Handle, gx: *mut Handle) -> c_int;
}

/// Which norm a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    /// The factor of a row is `1 + scale`.
    Layer = 0,
    /// The factor of a row is `scale`; there is no mean.
    Rms = 1,
}

/// Whether a kernel takes rows of `width` channels of this tensor; `is_kept` where it keeps them in registers.
pub(super) fn serves(x: &T, width: i64, is_kept: bool) -> bool {
    // SAFETY: plain call.
    matches!(x.device(), Device::Cuda(_)) && unsafe { rl_has_width(width, is_kept.into()) } != 0 && has_kernels()
}

fn has_kernels() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let source = CStr::from_bytes_with_nul(SOURCE.as_bytes()).unwrap_or_default();
        // SAFETY: a text that ends with its only zero; the shim copies it.
        unsafe {
            rl_cuda_source(source.as_ptr());
            rl_has_cuda_kernels() == 0
        }
    })
}

/// Modulated norm of `[batch, tokens, channels]`: the result, in bf16 or f32, the means (none of RMSNorm), the reciprocal
/// deviations.
pub(super) fn norm(norm: Norm, [x, shift, scale]: [&T; 3], eps: f64, is_half: bool) -> [T; 3] {
    let null = std::ptr::null_mut();
    let (mut y, mut mean, mut rstd) = (null, null, null);
    let [x, shift, scale] = [x, shift, scale].map(handle);
    // SAFETY: live tensors in, owned tensors out.
    check(unsafe { rl_cuda_norm(norm as c_int, x, shift, scale, eps, is_half.into(), &mut y, &mut mean, &mut rstd) });
    [y, mean, rstd].map(own)
}

/// Gradients of `x`, to which `stream` is added, `shift` and `scale`.
pub(super) fn norm_backward(norm: Norm, g: &T, kept: [&T; 4], stream: Option<&T>) -> [T; 3] {
    let mut found = [std::ptr::null_mut(); 3];
    let [gx, gshift, gscale] = &mut found;
    let ([x, scale, mean, rstd], stream) = (kept.map(handle), stream.map_or(std::ptr::null_mut(), handle));
    // SAFETY: live tensors, of which the stream's may be missing, in, owned tensors out.
    check(unsafe { rl_cuda_norm_backward(norm as c_int, handle(g), x, scale, mean, rstd, stream, gx, gshift, gscale) });
    found.map(own)
}

/// `x + gate · branch`.
pub(super) fn gate(x: &T, gate: &T, branch: &T) -> T {
    let mut y = std::ptr::null_mut();
    // SAFETY: live tensors in, an owned tensor out.
    check(unsafe { rl_cuda_gate(handle(x), handle(gate), handle(branch), &mut y) });
    own(y)
}

/// Gradients of the gate, and of the branch in its type.
pub(super) fn gate_backward(g: &T, gate: &T, branch: &T) -> [T; 2] {
    let mut found = [std::ptr::null_mut(); 2];
    let [ggate, gbranch] = &mut found;
    // SAFETY: live tensors in, owned tensors out.
    check(unsafe { rl_cuda_gate_backward(handle(g), handle(gate), handle(branch), ggate, gbranch) });
    found.map(own)
}

/// `silu(a) · b` of rows `[a, b]`.
pub(super) fn swiglu(x: &T) -> T {
    let mut y = std::ptr::null_mut();
    // SAFETY: a live tensor in, an owned tensor out.
    check(unsafe { rl_cuda_swiglu(handle(x), &mut y) });
    own(y)
}

/// Gradient of the rows.
pub(super) fn swiglu_backward(g: &T, x: &T) -> T {
    let mut gx = std::ptr::null_mut();
    // SAFETY: live tensors in, an owned tensor out.
    check(unsafe { rl_cuda_swiglu_backward(handle(g), handle(x), &mut gx) });
    own(gx)
}

/// Queries and keys of packed tokens normalized and turned, in the type of the tokens, and the reciprocal roots,
/// `[batch · tokens, 2, heads]`.
pub(super) fn rotary(qkv: &T, heads: usize, [q, k]: [&T; 2], [cos, sin]: [&T; 2], eps: f64) -> [T; 2] {
    let (mut y, mut rstd) = (std::ptr::null_mut(), std::ptr::null_mut());
    let (heads, [q, k, cos, sin]) = (heads as i64, [q, k, cos, sin].map(handle));
    // SAFETY: live tensors in, owned tensors out.
    check(unsafe { rl_cuda_rotary(handle(qkv), heads, q, k, cos, sin, eps, &mut y, &mut rstd) });
    [y, rstd].map(own)
}

/// Gradients of the packed tokens, in their type, and of both weights.
pub(super) fn rotary_backward(g: &T, qkv: &T, heads: usize, [q, k]: [&T; 2], [cos, sin]: [&T; 2], rstd: &T) -> [T; 3] {
    let mut found = [std::ptr::null_mut(); 3];
    let [gx, gq, gk] = &mut found;
    let (heads, [q, k, cos, sin, rstd]) = (heads as i64, [q, k, cos, sin, rstd].map(handle));
    // SAFETY: live tensors in, owned tensors out.
    check(unsafe { rl_cuda_rotary_backward(handle(g), handle(qkv), heads, q, k, cos, sin, rstd, gx, gq, gk) });
    found.map(own)
}
