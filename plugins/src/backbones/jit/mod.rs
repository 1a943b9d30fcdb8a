//! JiT, "just image transformers": pixels in large patches through a bottleneck, RMSNorm, rotary positions, SwiGLU, and
//! label tokens that join in the middle of the network.
//!
//! Source: Li and He, "Back to Basics: Let Denoising Generative Models Denoise" (2025); iREPA `jit/model_jit.py`.

mod config;
mod layouts;
mod network;

pub use config::{JiTConfig, PUBLISHED_SIZES};
pub use network::JiT;
