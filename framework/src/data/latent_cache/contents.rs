//! What a data set with cached latents offers.

use std::fmt::Debug;

use anyhow::Result;

use super::statistics::ChannelSums;
use crate::plugin::LatentShape;

/// Latents of a data set's examples, by index from any thread.
pub trait CachedLatents: Debug + Send + Sync {
    /// What is known of all of them.
    fn info(&self) -> &LatentsInfo;

    /// Mean and deviation of example `idx`: `2 · channels · height · width` values.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else than was written.
    fn moments(&self, idx: usize) -> Result<Vec<f32>>;
}

/// What is known of cached latents before one is read.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentsInfo {
    /// Where they lie, for messages.
    pub place: String,
    /// Shape of a latent.
    pub shape: LatentShape,
    /// Side of the pictures that they are of, in pixels, where the cache tells.
    pub image_size: Option<usize>,
    /// [Digest](crate::weights::digest) of the autoencoder that made them, where the cache tells.
    pub autoencoder: Option<String>,
    /// Mean and variance of each channel, where the cache tells.
    pub statistics: Option<ChannelSums>,
    /// Whether the data set has the pictures too, which alignment needs.
    pub has_pictures: bool,
}
