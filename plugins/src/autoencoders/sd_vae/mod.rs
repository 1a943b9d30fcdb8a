//! Latent diffusion's autoencoder: the one of Stable Diffusion, those of REPA-E, and small ones.

mod config;
mod names;
mod network;
mod published;

pub use config::{Norm, SdVaeConfig, Size, Weights};
pub use names::first_names;
pub use network::AutoencoderKl;
