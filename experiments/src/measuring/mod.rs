//! Encoders and pictures as the command line names them, and measuring the ones on the others.

mod encoders;
pub mod history;
mod measure;
pub mod paper;
mod pictures;
mod trial;

pub use encoders::{EncoderArgs, NamedEncoder, context, read_normalizer};
pub use measure::{Measured, measure, metrics_of};
pub use pictures::{FitChoice, PictureArgs, Source, read_dataset};
pub use trial::{Trial, device_of, device_of_plan, micro_batch_of, micro_batch_of_plan, train_section};
