//! Whether encoder features are kept after their first use.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;

/// Whether and where the features of an example are kept after its first use, so that frozen encoders run once.
///
/// No number of a run depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSection {
    /// Where features are kept; mirrored pictures (`flip` above 0) have none to keep.
    pub features: FeatureStorage,
    /// Most bytes of memory that `auto` takes.
    pub max_memory_bytes: u64,
    /// Most bytes of disk that `auto` takes.
    pub max_disk_bytes: u64,
    /// Folder of the files, which several runs may share; `features` in the run folder when left out.
    pub dir: Option<PathBuf>,
}

impl Default for CacheSection {
    fn default() -> Self {
        Self { features: FeatureStorage::Auto, max_memory_bytes: 1 << 30, max_disk_bytes: 16 << 30, dir: None }
    }
}

/// Where features are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureStorage {
    /// In memory where they fit, else on disk where they fit, else nowhere; and only if they come out bit for bit.
    #[default]
    Auto,
    /// In memory, until the program ends.
    Memory,
    /// In files.
    Disk,
    /// Nowhere: encoders run at every step.
    Off,
}

impl CacheSection {
    pub(super) fn validate(&self, flip: f64, check: &mut Check<'_>) {
        if matches!(self.features, FeatureStorage::Memory | FeatureStorage::Disk) && flip > 0.0 {
            check.bad(
                "features",
                format!("mirrored pictures have other features; set `flip: 0` (it is `{flip}`) or `off`"),
            );
        }
        if self.dir.is_some() && matches!(self.features, FeatureStorage::Memory | FeatureStorage::Off) {
            check.bad("dir", "is used by `features: disk` and `auto` only; remove it");
        }
    }
}
