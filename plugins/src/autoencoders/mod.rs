//! From pictures to clean samples and back.

pub mod identity;
