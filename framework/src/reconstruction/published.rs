//! The published files of the losses' networks, for `weights list`, `get` and `verify`.

use crate::weights::PublishedWeights;

/// torchvision's VGG16, which LPIPS sees with.
pub(super) fn vgg16() -> PublishedWeights {
    let (file, layout) = ("vgg16-397923af.pth", "torchvision");
    let url = format!("https://download.pytorch.org/models/{file}");
    PublishedWeights::new("vgg16-397923af", file, &url, layout, "BSD-3-Clause")
}

/// LPIPS's weights of VGG16's features.
pub(super) fn lpips() -> PublishedWeights {
    let url = "https://heibox.uni-heidelberg.de/f/607503859c864bc1b30b/?dl=1";
    PublishedWeights::new("lpips-vgg", "vgg.pth", url, "taming-transformers", "BSD-2-Clause")
}

/// The discriminator that the published autoencoder was trained against, where REPA-E's begins.
pub(super) fn discriminator() -> PublishedWeights {
    let name = "sdvae-f8d4-discriminator-ckpt";
    let file = format!("{name}.pt");
    let url = format!("https://huggingface.co/REPA-E/sdvae/resolve/main/{file}");
    PublishedWeights::new(name, &file, &url, "taming-transformers", "MIT")
}

fn published() -> Vec<PublishedWeights> {
    vec![vgg16(), lpips(), discriminator()]
}

crate::publish_weights!(published);
