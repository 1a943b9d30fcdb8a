//! From a plan to a trained network.
//!
//! [`Trainer::step`] is one optimizer step; [`run`] is the loop around it with checkpoints, logs and previews.

mod alignment;
mod assembly;
mod cached;
mod diffusion;
mod ema;
mod flat;
mod model;
mod optimizer;
mod pictures;
mod previews;
mod program;
mod run;
mod schedule;
mod trainable;
mod trainer;

pub use alignment::{Alignment, AlignmentLosses, Term};
pub use assembly::Assembly;
pub use diffusion::run;
pub use ema::Ema;
pub(crate) use flat::{flat_gradients, flat_parameters, with_flat};
pub use model::{TrainModel, build_model};
pub use optimizer::{Gradients, Optimizer, OptimizerSettings};
pub use pictures::{example_images, images, spread_examples};
pub use previews::{PreviewSettings, beside, preview, sample_previews};
pub use program::ProgramRun;
pub use run::{Frame, RunOptions, run_loop};
pub use schedule::learning_rate;
pub use trainable::{Preview, ReadTensors, Trainable, WriteTensors};
pub use trainer::{StepStats, Trainer};
