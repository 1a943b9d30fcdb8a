//! Data sets: drawn by the program, or pictures in a folder or zip.

pub mod captioned;
pub mod image_folder;
pub mod latent_cache;
pub mod repa_latents;
pub mod shapes;
