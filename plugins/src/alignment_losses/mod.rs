//! Distances between projected tokens and encoder features.

pub mod cosine;
