//! From pictures to the samples that the backbone sees, and back.

use std::fmt::Debug;
use std::path::Path;

use anyhow::{Result, bail};
use burn::tensor::{Device, Tensor};

use crate::data::latents::LatentNorm;
use crate::erase::Erased;
use crate::recipe::Check;
use crate::registry::Described;
use crate::streams::Streams;
use crate::weights::StateDict;

/// Maps pictures to clean samples and back; frozen unless a training program says otherwise.
pub trait Autoencoder: Erased<AutoencoderKind> {
    /// Clean samples of a batch; a posterior draws from the stream `posterior`.
    ///
    /// # Shapes
    /// * `images`: `[batch, 3, height, width]`, RGB in 0..255
    /// * result: `[batch, channels, height, width]` of [`LatentShape`]
    fn encode(&self, images: Tensor<4>, streams: &Streams) -> Tensor<4>;

    /// Pictures of a batch of samples, RGB where −1 is black and 1 white, not clamped.
    fn decode(&self, samples: Tensor<4>) -> Tensor<4>;

    /// The posterior behind the samples, where there is one: what caches of latents and training of the autoencoder
    /// need.
    fn variational(&self) -> Option<&dyn Variational> {
        None
    }
}

/// An autoencoder whose encoder returns a Gaussian over latents, before they are normalized for training.
pub trait Variational {
    /// Mean and logarithm of the variance, not clamped; [`Posterior::new`](crate::data::latents::Posterior::new) takes
    /// them.
    ///
    /// # Shapes
    /// * `images`: `[batch, 3, height, width]`, RGB in 0..255
    /// * result: `[batch, 2 · channels, height, width]` of [`LatentShape`]
    fn moments(&self, images: Tensor<4>) -> Tensor<4>;

    /// Pictures of latents, as [`Autoencoder::decode`] returns them.
    ///
    /// # Shapes
    /// * `latents`: `[batch, channels, height, width]` of [`LatentShape`]
    fn decode_latents(&self, latents: Tensor<4>) -> Tensor<4>;

    /// How latents are normalized for training.
    fn norm(&self) -> &LatentNorm;

    /// The same weights with another normalization of latents.
    fn renormalized(&self, norm: LatentNorm) -> Box<dyn Autoencoder>;
}
crate::module_kind!(
    /// Autoencoders as a kind of plugin.
    AutoencoderKind, "autoencoder", Autoencoder
);

/// Channels, height and width of a clean sample.
pub type LatentShape = [usize; 3];

/// An autoencoder as a recipe names it.
#[typetag::serde(tag = "type")]
pub trait AutoencoderConfig: Described + Debug + Send + Sync {
    /// Shape of the samples for pictures of this size.
    ///
    /// # Errors
    /// The picture size does not fit.
    fn latent_shape(&self, image_size: usize) -> Result<LatentShape>;

    /// Files it needs, with the command that gets each; `weights_dir` is the folder of published weights.
    fn weights(&self, _weights_dir: &Path) -> Vec<super::encoder::WeightFile> {
        vec![]
    }

    /// Builds it.
    ///
    /// # Errors
    /// A missing or unfit weight file.
    fn build(&self, weights_dir: &Path, device: &Device) -> Result<Box<dyn Autoencoder>>;

    /// Builds it for measuring its latents: without the statistics that normalize them, which may not exist yet.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    fn build_unnormalized(&self, weights_dir: &Path, device: &Device) -> Result<Box<dyn Autoencoder>> {
        self.build(weights_dir, device)
    }

    /// Whether what it builds is [`Variational`]: a training program can train no other.
    fn has_posterior(&self) -> bool {
        false
    }

    /// Builds it with weights of a training program, which have the names of the built autoencoder's parameters, and
    /// with latents as they are.
    ///
    /// # Errors
    /// The weights do not fit, or it has none to fill.
    fn build_with(&self, _weights: StateDict, _device: &Device) -> Result<Box<dyn Autoencoder>> {
        bail!("autoencoder `{}` has no weights that a program trains", (self.info().name)())
    }

    /// Reports values that cannot work.
    fn validate(&self, _check: &mut Check<'_>) {}
}
