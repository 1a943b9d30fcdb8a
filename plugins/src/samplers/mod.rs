//! Samplers: from noise to samples.

pub mod jit_ode;
pub mod mean_flow;
pub mod ode;
#[cfg(test)]
mod one_point;
pub mod sde;
