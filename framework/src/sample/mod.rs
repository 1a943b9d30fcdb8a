//! From a trained network to pictures in a file: guidance, solvers, noise and labels per picture, export.
//!
//! Times follow the paths of [`ProbabilityPath`](crate::plugin::ProbabilityPath): t = 0 is data, t = 1 is noise.

mod draw_size;
mod draws;
mod export;
mod guidance;
mod npz;
mod pictures;
mod quantize;
mod solvers;

pub use draw_size::DrawSize;
pub use draws::{image_noise, sample_labels};
pub use export::ImageWriter;
pub use guidance::{GuidedVelocity, guided_prediction};
pub use npz::NpzWriter;
pub use pictures::{Prompt, Sampling, draw_pictures, draw_prompts, picture_bytes, prompts_of};
pub use quantize::{Quantization, quantize};
pub use solvers::{finish, ode_euler, ode_heun, score_from_velocity, sde_euler_maruyama};
