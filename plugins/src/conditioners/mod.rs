//! What samples shall show.

pub mod class_labels;
