//! The contracts that plugins implement.
//!
//! A plugin is a config (what a recipe writes) and what the config builds. Configs answer every question about sizes
//! before a weight exists; building gets a context and never reads files, environment variables or the clock on its own.

pub mod alignment_loss;
pub mod autoencoder;
pub mod backbone;
pub mod condition;
pub mod dataset;
pub mod encoder;
pub mod feature_network;
pub mod grid;
pub mod normalizer;
pub mod objective;
pub mod program;
pub mod projector;
pub mod sampler;

pub use alignment_loss::{AlignmentLoss, AlignmentLossConfig};
pub use autoencoder::{Autoencoder, AutoencoderConfig, AutoencoderKind, LatentShape, Variational};
pub use backbone::{
    Backbone, BackboneConfig, BackboneContext, BackboneInput, BackboneKind, BackboneOutput, BackboneSpec, TapsOnly,
    Times,
};
pub use condition::{Condition, ConditionSpec, Conditioner, ConditionerConfig, ConditionerContext, ConditionerKind};
pub use dataset::{ClassAttribute, Dataset, DatasetConfig, DatasetContext, Example};
pub use encoder::{Encoder, EncoderConfig, EncoderContext, EncoderKind, EncoderSpec, Features};
pub use feature_network::{FeatureContext, FeatureNetwork, FeatureNetworkConfig, NetworkOutput};
pub use grid::PatchGrid;
pub use normalizer::{Normalizer, NormalizerConfig};
pub use objective::{Draws, Dynamics, Objective, ObjectiveConfig, ObjectiveInput, ObjectiveOutput, ProbabilityPath};
pub use program::{Program, ProgramConfig, ProgramContext};
pub use projector::{Projector, ProjectorConfig, ProjectorContext, ProjectorKind};
pub use sampler::{Guidance, SampleRequest, Sampler, SamplerConfig};
