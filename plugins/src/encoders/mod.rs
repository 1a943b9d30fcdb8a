//! Frozen vision encoders.

pub mod dinov2;
pub mod hog;
