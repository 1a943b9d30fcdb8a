//! MMDiT, the multimodal diffusion transformer: image and text tokens with weights of their own and one attention.
//!
//! Source: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024); REPA
//! `models/mmdit.py`, as its text-to-image experiments use it: no pooled text vector, heads of 32 channels.

mod config;
mod layouts;
mod network;
mod stream;

pub use config::{MmDitConfig, MmDitMlp, MmDitNorm, PUBLISHED_SIZE, QkNorm};
pub use network::MmDit;
