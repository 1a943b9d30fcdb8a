//! The published methods as realign plugins: one file or folder each, registered by name.

pub mod alignment_losses;
pub mod autoencoders;
pub mod backbones;
pub mod conditioners;
pub mod datasets;
pub mod encoders;
pub mod feature_networks;
pub mod normalizers;
pub mod objectives;
pub mod programs;
pub mod projectors;
pub mod samplers;
