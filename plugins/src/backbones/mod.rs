//! Networks that are trained.

pub mod jit;
pub mod mmdit;
pub mod sit;
mod sizes;
