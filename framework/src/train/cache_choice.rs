//! Where a run keeps the features of its encoders, and what tells them from others.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::feature_cache::{FeatureCache, Store};
use super::feature_file::{FeatureFile, record_bytes};
use crate::files::sha256;
use crate::ops::{self, Precision};
use crate::plugin::{Dataset, EncoderConfig, EncoderSpec};
use crate::recipe::{FeatureStorage, Plan};

/// Layout of the files; another number makes old ones foreign.
const FORMAT: u32 = 1;

/// Where features are kept, how much that takes, and why they are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheChoice {
    /// Where; never [`FeatureStorage::Auto`].
    pub storage: FeatureStorage,
    /// Bytes of all features of all encoders.
    pub bytes: u64,
    /// Number of examples.
    pub num_examples: usize,
    /// Why they are kept nowhere; empty otherwise.
    pub why_off: &'static str,
}

impl CacheChoice {
    /// What the recipe's `cache` section comes to with this data.
    pub fn new(plan: &Plan, dataset: &dyn Dataset) -> Self {
        let (recipe, section) = (&plan.recipe, &plan.recipe.cache);
        let encoders = plan.encoders.iter().flatten();
        let record: usize = encoders.map(|encoder| record_bytes(num_values(encoder))).sum();
        let num_examples = dataset.len();
        let bytes = (record as u64).saturating_mul(num_examples as u64);
        let seen = recipe.train.steps.saturating_mul(recipe.train.global_batch_size as u64);
        let (storage, why_off) = match section.features {
            FeatureStorage::Off => (FeatureStorage::Off, "the recipe says so"),
            _ if record == 0 => (FeatureStorage::Off, "there is no encoder"),
            FeatureStorage::Auto if recipe.flip > 0.0 => (FeatureStorage::Off, "pictures are mirrored at random"),
            FeatureStorage::Auto if seen <= num_examples as u64 => (FeatureStorage::Off, "no example comes twice"),
            FeatureStorage::Auto if bytes <= section.max_memory_bytes => (FeatureStorage::Memory, ""),
            FeatureStorage::Auto if bytes > section.max_disk_bytes => {
                (FeatureStorage::Off, "they exceed cache.max_memory_bytes and cache.max_disk_bytes")
            }
            FeatureStorage::Auto if dataset.digest().is_none() => (
                FeatureStorage::Off,
                "they exceed cache.max_memory_bytes, and this data set cannot be told from others",
            ),
            FeatureStorage::Auto | FeatureStorage::Disk => (FeatureStorage::Disk, ""),
            FeatureStorage::Memory => (FeatureStorage::Memory, ""),
        };
        Self { storage, bytes, num_examples, why_off }
    }

    /// The caches by term and encoder, none where features are not kept, and what the user should know.
    ///
    /// # Errors
    /// The recipe asks for a disk, and that cannot be had.
    pub fn open(
        self,
        plan: &Plan,
        dataset: &dyn Dataset,
        device: &Device,
        micro_batch_size: usize,
        run_dir: &Path,
    ) -> Result<(Vec<Vec<FeatureCache>>, Vec<String>)> {
        let is_strict = plan.recipe.cache.features == FeatureStorage::Auto;
        let folder = plan.recipe.cache.dir.clone().unwrap_or_else(|| run_dir.join("features"));
        let mut notes = vec![];
        let mut open = |encoder: &dyn EncoderConfig, spec: &EncoderSpec| {
            let store = match self.storage {
                FeatureStorage::Disk => self.file(
                    &key(plan, dataset, device, micro_batch_size, encoder, spec)?,
                    encoder,
                    spec,
                    &folder,
                    &mut notes,
                )?,
                _ => Store::memory(self.num_examples),
            };
            Ok(FeatureCache::new(store, [spec.grid.tokens(), spec.channels], is_strict))
        };
        let terms = plan.recipe.alignment.iter().zip(&plan.encoders).filter(|_| self.storage != FeatureStorage::Off);
        let caches: Result<Vec<Vec<FeatureCache>>> = terms
            .map(|(term, specs)| {
                term.encoders.iter().zip(specs).map(|(encoder, spec)| open(&**encoder, spec)).collect()
            })
            .collect();
        match caches {
            Ok(caches) => Ok((caches, notes)),
            Err(problem) if is_strict => {
                Ok((vec![], vec![format!("{problem:#}; the run goes on without feature cache")]))
            }
            Err(problem) => Err(problem.context("cache.features")),
        }
    }

    fn file(
        self,
        key: &Value,
        encoder: &dyn EncoderConfig,
        spec: &EncoderSpec,
        folder: &Path,
        notes: &mut Vec<String>,
    ) -> Result<Store> {
        let hash = Sha256::digest(serde_json::to_vec(key)?);
        let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let folder = folder.join(format!("{}-{name}", (encoder.info().name)()));
        let (file, is_replaced) = FeatureFile::open(&folder, key, self.num_examples, num_values(spec))?;
        if is_replaced {
            notes.push(format!("`{}` belonged to another encoder or data set and is made anew", folder.display()));
        }
        Ok(Store::Disk(file))
    }
}

impl Display for CacheChoice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let place = match self.storage {
            FeatureStorage::Memory => "in memory",
            FeatureStorage::Disk => "on disk",
            FeatureStorage::Auto | FeatureStorage::Off => return write!(f, "not kept: {}", self.why_off),
        };
        write!(f, "{place}, {} for {} examples", ops::gigabytes(self.bytes as f64), self.num_examples)
    }
}

/// Everything that features depend on.
fn key(
    plan: &Plan,
    dataset: &dyn Dataset,
    device: &Device,
    micro_batch_size: usize,
    encoder: &dyn EncoderConfig,
    spec: &EncoderSpec,
) -> Result<Value> {
    let digest = dataset.digest();
    let data = digest
        .context("this data set cannot be told from others, so its features are not kept on disk; use `memory`")?;
    let weights = spec.weights.iter().map(|file| sha256(&file.path)).collect::<Result<Vec<_>>>()?;
    let (device, ctx) = (ops::describe(device), plan.encoder_context());
    let mut key = json!({
        "format": FORMAT,
        "version": env!("CARGO_PKG_VERSION"),
        "encoder": serde_json::to_value(encoder).context("cannot write the encoder's settings")?,
        "weights": weights,
        "data": data,
        "data_settings": serde_json::to_value(&plan.recipe.data).context("cannot write the data set's settings")?,
        "num_examples": dataset.len(),
        "image_size": ctx.image_size,
        "grid": [ctx.backbone_grid.rows, ctx.backbone_grid.columns],
        "tokens": spec.grid.tokens(),
        "channels": spec.channels,
        // Convolutions round differently at another batch size, kernels on another kind of device.
        "micro_batch_size": micro_batch_size,
        "device": device.split(',').next(),
    });
    if plan.recipe.precision != Precision::F32 {
        key["precision"] = plan.recipe.precision.name().into();
    }
    Ok(key)
}

fn num_values(encoder: &EncoderSpec) -> usize {
    encoder.grid.tokens() * encoder.channels
}
