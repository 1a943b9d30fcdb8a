//! Fused operations with hand-written gradients on libtorch, and their portable form on other backends.
//!
//! burn's own autodiff breaks attention, LayerNorm and Linear into many small steps; these keep one step each,
//! which makes a training step as fast as PyTorch's with less memory. Layers in [`nn`](crate::nn) are built on
//! them, so plugins get the speed for free; plain burn operations stay allowed everywhere.
//!
//! This module holds all `unsafe` code and is the only one that names a backend. On libtorch without autodiff,
//! and on libtorch with it, the same kernels run. All reductions are in f32. Inside [`jvp`] every op carries tangents.
//! [`Precision`] says in which arithmetic linear layers, convolutions and attention multiply.

#![allow(deprecated)] // burn marks its libtorch backend as deprecated; this module is the only one that names it

mod activation;
#[cfg(feature = "tch")]
mod affine_layer_norm;
mod attention;
#[cfg(feature = "tch")]
mod attention_kernel;
mod conv2d;
mod cosine;
#[cfg(feature = "tch")]
mod cuda;
#[cfg(all(test, feature = "tch"))]
mod cuda_check;
mod device;
#[cfg(feature = "tch")]
mod dual;
#[cfg(feature = "tch")]
mod fork;
#[cfg(test)]
mod gradient_check;
mod group_norm;
mod guard;
#[cfg(feature = "tch")]
mod half;
mod heap;
mod jvp;
mod layer_norm;
#[cfg(feature = "tch")]
mod libtorch;
mod linear;
mod memory;
mod optimizer;
#[cfg(test)]
mod optimizer_check;
mod precision;
#[cfg(all(test, feature = "tch"))]
mod precision_check;
mod problem;
mod qk_norm;
mod recompute;
mod recorder;
mod resample;
mod residual;
mod resize;
mod rms_norm;
mod rope;
mod rotate_halves;
mod swiglu;
mod upload;

pub use activation::{gelu_tanh, silu};
pub use attention::{attention, attention_packed, unpack_heads};
pub use conv2d::{ConvShape, conv2d, grid_conv2d};
pub use cosine::mean_cosine_similarity;
pub use device::{
    DeviceChoice, backend_names, describe, devices, libtorch_version, num_threads, on_libtorch, open, set_num_threads,
};
pub use group_norm::{group_norm, group_norm_silu};
pub use guard::{guard, guard_known};
pub use jvp::{Direction, Jvp, JvpMethod, jvp};
pub use layer_norm::{chunk, forked_layer_norm, layer_norm, modulate, modulated_layer_norm};
pub use linear::{hidden_linear, linear};
pub use memory::{free_memory, gigabytes, is_cuda, peak_memory, release_memory, resident_memory, restart_peak_memory};
pub use optimizer::{AdamWState, AdamWStep, adamw, global_norm, lerp, sums};
pub use precision::Precision;
pub use problem::OutOfMemory;
pub use qk_norm::rotary_qk_norm;
pub use recompute::{Tensors, recomputed};
pub use recorder::{OpTime, PHASES, Phase, Recorder, Recording, in_phase};
pub use resample::{PRECISION_BITS, Taps, covered, resample_columns, resample_rows};
pub use residual::gated_residual;
pub use resize::{AxisMap, resize};
pub(crate) use resize::{map_columns, map_rows};
pub use rms_norm::{forked_rms_norm, modulated_rms_norm, rms_norm};
pub use rope::rotate_pairs;
pub use rotate_halves::rotate_halves;
pub use swiglu::swiglu;
pub use upload::{upload, upload_bytes, upload_flags, upload_ints};
