//! Networks that are trained.

pub mod jit;
pub mod sit;
