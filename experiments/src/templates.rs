//! The templates of `new`, compiled and tested as they stand, before their names are replaced.

#[path = "../templates/alignment_loss.rs"]
pub mod alignment_loss;
#[path = "../templates/autoencoder.rs"]
pub mod autoencoder;
#[path = "../templates/backbone.rs"]
pub mod backbone;
#[path = "../templates/conditioner.rs"]
pub mod conditioner;
#[path = "../templates/dataset.rs"]
pub mod dataset;
#[path = "../templates/encoder.rs"]
pub mod encoder;
#[path = "../templates/feature_network.rs"]
pub mod feature_network;
#[path = "../templates/normalizer.rs"]
pub mod normalizer;
#[path = "../templates/objective.rs"]
pub mod objective;
#[path = "../templates/program.rs"]
pub mod program;
#[path = "../templates/projector.rs"]
pub mod projector;
#[path = "../templates/sampler.rs"]
pub mod sampler;
