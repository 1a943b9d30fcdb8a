//! From pictures to clean samples and back.

pub mod identity;
pub mod sd_vae;
