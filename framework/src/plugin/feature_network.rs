//! Networks whose features say how far pictures are from others: what evaluation compares.

use std::fmt::Debug;
use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::{Device, Tensor};

use super::encoder::WeightFile;
use crate::eval::generation::{Metric, ScoreParts};
use crate::recipe::Check;
use crate::registry::Described;

/// What a network says of a batch of pictures.
///
/// # Shapes
/// * `features`: `[batch, dim]`
/// * `spatial`: `[batch, dim]`, of another size
/// * `logits`: `[batch, classes]`
#[derive(Debug, Clone)]
pub struct NetworkOutput {
    /// One row for each picture, of which distances are measured.
    pub features: Tensor<2>,
    /// Features that keep where things are, for [`Metric::SpatialFrechetDistance`].
    pub spatial: Option<Tensor<2>>,
    /// Scores of classes, for [`Metric::Score`].
    pub logits: Option<Tensor<2>>,
}

/// A frozen network from pictures to features. It owns its preprocessing.
pub trait FeatureNetwork: Debug + Send + Sync {
    /// Features of a batch.
    ///
    /// # Shapes
    /// * `images`: `[batch, 3, height, width]`, RGB in 0..255
    ///
    /// # Errors
    /// The pictures do not fit.
    fn features(&self, images: Tensor<4>) -> Result<NetworkOutput>;

    /// SHA-256 of its weights in hexadecimal digits.
    fn digest(&self) -> String;
}

/// What a feature network is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureContext {
    /// Height and width of the pictures, in pixels.
    pub picture_size: [usize; 2],
    /// Folder of published weights.
    pub weights_dir: PathBuf,
}

/// A feature network as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait FeatureNetworkConfig: Described + Debug + Send + Sync {
    /// Its name in those of metrics: `shapes_net` in `fd_shapes_net`.
    fn label(&self) -> String;

    /// What it measures when nothing is asked for in particular.
    fn metrics(&self) -> Vec<Metric>;

    /// Name of a metric of its features. Only the network that a published name stands for overrides this.
    fn metric_name(&self, metric: Metric) -> String {
        metric.of_network(&self.label())
    }

    /// Which definition its numbers follow, for what may be compared with what.
    fn convention(&self) -> String {
        self.label()
    }

    /// How [`Metric::Score`] divides pictures.
    fn score_parts(&self) -> ScoreParts {
        ScoreParts::Size(5000)
    }

    /// Whether a reference file that does not say whose statistics it holds may be taken for this network's: published
    /// files do not.
    fn owns_unnamed_statistics(&self) -> bool {
        false
    }

    /// Files it needs, with the command that gets each.
    fn weights(&self, _ctx: &FeatureContext) -> Vec<WeightFile> {
        vec![]
    }

    /// Builds it.
    ///
    /// # Errors
    /// A missing or unfit weight file, or pictures that do not fit.
    fn build(&self, ctx: &FeatureContext, device: &Device) -> Result<Box<dyn FeatureNetwork>>;

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
