//! Making a cache: shard by shard, so that an interrupted run goes on where it stopped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::manifest::{CacheSettings, Manifest, ShardEntry, shard_name};
use super::shard::{ShardContents, sha256};
use super::statistics::{ChannelSums, statistics_file};
use super::{MANIFEST, SETTINGS, STATISTICS};
use crate::data::latents::LatentNorm;
use crate::files::write_whole;
use crate::weights::write_safetensors;

/// A cache in the making. A shard's file appears whole or not at all, so what is there needs no second look.
#[derive(Debug)]
pub struct CacheWriter {
    folder: PathBuf,
    settings: CacheSettings,
}

impl CacheWriter {
    /// Begins a cache, or goes on with one of the same settings.
    ///
    /// # Errors
    /// The folder holds a cache of other settings, or something else; the disk refuses.
    pub fn open(folder: &Path, settings: CacheSettings) -> Result<Self> {
        let place = folder.display();
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{place}`"))?;
        let path = folder.join(SETTINGS);
        if path.exists() {
            let found = CacheSettings::read(folder)?;
            ensure!(
                found == settings,
                "`{place}` holds a latent cache of another {}; choose another folder",
                gap(&found, &settings)
            );
        } else {
            let is_empty = fs::read_dir(folder).with_context(|| format!("cannot list `{place}`"))?.all(is_scrap);
            ensure!(is_empty, "`{place}` holds other files; choose an empty folder");
            let text = serde_json::to_string_pretty(&settings).context("cannot write the settings")?;
            write_whole(&path, text.as_bytes())?;
        }
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list `{place}`"))?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".partial") {
                fs::remove_file(entry.path()).with_context(|| format!("cannot remove `{}`", entry.path().display()))?;
            }
        }
        Ok(Self { folder: folder.to_path_buf(), settings })
    }

    /// What the cache is of.
    pub fn settings(&self) -> &CacheSettings {
        &self.settings
    }

    /// Whether a shard is written.
    pub fn has(&self, shard: usize) -> bool {
        self.folder.join(shard_name(shard)).exists()
    }

    /// Writes a shard.
    ///
    /// # Errors
    /// The contents do not fit the settings, or the disk refuses; earlier shards are untouched.
    pub fn write(&self, shard: usize, contents: &ShardContents) -> Result<()> {
        let expected = self.settings.examples(shard).len();
        let found = contents.labels.len();
        ensure!(found == expected, "shard {shard} has {found} examples, expected {expected}");
        let path = self.folder.join(shard_name(shard));
        write_whole(&path, &contents.to_bytes(&self.settings)?)
            .context("free the disk, then run the same command again: it goes on with this shard")
    }

    /// Hashes all shards, sums up their statistics and completes the cache. On a cache that is complete already it
    /// checks every byte.
    ///
    /// # Errors
    /// A shard is missing, damaged, or not what the manifest says; the latents do not vary; the disk refuses.
    pub fn finish(self) -> Result<LatentNorm> {
        let path = self.folder.join(MANIFEST);
        let known = path.exists().then(|| Manifest::read(&self.folder)).transpose()?;
        let mut manifest = Manifest { shards: vec![], statistics: ChannelSums::new(self.settings.shape[0]) };
        for shard in 0..self.settings.num_shards() {
            let (file, count) = (shard_name(shard), self.settings.examples(shard).len());
            let place = self.folder.join(&file);
            let damaged =
                || format!("shard `{}` is damaged; delete it and run the same command again", place.display());
            let bytes = fs::read(&place).with_context(damaged)?;
            manifest.statistics.merge(&ShardContents::sums(&bytes, &self.settings, count).with_context(damaged)?);
            let entry = ShardEntry { file, count, bytes: bytes.len() as u64, sha256: sha256(&bytes) };
            let is_expected = known.as_ref().is_none_or(|known| known.shards.get(shard) == Some(&entry));
            ensure!(is_expected, "{}: it is not what the manifest says", damaged());
            manifest.shards.push(entry);
        }
        let norm = manifest.statistics.norm()?;
        if known.is_none() {
            write_safetensors(&self.folder.join(STATISTICS), &statistics_file(&norm))?;
            let text = serde_json::to_string_pretty(&manifest).context("cannot write the manifest")?;
            write_whole(&path, text.as_bytes())?;
        }
        Ok(norm)
    }
}

/// What an interrupted start may leave.
fn is_scrap(entry: std::io::Result<fs::DirEntry>) -> bool {
    entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
}

/// The first setting that differs, with both values.
fn gap(found: &CacheSettings, asked: &CacheSettings) -> String {
    let value = |settings: &CacheSettings| serde_json::to_value(settings).unwrap_or_default();
    let (found, asked) = (value(found), value(asked));
    let differing = found.as_object().into_iter().flatten().find(|(key, value)| asked.get(key) != Some(value));
    match differing {
        Some((key, value)) if key != "classes" => format!("{key} ({value}, and {} is asked for)", asked[key]),
        _ => "list of classes".into(),
    }
}
