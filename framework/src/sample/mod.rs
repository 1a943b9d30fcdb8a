//! From networks to pictures: solvers, guidance, labels and files.

mod export;
mod labels;
mod quantization;
mod solvers;
mod velocity;

pub use export::ImageWriter;
pub use labels::{image_noise, sample_labels};
pub use quantization::{Quantization, quantize};
pub use solvers::{euler, euler_maruyama, heun, score};
pub use velocity::solve;
