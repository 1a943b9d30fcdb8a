//! The libtorch boundary: handles, the C++ shim, errors.

use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, PoisonError};

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, LibTorch, autodiff::NodeId, autodiff::grads::Gradients};
use burn::tensor::Device;
use burn_tch::LibTorchDevice;

use super::problem::CudaFacts;

/// A libtorch tensor.
pub(super) type T = tch::Tensor;
/// burn's wrapper of a libtorch tensor.
pub(super) type Prim = FloatTensor<LibTorch>;
/// An `at::Tensor*` of the shim.
pub(super) type Handle = *mut std::ffi::c_void;

unsafe extern "C" {
    fn rl_last_error() -> *const c_char;
    fn rl_set_threads(n: c_int) -> c_int;
    fn rl_threads() -> c_int;
    fn rl_version() -> *const c_char;
    fn rl_load_cuda(driver: *mut c_int, runtime: *mut c_int) -> c_int;
    fn rl_allow_tf32(is_allowed: c_int) -> c_int;
    fn rl_compute_capability(device: c_int, major: *mut c_int, minor: *mut c_int) -> c_int;
}

/// Wraps a tensor that owns fresh storage (never a view of an input: burn would then write into it).
pub(super) fn fresh(tensor: T) -> Prim {
    Prim::new(tensor)
}

/// The shim's handle of a tensor.
pub(super) fn handle(tensor: &T) -> Handle {
    tensor.as_ptr().cast_mut().cast()
}

/// Takes ownership of a tensor that the shim made.
pub(super) fn own(handle: Handle) -> T {
    // SAFETY: the shim returns a heap-allocated `at::Tensor` that nobody else owns.
    unsafe { T::from_ptr(handle.cast()) }
}

/// Panics with libtorch's message when a shim call failed; [`guard`](super::guard) turns that into an error.
#[track_caller]
pub(super) fn check(code: c_int) {
    if code != 0 {
        panic!("libtorch: {}", last_error());
    }
}

/// First line of what the last failed shim call of this thread said.
pub(super) fn last_error() -> String {
    // SAFETY: the shim's message is a NUL-terminated thread-local string.
    let message = unsafe { CStr::from_ptr(rl_last_error()) }.to_string_lossy();
    message.lines().next().unwrap_or_default().to_string()
}

/// A picture `[batch, channels, height, width]` whose channels lie beside one another; copies only what lies otherwise.
pub(super) fn channels_last(picture: &T) -> T {
    picture.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Adds a gradient to the node, when there is one.
pub(super) fn register(grads: &mut Gradients, node: Option<NodeId>, gradient: Prim) {
    if let Some(id) = node {
        grads.register::<LibTorch>(id, gradient);
    }
}

/// Whether the single-pass f32 CPU kernels serve this tensor.
pub(super) fn is_cpu_f32(tensor: &T) -> bool {
    tensor.kind() == tch::Kind::Float && tensor.device() == tch::Device::Cpu
}

pub(super) fn set_threads(count: usize) {
    // SAFETY: plain call; the count fits any int after the clamp.
    check(unsafe { rl_set_threads(count.clamp(1, 1024) as c_int) });
}

pub(super) fn threads() -> usize {
    // SAFETY: plain call.
    usize::try_from(unsafe { rl_threads() }).unwrap_or(1)
}

pub(super) fn version() -> String {
    // SAFETY: the shim returns a NUL-terminated constant.
    unsafe { CStr::from_ptr(rl_version()) }.to_string_lossy().into_owned()
}

pub(super) fn name(device: &Device) -> String {
    cuda_index(device).map_or("cpu".into(), |index| format!("cuda:{index}"))
}

/// Index of a CUDA device; none for another.
pub(super) fn cuda_index(device: &Device) -> Option<usize> {
    match device.as_dispatch().clone().inner() {
        DispatchDevice::LibTorch(LibTorchDevice::Cuda(index)) => Some(index),
        _ => None,
    }
}

/// Whether products on NVIDIA devices may round to tf32. libtorch itself begins with convolutions that do.
pub(super) fn allow_tf32(is_allowed: bool) {
    static KNOWN: Mutex<Option<bool>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if *known != Some(is_allowed) {
        // SAFETY: plain call.
        check(unsafe { rl_allow_tf32(is_allowed.into()) });
        *known = Some(is_allowed);
    }
}

/// Major and minor compute capability of an NVIDIA device; zeros where they cannot be read.
pub(super) fn compute_capability(device: usize) -> [u32; 2] {
    let (index, mut major, mut minor) = (c_int::try_from(device).unwrap_or(-1), 0, 0);
    // SAFETY: writes two numbers.
    match unsafe { rl_compute_capability(index, &mut major, &mut minor) } {
        0 => [major, minor].map(|part| u32::try_from(part).unwrap_or(0)),
        _ => [0, 0],
    }
}

/// Loads libtorch's CUDA library and asks what is there. Must come before any other question about CUDA: libtorch
/// remembers the first answer.
pub(super) fn cuda_facts() -> CudaFacts {
    let (mut driver, mut runtime) = (0, 0);
    // SAFETY: two numbers to be written; the shim loads a library once.
    if unsafe { rl_load_cuda(&mut driver, &mut runtime) } != 0 {
        return CudaFacts { unloaded: Some(last_error()), ..CudaFacts::default() };
    }
    let version = |number: c_int| u32::try_from(number).ok().filter(|number| *number > 0);
    let (driver, runtime) = (version(driver), version(runtime));
    let num_devices = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    CudaFacts { unloaded: None, driver, runtime, num_devices }
}
