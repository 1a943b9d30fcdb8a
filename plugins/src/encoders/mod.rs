//! Frozen vision encoders.

pub mod hog;
