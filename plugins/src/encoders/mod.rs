//! Frozen encoders, whose features are the target of alignment.

pub mod checkpoint;
pub mod hog;
mod network_input;
pub mod offset;
mod oriented_gradients;
mod resized_planes;
pub mod sam;
pub mod sam2;
pub mod sift;
pub mod vgg;
pub mod vit;
pub mod weight_choice;
mod windows;
