//! Data set of latents that `realign prepare latents` computed, with their pictures where alignment needs them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use realign::data::image::RgbImage;
use realign::data::latent_cache::{CachedLatents, LatentCache};
use realign::plugin::dataset::{Dataset, DatasetConfig, DatasetContext, Example};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `latent_cache`: latents from a folder that `realign prepare latents` wrote.
///
/// Each picture is compared with the digest of the one that its latent was made of, so that a data set in another
/// order, or cropped in another way, stops the run.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LatentCacheConfig {
    /// Folder of the cache.
    pub path: PathBuf,
    /// The data set that the cache was prepared from; needed for alignment.
    #[schemars(with = "Option<serde_json::Value>")]
    pub pictures: Option<Box<dyn DatasetConfig>>,
}

#[typetag::serde(name = "latent_cache")]
impl DatasetConfig for LatentCacheConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        let is_named = !self.path.as_os_str().is_empty();
        ensure!(
            is_named,
            "data set `latent_cache`: path is missing; give a folder that `realign prepare latents` wrote"
        );
        let open = || -> Result<LatentsWithPictures> {
            let cache = LatentCache::open(&self.path)?;
            let Some(pictures) = &self.pictures else { return Ok(LatentsWithPictures { cache, pictures: None }) };
            let pictures = pictures.open(ctx).context("pictures")?;
            let (count, latents) = (pictures.len(), cache.settings().count);
            ensure!(
                count == latents,
                "there are {count} pictures and {latents} latents; name the pictures that the cache was prepared from"
            );
            Ok(LatentsWithPictures { cache: cache.with_pictures(), pictures: Some(pictures) })
        };
        Ok(Box::new(open().context("data set `latent_cache`")?))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        None
    }

    fn validate(&self, check: &mut Check<'_>) {
        if let Some(pictures) = &self.pictures {
            check.within("pictures", |check| pictures.validate(check));
        }
    }
}

realign::register!(DatasetConfig as "dataset": LatentCacheConfig);

#[derive(Debug)]
struct LatentsWithPictures {
    cache: LatentCache,
    pictures: Option<Box<dyn Dataset>>,
}

impl Dataset for LatentsWithPictures {
    fn len(&self) -> usize {
        self.cache.settings().count
    }

    fn num_classes(&self) -> usize {
        self.cache.settings().classes.len()
    }

    fn class_name(&self, label: usize) -> String {
        self.cache.settings().classes.get(label).cloned().unwrap_or_else(|| format!("class {label}"))
    }

    fn get(&self, idx: usize) -> Result<Example> {
        let label = self.cache.label(idx)?;
        let Some(pictures) = &self.pictures else {
            // Nobody looks at it: alignment without pictures is refused.
            return Ok(Example { image: RgbImage::new(1, 1, vec![0; 3])?, label, captions: vec![], mask: None });
        };
        let example = pictures.get(idx)?;
        self.cache.check_picture(idx, &example.image)?;
        Ok(Example { label, ..example })
    }

    fn digest(&self) -> Option<String> {
        self.pictures.as_ref().and_then(|pictures| pictures.digest())
    }

    fn latents(&self) -> Option<&dyn CachedLatents> {
        Some(&self.cache)
    }
}
