//! Quality of generated pictures: distances of their features from those of a reference. Pure mathematics; which network
//! gives the features is a plugin, and its name is in the metric's.

pub mod frechet;
pub mod manifold;
pub mod measure;
pub mod metric;
pub mod mmd;
pub mod moments;
mod numpy_order;
pub mod score;
pub mod table;

pub use frechet::{FrechetReference, frechet_distance};
pub use manifold::PrecisionRecall;
pub use measure::{Collected, Measure, Measurement, Reference, gaussian};
pub use metric::Metric;
pub use mmd::{Discrepancy, discrepancy};
pub use moments::{Gaussian, Moments};
pub use score::{ClassProbabilities, ScoreParts};
pub use table::FeatureTable;
