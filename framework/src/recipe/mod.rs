//! Recipes: layered YAML in which every value remembers the file and line it came from.
//!
//! Layers, later wins: the user's [`Settings`], the recipe's `base:` files, the recipe, the profile file (and its `base:` files),
//! the recipe's own `profiles:` section of that name, `--set key=value`.
//!
//! * A section whose `type` changes is replaced, not merged: the keys of the old plugin mean nothing to the new.
//! * A later list replaces an earlier one as a whole. A mapping with integer keys patches single items
//!   (`alignment: {0: {encoder: ...}}`), and `--set alignment.0.encoder.type=...` reaches into one.
//! * Top-level keys that start with `x-` are ignored: a place for anchors. `<<: *anchor` works.

mod cache_section;
mod check;
mod complaint;
mod deserialize;
mod evaluation_section;
mod keys;
mod layers;
mod loading;
mod locate;
mod log_section;
mod merge;
mod micro_batch_size;
mod missing;
mod origin;
mod plan;
mod profiles;
mod program;
mod resolved;
mod sample_section;
mod schema;
mod settings;
mod singular;
mod text;
mod yaml;

pub use cache_section::{CacheSection, FeatureStorage};
pub use check::Check;
pub use evaluation_section::EvaluationSection;
pub use layers::Layered;
pub use log_section::{LogSection, SpatialSection};
pub use micro_batch_size::MicroBatchSize;
pub use missing::Missing;
pub use plan::Plan;
pub use program::{Job, ProgramPlan, ProgramRecipe};
pub use sample_section::{LabelSampling, SampleSection};
pub use schema::{
    AlignmentTerm, Decayed, EmaSection, EmaWarmup, LoaderSection, Recipe, ScheduleSection, ScheduleShape, TrainSection,
};
pub use settings::Settings;
