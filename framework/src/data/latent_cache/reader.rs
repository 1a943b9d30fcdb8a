//! Reading a finished cache.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::contents::{CachedLatents, LatentsInfo};
use super::manifest::{CacheSettings, Manifest, shard_name};
use super::shard::{ShardFile, picture_digest};
use crate::data::image::RgbImage;

/// A cache, opened. Every example is checked against its checksum when it is read.
#[derive(Debug)]
pub struct LatentCache {
    settings: CacheSettings,
    shards: Vec<ShardFile>,
    info: LatentsInfo,
}

impl LatentCache {
    /// Opens all shards; their moments are read later.
    ///
    /// # Errors
    /// The folder is no finished cache, or a shard is missing or cut.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let settings = CacheSettings::read(folder)?;
        let place = folder.display().to_string();
        let listed = manifest.shards.len();
        ensure!(
            listed == settings.num_shards(),
            "`{place}`: its manifest lists {listed} shards and its settings mean {}; make the cache anew",
            settings.num_shards()
        );
        ensure!(
            manifest.statistics.is_of(settings.shape[0]),
            "`{place}`: the statistics in its manifest are not those of {} channels; make the cache anew",
            settings.shape[0]
        );
        let mut shards = vec![];
        for (shard, entry) in manifest.shards.iter().enumerate() {
            let count = settings.examples(shard).len();
            shards.push(ShardFile::open(&folder.join(shard_name(shard)), &settings, count, entry.bytes)?);
        }
        let classes = settings.classes.len();
        for label in shards.iter().flat_map(|shard| &shard.labels) {
            let is_known = usize::try_from(*label).is_ok_and(|label| label < classes);
            ensure!(is_known, "`{place}`: label {label} of {classes} classes; make the cache anew");
        }
        let info = LatentsInfo {
            place,
            shape: settings.shape,
            image_size: Some(settings.image_size),
            autoencoder: Some(settings.autoencoder_digest.clone()),
            statistics: Some(manifest.statistics),
            has_pictures: false,
        };
        Ok(Self { settings, shards, info })
    }

    /// The cache, whose data set has the pictures too.
    pub fn with_pictures(mut self) -> Self {
        self.info.has_pictures = true;
        self
    }

    /// What the cache is of.
    pub fn settings(&self) -> &CacheSettings {
        &self.settings
    }

    /// Class of example `idx`.
    ///
    /// # Errors
    /// There is no such example.
    pub fn label(&self, idx: usize) -> Result<usize> {
        let (shard, at) = self.place(idx)?;
        let label = shard.labels.get(at).context("an example without label")?;
        Ok(usize::try_from(*label)?)
    }

    /// Refuses a picture that is not the one whose latent is example `idx`.
    ///
    /// # Errors
    /// It is another one.
    pub fn check_picture(&self, idx: usize, image: &RgbImage) -> Result<()> {
        let (shard, at) = self.place(idx)?;
        ensure!(
            shard.picture(at) == Some(&picture_digest(image)[..]),
            "picture {idx} is not the one that latent {idx} of `{}` was made of; name the pictures that the cache was \
             prepared from",
            self.info.place
        );
        Ok(())
    }

    fn place(&self, idx: usize) -> Result<(&ShardFile, usize)> {
        let size = self.settings.shard_size;
        let shard = self.shards.get(idx / size).filter(|_| idx < self.settings.count);
        let shard = shard.with_context(|| format!("index {idx} of {} cached latents", self.settings.count))?;
        Ok((shard, idx % size))
    }
}

impl CachedLatents for LatentCache {
    fn info(&self) -> &LatentsInfo {
        &self.info
    }

    fn moments(&self, idx: usize) -> Result<Vec<f32>> {
        let (shard, at) = self.place(idx)?;
        shard.moments(at)
    }
}
