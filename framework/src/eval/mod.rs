//! Measuring networks: their samples, and their features.

pub mod bootstrap;
mod classifier;
mod correlation;
mod features;
pub mod generation;
mod principal;
pub mod probe;
pub mod spatial;
pub mod spatial_masks;

pub use classifier::{Classifier, ClassifierReport};
pub use correlation::{Correlation, correlation};
pub use features::tap_features;
pub use principal::principal_colors;
