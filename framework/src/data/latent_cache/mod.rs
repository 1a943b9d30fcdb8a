//! Latents of a data set on disk, so that training does not encode each picture anew.
//!
//! A cache is a folder of shards `latents-00000.safetensors`, each with the posterior's mean and deviation of its
//! examples (`moments`), their `labels`, a digest of each picture (`pictures`) and one of its moments (`checksums`). Beside
//! them lie `settings.json`, which says what the latents are of, `manifest.json`, which appears when all is written and
//! holds the shards' SHA-256, and `latents-stats.safetensors` with `latents_scale` and `latents_bias`.

mod contents;
mod manifest;
mod reader;
mod shard;
mod statistics;
mod writer;

pub use contents::{CachedLatents, LatentsInfo};
pub use manifest::{CacheSettings, Manifest, MomentsFormat, ShardEntry};
pub use reader::LatentCache;
pub use shard::{ShardContents, picture_digest};
pub use statistics::{ChannelSums, statistics_file};
pub use writer::CacheWriter;

/// Name of the file that completes a cache.
pub const MANIFEST: &str = "manifest.json";
/// Name of the file that says what a cache is of.
pub const SETTINGS: &str = "settings.json";
/// Name of the file with the statistics that normalize a cache's latents.
pub const STATISTICS: &str = "latents-stats.safetensors";
