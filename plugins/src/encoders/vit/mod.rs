//! `vit`: one configurable vision transformer for DINO, DINOv2, DINOv3, WebSSL, Perception Encoder, C-RADIO, CLIP,
//! MoCo v3, I-JEPA, MAE and SigLIP.

pub mod architecture;
mod config;
mod encoder;
mod layouts;
pub mod mixing;
pub mod network;
pub mod places;
pub mod preprocess;
mod presets;
mod published;
mod table;

pub use config::VitConfig;
pub use encoder::Vit;
pub use presets::{Preset, presets};
