//! Training programs beside that of a diffusion model.

pub mod classification;
