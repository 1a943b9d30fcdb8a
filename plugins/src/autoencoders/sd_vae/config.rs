//! Sizes, weights and normalization of the autoencoder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use realign::burn::tensor::Device;
use realign::data::latents::LatentNorm;
use realign::nn::ParamBuilder;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{Autoencoder, AutoencoderConfig, LatentShape};
use realign::recipe::Check;
use realign::weights::{StateDict, load_state_dict, read_weights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::first_names;
use super::network::AutoencoderKl;
use super::published::published;

/// `sd_vae`: latent diffusion's autoencoder with a Gaussian posterior; samples are normalized draws from it.
///
/// Give `size`, or all of `channels`, `num_res_blocks`, `latent_channels` and `num_groups`; a single key overrides the
/// size's. Source: Rombach et al., 2022; iREPA `ldm/models/autoencoder.py`, REPA-E `models/autoencoder.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SdVaeConfig {
    /// Published size.
    pub size: Option<Size>,
    /// Channels of each level, finest first; each further level halves the picture's sides.
    pub channels: Option<Vec<usize>>,
    /// Residual blocks of an encoder level; a decoder level has one more.
    pub num_res_blocks: Option<usize>,
    /// Channels of a latent.
    pub latent_channels: Option<usize>,
    /// Groups of every GroupNorm; divides all `channels`.
    pub num_groups: Option<usize>,
    /// Levels with attention behind each of their blocks, counted from 0; the middle always has it.
    pub attention_levels: Option<Vec<usize>>,
    /// Where the weights come from.
    pub weights: Weights,
    /// How latents are normalized for training.
    pub latent_norm: Norm,
}

/// Published sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// `sd-vae-ft-mse`: an eighth of the side, 4 channels.
    F8d4,
    /// REPA-E's IN-VAE and VA-VAE: a sixteenth of the side, 32 channels.
    F16d32,
    /// The topology of `f8d4` with a few channels, for demos and tests; nobody published weights of it.
    Tiny,
}

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Weights {
    /// The file of `f8d4` that the paper uses, in the folder of published weights.
    #[default]
    Published,
    /// A file in the layout of CompVis or of diffusers.
    File {
        /// Where it lies.
        path: PathBuf,
    },
    /// Drawn at random, to be trained.
    Random {
        /// Seed of the draws.
        #[serde(default)]
        seed: u64,
    },
}

/// How latents are normalized for training. The two conventions cannot be combined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Norm {
    /// `(latent − bias) · scale` by the statistics of each channel, from a file with `latents_scale` and
    /// `latents_bias` (iREPA, REPA-E). `realign prepare latents` writes one.
    ChannelStats {
        /// Where it lies; that of the published `f8d4` when left out.
        #[serde(default)]
        path: Option<PathBuf>,
    },
    /// `scale · latent` (SiT, REPA, MeanFlow).
    FixedScale {
        /// 0.18215 in all of them.
        #[serde(default = "published_scale")]
        scale: f64,
    },
}

fn published_scale() -> f64 {
    0.18215
}

impl Default for SdVaeConfig {
    fn default() -> Self {
        Self {
            size: Some(Size::F8d4),
            channels: None,
            num_res_blocks: None,
            latent_channels: None,
            num_groups: None,
            attention_levels: None,
            weights: Weights::Published,
            latent_norm: Norm::ChannelStats { path: None },
        }
    }
}

pub(super) const PUBLISHED_WEIGHTS: &str = "sdvae-ft-mse-f8d4.pt";
pub(super) const PUBLISHED_STATS: &str = "sdvae-ft-mse-f8d4-latents-stats.pt";

/// All sizes, worked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    pub channels: Vec<usize>,
    pub num_res_blocks: usize,
    pub latent_channels: usize,
    pub num_groups: usize,
    pub attention_levels: Vec<usize>,
}

impl Size {
    pub(super) fn sizes(self) -> Sizes {
        let (channels, latent_channels, num_groups, attention_levels) = match self {
            Self::F8d4 => (vec![128, 256, 512, 512], 4, 32, vec![]),
            // The deepest level is 16 x 16 at the 256 pixels it was made for, where the reference attends.
            Self::F16d32 => (vec![128, 128, 256, 256, 512], 32, 32, vec![4]),
            Self::Tiny => (vec![16, 32, 64, 64], 4, 8, vec![]),
        };
        Sizes { channels, num_res_blocks: 2, latent_channels, num_groups, attention_levels }
    }
}

impl Sizes {
    /// Channels of the finest level.
    pub(super) fn first(&self) -> usize {
        self.channels.first().copied().unwrap_or_default()
    }

    /// Channels of the coarsest level.
    pub(super) fn last(&self) -> usize {
        self.channels.last().copied().unwrap_or_default()
    }

    /// Pixels per latent, along each side.
    fn factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

impl SdVaeConfig {
    fn sizes(&self) -> Result<Sizes> {
        fn pick<T>(own: Option<T>, published: Option<T>, key: &str) -> Result<T> {
            own.or(published).with_context(|| format!("`{key}` is missing; give it, or a published `size`"))
        }
        let base = self.size.map(Size::sizes);
        let published = |key: fn(&Sizes) -> usize| base.as_ref().map(key);
        let sizes = Sizes {
            channels: pick(self.channels.clone(), base.as_ref().map(|base| base.channels.clone()), "channels")?,
            num_res_blocks: pick(self.num_res_blocks, published(|base| base.num_res_blocks), "num_res_blocks")?,
            latent_channels: pick(self.latent_channels, published(|base| base.latent_channels), "latent_channels")?,
            num_groups: pick(self.num_groups, published(|base| base.num_groups), "num_groups")?,
            attention_levels: self
                .attention_levels
                .clone()
                .or(base.map(|base| base.attention_levels))
                .unwrap_or_default(),
        };
        let levels = sizes.channels.len();
        ensure!((1..=8).contains(&levels), "channels: {levels} levels; allowed are 1 to 8");
        let range = |key: &str, value: usize, high: usize| {
            ensure!((1..=high).contains(&value), "{key}: `{value}` is out of range; allowed is 1 to {high}");
            Ok(())
        };
        range("num_res_blocks", sizes.num_res_blocks, 16)?;
        range("latent_channels", sizes.latent_channels, 1024)?;
        range("num_groups", sizes.num_groups, 1024)?;
        for width in &sizes.channels {
            range("channels", *width, 8192)?;
            ensure!(
                width.is_multiple_of(sizes.num_groups),
                "num_groups: `{}` does not divide the {width} channels of a level",
                sizes.num_groups
            );
        }
        if let Some(level) = sizes.attention_levels.iter().find(|level| **level >= levels) {
            bail!("attention_levels: there is no level {level}; levels are counted from 0 to {}", levels - 1);
        }
        Ok(sizes)
    }

    /// The published files are those of the unchanged `f8d4`.
    fn is_published(&self) -> bool {
        self.size == Some(Size::F8d4) && self.sizes().is_ok_and(|sizes| sizes == Size::F8d4.sizes())
    }

    fn weight_file(&self, weights_dir: &Path) -> Option<PathBuf> {
        match &self.weights {
            Weights::Published => Some(weights_dir.join(PUBLISHED_WEIGHTS)),
            Weights::File { path } => Some(path.clone()),
            Weights::Random { .. } => None,
        }
    }

    fn stats_file(&self, weights_dir: &Path) -> Option<PathBuf> {
        match &self.latent_norm {
            Norm::ChannelStats { path } => Some(path.clone().unwrap_or_else(|| weights_dir.join(PUBLISHED_STATS))),
            Norm::FixedScale { .. } => None,
        }
    }

    fn build_normalized(&self, norm: LatentNorm, weights_dir: &Path, device: &Device) -> Result<Box<dyn Autoencoder>> {
        let sizes = self.sizes()?;
        let seed = if let Weights::Random { seed } = self.weights { seed } else { 0 };
        let network = AutoencoderKl::new(&sizes, norm, &ParamBuilder::new(device, seed));
        match self.weight_file(weights_dir) {
            Some(path) => Ok(Box::new(filled(network, &sizes, &path)?)),
            None => Ok(Box::new(network)),
        }
    }

    /// The network with the weights of this file, for whoever checks one.
    pub(super) fn network_from(&self, path: &Path) -> Result<AutoencoderKl> {
        let sizes = self.sizes()?;
        let norm = LatentNorm::fixed(1.0, sizes.latent_channels)?;
        filled(AutoencoderKl::new(&sizes, norm, &ParamBuilder::new(&Device::flex(), 0)), &sizes, path)
    }
}

fn filled(network: AutoencoderKl, sizes: &Sizes, path: &Path) -> Result<AutoencoderKl> {
    let load = || load_state_dict(network, first_names(read_weights(path)?, sizes.channels.len())?);
    load().with_context(|| format!("`{}`", path.display()))
}

#[typetag::serde(name = "sd_vae")]
impl AutoencoderConfig for SdVaeConfig {
    fn latent_shape(&self, image_size: usize) -> Result<LatentShape> {
        let sizes = self.sizes()?;
        let factor = sizes.factor();
        ensure!(
            image_size > 0 && image_size.is_multiple_of(factor),
            "pictures of {image_size} pixels do not fit `sd_vae`; the side must be a multiple of {factor}"
        );
        Ok([sizes.latent_channels, image_size / factor, image_size / factor])
    }

    fn weights(&self, weights_dir: &Path) -> Vec<WeightFile> {
        let file = |path: PathBuf, command: &str| WeightFile { path, command: command.into() };
        let published = |path: PathBuf| {
            let known = published().into_iter().find(|weights| path.ends_with(&weights.file));
            let command = known.map_or(String::new(), |weights| weights.command(&path));
            WeightFile { path, command }
        };
        let is_own = |path: &PathBuf| !path.starts_with(weights_dir);
        let weights = self.weight_file(weights_dir).map(|path| match is_own(&path) {
            true => file(path, "the path is the recipe's own: correct autoencoder.weights.path"),
            false => published(path),
        });
        let stats = self.stats_file(weights_dir).map(|path| match is_own(&path) {
            true => file(path, "`cargo xtask prepare latents` writes the statistics of its latents"),
            false => published(path),
        });
        weights.into_iter().chain(stats).collect()
    }

    fn build(&self, weights_dir: &Path, device: &Device) -> Result<Box<dyn Autoencoder>> {
        let channels = self.sizes()?.latent_channels;
        let norm = match (&self.latent_norm, self.stats_file(weights_dir)) {
            (Norm::FixedScale { scale }, _) => LatentNorm::fixed(*scale, channels).context("latent_norm.scale")?,
            (Norm::ChannelStats { .. }, path) => {
                let path = path.context("latent_norm names no file")?;
                let stats = || LatentNorm::from_file(&read_weights(&path)?, channels);
                stats().with_context(|| format!("`{}`", path.display()))?
            }
        };
        self.build_normalized(norm, weights_dir, device)
    }

    fn build_unnormalized(&self, weights_dir: &Path, device: &Device) -> Result<Box<dyn Autoencoder>> {
        self.build_normalized(LatentNorm::fixed(1.0, self.sizes()?.latent_channels)?, weights_dir, device)
    }

    fn has_posterior(&self) -> bool {
        true
    }

    fn build_with(&self, weights: StateDict, device: &Device) -> Result<Box<dyn Autoencoder>> {
        let sizes = self.sizes()?;
        let norm = LatentNorm::fixed(1.0, sizes.latent_channels)?;
        let network = AutoencoderKl::new(&sizes, norm, &ParamBuilder::new(device, 0));
        Ok(Box::new(load_state_dict(network, weights)?))
    }

    fn validate(&self, check: &mut Check<'_>) {
        let misses_files = !self.is_published();
        if misses_files && self.weights == Weights::Published {
            check.bad("weights", "only the unchanged size `f8d4` has a published file; choose `file` or `random`");
        }
        if misses_files && self.latent_norm == (Norm::ChannelStats { path: None }) {
            check.bad(
                "latent_norm",
                "only the unchanged size `f8d4` has published statistics; name a file with `path`, which `realign \
                 prepare latents` writes, or choose `fixed_scale`",
            );
        }
        if let Norm::FixedScale { scale } = self.latent_norm {
            check.within("latent_norm", |check| check.range("scale", scale, 1e-6, 1e6));
        }
    }
}

realign::register!(AutoencoderConfig as "autoencoder": SdVaeConfig);
