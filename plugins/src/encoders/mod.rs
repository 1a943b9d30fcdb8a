//! Frozen encoders, whose features are the target of alignment.

pub mod checkpoint;
pub mod hog;
mod oriented_gradients;
pub mod vit;
