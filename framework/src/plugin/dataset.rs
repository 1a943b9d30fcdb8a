//! The data set contract: pictures with labels, by index.

use std::fmt::Debug;

use anyhow::Result;

use crate::data::image::RgbImage;
use crate::data::latent_cache::CachedLatents;
use crate::recipe::Check;
use crate::registry::Described;

/// One example of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Square picture of the size that [`DatasetContext`] asked for.
    pub image: RgbImage,
    /// Class, below [`Dataset::num_classes`].
    pub label: usize,
    /// Texts that describe the picture; training takes one of them at random.
    pub captions: Vec<String>,
    /// Object mask, height · width bytes: 0 background, 255 object.
    pub mask: Option<Vec<u8>>,
}

/// Random access to examples from any thread.
///
/// `get` is a pure function of the index: shuffling and augmentation are the loader's.
pub trait Dataset: Debug + Send + Sync {
    /// Number of examples, at least 1.
    fn len(&self) -> usize;

    /// Whether there is no example.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of classes, at least 1.
    fn num_classes(&self) -> usize;

    /// Name of a class, for captions of figures.
    fn class_name(&self, label: usize) -> String;

    /// Text that asks sample `idx` for a picture of class `label`, for networks that take text.
    fn prompt(&self, _idx: u64, _label: usize) -> Option<String> {
        None
    }

    /// Whether no example shows this class, so that samples of it show what the network makes of its parts.
    fn is_held_out(&self, _label: usize) -> bool {
        false
    }

    /// What its classes tell apart, for judging samples: by default the class itself.
    fn attributes(&self) -> Vec<ClassAttribute> {
        vec![ClassAttribute { name: "class", values: (0..self.num_classes()).collect() }]
    }

    /// Example `idx`, below [`Dataset::len`].
    ///
    /// # Errors
    /// Names the file or index that cannot be read.
    fn get(&self, idx: usize) -> Result<Example>;

    /// Latents of its pictures, where they were computed before.
    fn latents(&self) -> Option<&dyn CachedLatents> {
        None
    }

    /// Hash of what `get` returns, as far as it can be told without reading every picture; none where it cannot.
    /// Features on disk are kept for data that has one.
    fn digest(&self) -> Option<String> {
        None
    }

    /// Distinct examples that were unreadable so far and replaced by others.
    fn num_replaced(&self) -> usize {
        0
    }
}

/// One thing that classes tell apart: the color, the shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassAttribute {
    /// Its name.
    pub name: &'static str,
    /// Its value for each class.
    pub values: Vec<usize>,
}

/// What a data set is told about the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetContext {
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// Seed of the run.
    pub seed: u64,
}

/// A data set as a recipe names it.
///
/// ```
/// use realign::plugin::dataset::{DatasetConfig, DatasetContext};
/// fn first_label(config: &dyn DatasetConfig) -> anyhow::Result<usize> {
///     let dataset = config.open(&DatasetContext { image_size: 32, seed: 0 })?;
///     Ok(dataset.get(0)?.label)
/// }
/// ```
#[typetag::serde(tag = "type")]
pub trait DatasetConfig: Described + Debug + Send + Sync {
    /// Finds the data and checks its layout; pictures are read later.
    ///
    /// # Errors
    /// When the data is absent or empty, or `ctx` asks for a size that cannot be had.
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>>;

    /// Number of classes where it is known without opening the data.
    fn num_classes_hint(&self) -> Option<usize>;

    /// Whether its examples have captions.
    fn has_captions(&self) -> bool {
        false
    }

    /// Opens what a judge of samples learns from: the same data with one object in each picture and no class held out.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn open_for_judge(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        self.open(ctx)
    }

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
