//! Frozen encoders, whose features are the target of alignment.

pub mod checkpoint;
pub mod dinov2;
pub mod hog;
mod oriented_gradients;
