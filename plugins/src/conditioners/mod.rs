//! What samples shall show.

pub mod class_labels;
pub mod trained_text;
