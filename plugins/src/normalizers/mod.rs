//! Parameter-free maps of encoder features.

pub mod none;
pub mod spatial;
