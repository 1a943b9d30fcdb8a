//! From noise to samples.

pub mod ode;
pub mod sde;
