//! Trained maps from backbone tokens to feature space.

pub mod conv;
pub mod linear;
pub mod mlp;
