//! Feature networks, whose features evaluation compares.

pub mod clip;
pub mod encoder;
pub mod inception;
pub mod shapes_net;
