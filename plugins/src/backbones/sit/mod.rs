//! SiT, the scalable interpolant transformer: DiT blocks with adaLN-zero.
//!
//! Source: Ma et al., "SiT" (2024); iREPA `ldm/models/sit.py`. Unlike that file, the last layer's width is always the
//! hidden size (the file's fixed 768 breaks SiT-S).

mod config;
mod layouts;
mod network;

pub use config::{PUBLISHED_SIZES, SiTConfig};
pub use network::SiT;
