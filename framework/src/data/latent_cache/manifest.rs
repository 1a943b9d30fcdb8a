//! What a cache says of itself.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::statistics::ChannelSums;
use super::{MANIFEST, SETTINGS};
use crate::plugin::LatentShape;

/// What decides the bytes of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSettings {
    /// Layout of this folder.
    pub version: u32,
    /// Name of the autoencoder's plugin.
    pub autoencoder: String,
    /// [Digest](crate::weights::digest) of the autoencoder's weights.
    pub autoencoder_digest: String,
    /// What the second half of the moments is.
    pub format: MomentsFormat,
    /// Element type of the moments.
    pub dtype: String,
    /// Shape of a latent.
    pub shape: LatentShape,
    /// Side of the pictures, in pixels.
    pub image_size: usize,
    /// How pictures were cropped.
    pub crop: String,
    /// Pictures per forward pass; sums in another order give other last bits.
    pub batch_size: usize,
    /// Examples.
    pub count: usize,
    /// Examples of a whole shard.
    pub shard_size: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
}

/// What the second half of cached moments is. Projects differ, and the two cannot be told apart by looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentsFormat {
    /// The standard deviation (REPA, iREPA, REPA-E, MeanFlow).
    MeanStd,
}

/// A finished cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Files with their hashes, in order.
    pub shards: Vec<ShardEntry>,
    /// Sums over all latents.
    pub statistics: ChannelSums,
}

/// One file of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Name.
    pub file: String,
    /// Examples in it.
    pub count: usize,
    /// Length in bytes.
    pub bytes: u64,
    /// Hash of the whole file, hexadecimal.
    pub sha256: String,
}

/// The layout that this version writes.
pub(super) const VERSION: u32 = 1;
pub(super) const DTYPE: &str = "f32";

impl CacheSettings {
    /// Settings of a cache that this version writes, of pictures with the ADM crop.
    pub fn new(
        (autoencoder, autoencoder_digest): (&str, String),
        shape: LatentShape,
        image_size: usize,
        classes: Vec<String>,
        [count, batch_size, shard_size]: [usize; 3],
    ) -> Result<Self> {
        ensure!(count > 0, "there are no pictures");
        ensure!(batch_size > 0, "batch size `0`; it must be at least 1");
        ensure!(shard_size > 0, "shard size `0`; it must be at least 1");
        Ok(Self {
            version: VERSION,
            autoencoder: autoencoder.into(),
            autoencoder_digest,
            format: MomentsFormat::MeanStd,
            dtype: DTYPE.into(),
            shape,
            image_size,
            crop: "adm_center".into(),
            batch_size,
            count,
            shard_size,
            classes,
        })
    }

    /// Number of shards.
    pub fn num_shards(&self) -> usize {
        self.count.div_ceil(self.shard_size.max(1))
    }

    /// Examples of shard `shard`.
    pub fn examples(&self, shard: usize) -> Range<usize> {
        let start = (shard * self.shard_size).min(self.count);
        start..(start + self.shard_size).min(self.count)
    }

    /// Values of an example's moments.
    pub fn moments_len(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }

    /// Reads the settings of a cache and refuses those that this version does not know.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let settings: Self = read_json(&folder.join(SETTINGS))?;
        let place = folder.display();
        if settings.version != VERSION || settings.dtype != DTYPE {
            let (version, dtype) = (settings.version, &settings.dtype);
            bail!(
                "`{place}` has layout {version} with {dtype} values; this version reads layout {VERSION} with {DTYPE}"
            );
        }
        // Sizes of a file must not ask for more memory than any latent has, or overflow.
        let is_sound = settings.shape.iter().all(|size| (1..=1 << 14).contains(size))
            && (1..=1 << 20).contains(&settings.shard_size)
            && (1..=1 << 40).contains(&settings.count);
        ensure!(is_sound, "`{place}`: its {SETTINGS} has impossible sizes; make the cache anew");
        Ok(settings)
    }
}

impl Manifest {
    /// Reads the manifest of a finished cache.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        if !path.exists() && folder.join(SETTINGS).exists() {
            bail!(
                "the latent cache `{}` is not finished; run the same `realign prepare latents` again",
                folder.display()
            );
        }
        read_json(&path)
    }
}

pub(super) fn shard_name(shard: usize) -> String {
    format!("latents-{shard:05}.safetensors")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`; `realign prepare latents` makes a latent cache", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not part of a latent cache", path.display()))
}
