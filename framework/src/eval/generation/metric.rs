//! What is measured, and what the numbers are called.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A measure of generated pictures by their features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Fréchet distance of the features' Gaussians; smaller is better.
    FrechetDistance,
    /// The same of features that keep where things are.
    SpatialFrechetDistance,
    /// How sure a classifier is of each picture, and how evenly it names its classes; larger is better.
    Score,
    /// Share of samples among the reference pictures.
    Precision,
    /// Share of reference pictures among the samples.
    Recall,
    /// Maximum mean discrepancy of the features; smaller is better.
    Discrepancy,
}

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 6] = [
        Self::FrechetDistance,
        Self::SpatialFrechetDistance,
        Self::Score,
        Self::Precision,
        Self::Recall,
        Self::Discrepancy,
    ];

    /// Name with a network's: published names (`fid`, `inception_score`, `cmmd`) stand for published networks alone.
    ///
    /// ```
    /// use realign::eval::generation::Metric;
    /// assert_eq!(Metric::FrechetDistance.of_network("shapes_net"), "fd_shapes_net");
    /// assert_eq!(Metric::Score.of_network("shapes_net"), "shapes_net_score");
    /// ```
    pub fn of_network(self, label: &str) -> String {
        match self {
            Self::FrechetDistance => format!("fd_{label}"),
            Self::SpatialFrechetDistance => format!("spatial_fd_{label}"),
            Self::Score => format!("{label}_score"),
            Self::Precision => format!("precision_{label}"),
            Self::Recall => format!("recall_{label}"),
            Self::Discrepancy => format!("mmd_{label}"),
        }
    }
}
