//! Contracts and engine of realign: it knows no method by name.
//!
//! Methods are plugins (crate `realign-plugins`, or any crate linked in); a recipe composes them.
//! `ARCHITECTURE.md` shows the flow of one training step and where everything lives.

pub mod checkpoint;
pub mod data;
pub mod erase;
pub mod eval;
pub mod files;
pub mod log;
pub mod nn;
pub mod ops;
pub mod plugin;
pub mod recipe;
pub mod reconstruction;
pub mod registry;
pub mod sample;
pub mod streams;
pub mod train;
pub mod weights;

#[doc(hidden)]
pub use {burn, schemars, serde, serde_json, serde_yaml, typetag};
