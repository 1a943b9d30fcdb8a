//! Networks that are trained.

pub mod sit;
