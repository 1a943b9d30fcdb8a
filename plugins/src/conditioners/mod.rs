//! What samples shall show.

pub mod class_labels;
pub mod clip_text;
pub mod trained_text;
