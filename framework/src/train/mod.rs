//! From a plan to a trained network.
//!
//! [`Trainer::step`] is one optimizer step; [`run`] is the loop around it with checkpoints, logs and previews.

mod alignment;
mod assembly;
mod cache_choice;
mod cached;
mod diffusion;
mod ema;
mod feature_cache;
mod feature_file;
mod flat;
mod micro_batch;
mod model;
mod optimizer;
mod pictures;
mod previews;
mod program;
mod run;
mod schedule;
mod spatial_watch;
mod trainable;
mod trainer;

pub use alignment::{Alignment, AlignmentLosses, Term};
pub use assembly::Assembly;
pub use cache_choice::CacheChoice;
pub use diffusion::run;
pub use ema::Ema;
pub use feature_cache::{FeatureCache, Store};
pub(crate) use flat::{flat_gradients, flat_parameters, with_flat};
pub use micro_batch::MicroBatch;
pub(crate) use model::build_conditioner;
pub use model::{TrainModel, build_model};
pub(crate) use optimizer::fresh_moments;
pub use optimizer::{Gradients, Optimizer, OptimizerSettings};
pub use pictures::{example_images, images, spread_examples};
pub use previews::{PreviewSettings, beside, preview, sample_previews};
pub use program::ProgramRun;
pub(crate) use run::describe;
pub use run::{Frame, RunOptions, run_loop};
pub use schedule::learning_rate;
pub use trainable::{Preview, ReadTensors, Trainable, WriteTensors};
pub use trainer::{StepStats, Trainer};
