//! What is written while training, and when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use crate::eval::spatial::SpatialMetric;

/// What is written while training, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// Steps between scalars.
    pub every: u64,
    /// Steps between previews; 0 draws one at the end only.
    pub preview_every: u64,
    /// Steps between checkpoints; 0 saves at the end only.
    pub checkpoint_every: u64,
    /// Checkpoints kept; older ones are deleted.
    pub keep_checkpoints: usize,
    /// Steps between checkpoints that are never deleted; 0 for none.
    #[serde(default)]
    pub keep_every: u64,
    /// Steps between histograms of weights; 0 writes none.
    pub histogram_every: u64,
    /// Whether a small classifier judges samples at the end; needs the data set `shapes`.
    pub classifier: bool,
    /// Spatial structure of the network's tokens beside the encoders'; not measured when null.
    #[serde(default)]
    pub spatial: Option<SpatialSection>,
}

/// Spatial structure of the network's tokens on pictures that stay the same, beside that of encoders and targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpatialSection {
    /// Steps between measurements; the last step is always measured.
    pub every: u64,
    /// Blocks to look at, counted from 1; those that are aligned when empty.
    pub taps: Vec<usize>,
    /// Metrics, by `type` and settings; `srss` needs a data set with masks.
    pub metrics: Vec<SpatialMetric>,
    /// Pictures: the data set's first ones.
    pub num_images: usize,
    /// Share of noise in what the network gets: 0 is the picture, 1 is noise.
    pub noise_level: f64,
}

impl Default for SpatialSection {
    fn default() -> Self {
        let needs_no_mask = |metric: &SpatialMetric| !metric.needs_mask();
        Self {
            every: 1000,
            taps: vec![],
            metrics: SpatialMetric::all().into_iter().filter(needs_no_mask).collect(),
            num_images: 64,
            noise_level: 0.5,
        }
    }
}

impl LogSection {
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        check.range("every", self.every, 1, u64::MAX);
        check.positive("keep_checkpoints", self.keep_checkpoints);
        if self.checkpoint_every > 0 && !self.keep_every.is_multiple_of(self.checkpoint_every) {
            let message = format!(
                "`{}` is no multiple of checkpoint_every (`{}`), so that there is no such checkpoint",
                self.keep_every, self.checkpoint_every
            );
            check.bad("keep_every", message);
        }
        if let Some(spatial) = &self.spatial {
            check.within("spatial", |check| spatial.validate(check));
        }
    }

    /// For recipes of programs, which do not measure it.
    pub(super) fn has_no_spatial(&self, check: &mut Check<'_>) {
        if self.spatial.is_some() {
            check.bad("log.spatial", "has no effect in a recipe with a `program`; leave it out");
        }
    }
}

impl SpatialSection {
    fn validate(&self, check: &mut Check<'_>) {
        check.range("every", self.every, 1, u64::MAX);
        check.range("num_images", self.num_images, 1, 65_536);
        check.range("noise_level", self.noise_level, 0.0, 1.0);
        for (i, metric) in self.metrics.iter().enumerate() {
            if self.metrics[..i].iter().any(|other| other.name() == metric.name()) {
                check.bad(&format!("metrics.{i}"), format!("`{}` is measured twice", metric.name()));
            }
        }
    }
}
