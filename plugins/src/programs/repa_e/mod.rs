//! REPA-E: an autoencoder and the diffusion model in its latents, trained together through alignment.
//!
//! Source: Leng et al., 2025 (REPA-E), `train_repae.py`.

mod config;
mod networks;
mod program;

pub use config::RepaEConfig;
pub use networks::{DiffusionLoss, LatentModel, Networks, TrainingBatch, VaeLoss};
