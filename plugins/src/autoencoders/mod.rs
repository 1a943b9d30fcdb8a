//! From pictures to clean samples and back.

pub mod checkpoint;
pub mod identity;
pub mod sd_vae;
