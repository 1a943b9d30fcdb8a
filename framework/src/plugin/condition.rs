//! What a sample shall show: class labels or text.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::{Bool, Device, Int, Tensor};

use super::encoder::WeightFile;
use crate::erase::Erased;
use crate::nn::ParamBuilder;
use crate::ops;
use crate::recipe::Check;
use crate::registry::Described;

/// A batch of conditions.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Class labels, `[batch]`; the number of classes itself is the null label.
    Labels(Tensor<1, Int>),
    /// Text features, `[batch, tokens, channels]`.
    Text(Tensor<3>),
}

impl Condition {
    /// Labels from numbers.
    pub fn labels(labels: &[i64], device: &Device) -> Self {
        Self::Labels(ops::upload_ints(labels, [labels.len()], device))
    }

    /// Takes `null` where `drop` says so (classifier-free guidance training).
    ///
    /// # Shapes
    /// * `drop`: `[batch]`
    pub fn replace(self, drop: Tensor<1, Bool>, null: Self) -> Self {
        match (self, null) {
            (Self::Labels(labels), Self::Labels(null)) => Self::Labels(labels.mask_where(drop, null)),
            (Self::Text(text), Self::Text(null)) => {
                let [batch, tokens, channels] = text.dims();
                let drop = drop.reshape([batch, 1, 1]).expand([batch, tokens, channels]);
                Self::Text(text.mask_where(drop, null))
            }
            (kept, _) => kept,
        }
    }

    /// The conditions at these places of the batch.
    pub fn slice(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::Labels(labels) => Self::Labels(labels.slice_dim(0, range)),
            Self::Text(text) => Self::Text(text.slice_dim(0, range)),
        }
    }

    /// The same conditions; no gradient reaches what made them.
    pub fn detach(self) -> Self {
        match self {
            Self::Text(text) => Self::Text(text.detach()),
            kept => kept,
        }
    }

    /// The conditions for a network without autodiff.
    pub fn inner(self) -> Self {
        match self {
            Self::Labels(labels) => Self::Labels(labels.inner()),
            Self::Text(text) if text.is_autodiff() => Self::Text(text.inner()),
            kept => kept,
        }
    }

    /// Both batches, one after the other.
    pub fn concat(self, other: Self) -> Self {
        match (self, other) {
            (Self::Labels(a), Self::Labels(b)) => Self::Labels(Tensor::cat(vec![a, b], 0)),
            (Self::Text(a), Self::Text(b)) => Self::Text(Tensor::cat(vec![a, b], 0)),
            (kept, _) => kept,
        }
    }
}

/// What kind of condition a network gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionSpec {
    /// Labels 0 to `num_classes` − 1; `num_classes` is the null label.
    Labels {
        /// Number of classes without the null label.
        num_classes: usize,
    },
    /// Text features.
    Text {
        /// Tokens per caption.
        tokens: usize,
        /// Channels per token.
        channels: usize,
    },
}

impl ConditionSpec {
    /// The kind in words, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Labels { .. } => "class labels",
            Self::Text { .. } => "text",
        }
    }
}

/// Turns what the data says about an example into a network's condition. It trains with the network where its config
/// [says so](ConditionerConfig::is_trained).
pub trait Conditioner: Erased<ConditionerKind> {
    /// Conditions of a batch; `labels` and `captions` have one entry per example.
    ///
    /// # Errors
    /// A label out of range, or a caption that is needed and absent.
    fn condition(&self, labels: &[i64], captions: &[Option<String>], device: &Device) -> Result<Condition>;

    /// The condition that stands for "anything", `batch` times.
    fn null(&self, batch: usize, device: &Device) -> Condition;
}
crate::module_kind!(
    /// Conditioners as a kind of plugin.
    ConditionerKind, "conditioner", Conditioner
);

/// What a conditioner is told about the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionerContext {
    /// Classes of the data set.
    pub num_classes: usize,
    /// Folder of published weights.
    pub weights_dir: PathBuf,
}

/// A conditioner as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait ConditionerConfig: Described + Debug + Send + Sync {
    /// What it will produce.
    fn spec(&self, num_classes: usize) -> ConditionSpec;

    /// Files it needs, with the command that gets each; `weights_dir` is the folder of published weights.
    fn weights(&self, _weights_dir: &Path) -> Vec<WeightFile> {
        vec![]
    }

    /// Whether its parameters train with the network: they are then part of the model, its averages and checkpoints,
    /// under the names `conditioner.…`. What trains declares its parameters with `params` alone.
    fn is_trained(&self) -> bool {
        false
    }

    /// Builds it; parameters live on the device of `params`.
    ///
    /// # Errors
    /// A missing or unfit weight file.
    fn build(&self, ctx: &ConditionerContext, params: &ParamBuilder) -> Result<Box<dyn Conditioner>>;

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
