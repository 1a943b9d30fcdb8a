//! Training from latents that were computed before.

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Tensor};

use crate::data::latent_cache::{LatentsInfo, STATISTICS};
use crate::data::latents::{LatentNorm, sample_moments};
use crate::data::loader::Batch;
use crate::erase::Slot;
use crate::ops;
use crate::plugin::{AutoencoderKind, Variational};
use crate::recipe::Plan;
use crate::streams::Streams;
use crate::weights::digest;

/// Normalized latents have about mean 0 and deviation 1 in each channel. Statistics of a part of the data differ by a
/// few percent from those of the whole; these bounds are passed only by statistics of other latents.
const LARGEST_MEAN: f64 = 0.5;
const DEVIATIONS: std::ops::RangeInclusive<f64> = 0.5..=2.0;

/// Refuses latents that are not those of this run's pictures and autoencoder.
///
/// # Errors
/// What does not fit, and what would.
pub(super) fn check(info: &LatentsInfo, plan: &Plan, autoencoder: &Slot<AutoencoderKind>) -> Result<()> {
    let (recipe, place) = (&plan.recipe, &info.place);
    let variational = posterior(autoencoder)?;
    ensure!(
        info.shape == plan.latent,
        "the latents of `{place}` are {:?}, and autoencoder and image_size make {:?}; prepare a cache with this recipe",
        info.shape,
        plan.latent
    );
    if let Some(size) = info.image_size.filter(|size| *size != recipe.image_size) {
        bail!("the latents of `{place}` are of pictures of {size} pixels, and image_size is {}", recipe.image_size);
    }
    ensure!(
        recipe.flip == 0.0,
        "flip: `{}` cannot be used with the cached latents of `{place}`: a mirrored picture has another latent; set it to 0",
        recipe.flip
    );
    ensure!(
        info.has_pictures || recipe.alignment.is_empty(),
        "alignment needs pictures, and data has only the latents of `{place}`; name their pictures with data.pictures"
    );
    if let Some(expected) = &info.autoencoder {
        let found = digest(autoencoder);
        ensure!(
            found == *expected,
            "the latents of `{place}` were made by an autoencoder with weights {expected:.16}…, and the recipe's are \
             {found:.16}…; name the same weights, or prepare a cache with these"
        );
    }
    check_statistics(info, variational.norm())
}

fn check_statistics(info: &LatentsInfo, norm: &LatentNorm) -> Result<()> {
    let Some(statistics) = info.statistics.as_ref().filter(|_| !norm.is_fixed()) else { return Ok(()) };
    let channels = statistics.means().into_iter().zip(statistics.deviations());
    let norms = norm.scale().iter().zip(norm.bias());
    for (channel, ((mean, deviation), (scale, bias))) in channels.zip(norms).enumerate() {
        let (scale, bias) = (f64::from(*scale), f64::from(*bias));
        let (mean, deviation) = ((mean - bias) * scale, deviation * scale);
        ensure!(
            mean.abs() <= LARGEST_MEAN && DEVIATIONS.contains(&deviation),
            "the statistics of autoencoder.latent_norm are of other latents: with them channel {channel} of `{place}` has \
             mean {mean:.2} and deviation {deviation:.2}, expected about 0 and 1; use `{place}/{STATISTICS}`",
            place = info.place
        );
    }
    Ok(())
}

/// Normalized samples of a batch's posteriors, drawn anew at every step from the stream `posterior`.
pub(super) fn samples(
    info: &LatentsInfo,
    autoencoder: &Slot<AutoencoderKind>,
    batch: &Batch,
    streams: &Streams,
    device: &Device,
) -> Result<Tensor<4>> {
    let ([channels, height, width], count) = (info.shape, batch.labels.len());
    let shape = [count, channels, height, width];
    let expected = 2 * shape.iter().product::<usize>();
    ensure!(batch.moments.len() == expected, "a batch of {count} latents has {} values", batch.moments.len());
    let moments = ops::upload(&batch.moments, [count, 2 * channels, height, width], device);
    let noise = ops::upload(&streams.normal("posterior", expected / 2), shape, device);
    let sample = sample_moments(moments, noise);
    Ok(posterior(autoencoder)?.norm().normalize(sample))
}

fn posterior(autoencoder: &Slot<AutoencoderKind>) -> Result<&dyn Variational> {
    autoencoder
        .variational()
        .context("data has cached latents, and the autoencoder makes none; choose the one that made them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::latent_cache::ChannelSums;

    #[test]
    fn statistics_of_other_latents_are_refused_and_a_fixed_scale_is_not_judged() {
        let mut statistics = ChannelSums::new(1);
        statistics.add(&[3.0, 7.0, 0.0, 0.0]); // mean 5, deviation 2
        let info = LatentsInfo {
            place: "cache".into(),
            shape: [1, 1, 2],
            image_size: None,
            autoencoder: None,
            statistics: Some(statistics),
            has_pictures: false,
        };
        let norm = |scale, bias| LatentNorm::new(vec![scale], vec![bias]).unwrap();
        assert!(check_statistics(&info, &norm(0.5, 5.0)).is_ok());
        assert!(check_statistics(&info, &norm(0.45, 4.6)).is_ok());
        // The deviation in place of its inverse, and REPA's order of scale and bias.
        for wrong in [norm(2.0, 5.0), norm(0.5, -2.5)] {
            let message = check_statistics(&info, &wrong).unwrap_err().to_string();
            assert!(message.contains("cache/latents-stats.safetensors"), "{message}");
        }
        assert!(check_statistics(&info, &LatentNorm::fixed(0.18215, 1).unwrap()).is_ok());
    }
}
