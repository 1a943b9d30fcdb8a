//! What trains an autoencoder of pictures: losses, their networks, and the trained autoencoder.
//!
//! Source: latent diffusion's recipe as REPA-E uses it (`loss/losses.py`, `loss/lpips.py`, `loss/discriminator.py`,
//! `configs/l1_lpips_kl_gan.yaml`). All in f32.

mod adversarial;
mod critic;
mod discriminator;
mod loss;
mod lpips;
mod published;
mod trained;

pub use adversarial::{LeCam, generator_loss, hinge_loss};
pub use critic::{Critic, DiscriminatorSection, Judgment};
pub use discriminator::Discriminator;
pub use loss::{LossSection, LpipsSection, PixelDistance, Reconstruction, ReconstructionLoss, ReconstructionTerms};
pub use lpips::{Lpips, LpipsFiles, LpipsInput};
pub use trained::trained_autoencoder;
