//! Measuring trained networks.

mod classifier;

pub use classifier::{Classifier, ClassifierReport};
