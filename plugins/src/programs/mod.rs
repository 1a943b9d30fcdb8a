//! Training programs: what is trained beside or instead of a diffusion model.

pub mod autoencoder;
pub mod classification;
pub mod repa_e;
