//! Samplers: from noise to samples.

pub mod ode;
#[cfg(test)]
mod one_point;
pub mod sde;
