//! What samples are compared with: statistics from a file, or what a network makes of pictures.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use realign::burn::tensor::Device;
use realign::data::Npz;
use realign::eval::generation::{Collected, FrechetReference, Gaussian, Metric, Reference};
use realign::sample::NpzWriter;

use super::networks::Network;
use super::source::{Stored, is_npz};
use crate::progress::pictures_bar;

/// Pictures that a saved reference holds at most: as many as ADM's files have.
const MOST_SAVED: usize = 10_000;

/// Pictures, statistics or both.
#[derive(Debug)]
pub struct ReferenceSource<'a> {
    /// Where pictures are.
    pub pictures: Stored,
    /// Pictures taken; fewer where there are fewer.
    pub count: usize,
    /// Pictures looked at together.
    pub batch_size: usize,
    /// The network's device.
    pub device: &'a Device,
}

impl ReferenceSource<'_> {
    /// Pictures that are taken.
    ///
    /// # Errors
    /// They cannot be counted.
    pub fn num_pictures(&self) -> Result<usize> {
        match &self.pictures {
            Stored::Npz(path) if !Npz::open(path)?.has("arr_0") => Ok(0),
            pictures => Ok(pictures.num_pictures()?.min(self.count)),
        }
    }

    /// The reference of a network: statistics that the file holds, and the rest from its pictures.
    ///
    /// # Errors
    /// The file lacks what a metric needs, or was made with another network.
    pub fn read(&self, network: &Network, metrics: &[Metric]) -> Result<Reference> {
        let stored = match &self.pictures {
            Stored::Npz(path) => read_statistics(path, network, metrics).context("--reference")?,
            _ => Reference::default(),
        };
        let is_left = |metric: &Metric| match metric {
            Metric::FrechetDistance => stored.gaussian.is_none(),
            Metric::SpatialFrechetDistance => stored.spatial.is_none(),
            Metric::Precision | Metric::Recall | Metric::Discrepancy => true,
            Metric::Score => false, // needs no reference
        };
        let left: Vec<Metric> = metrics.iter().copied().filter(is_left).collect();
        if left.is_empty() {
            return Ok(stored);
        }
        let count = self.num_pictures()?;
        if count == 0 {
            let names: Vec<String> = left.iter().map(|metric| network.config.metric_name(*metric)).collect();
            bail!(
                "--reference: the file holds neither pictures (`arr_0`) nor the statistics for {}; leave them out with \
                 --metric, or give a reference with pictures",
                names.join(", ")
            );
        }
        let mut collected = Collected::default();
        let bar = pictures_bar(count);
        bar.set_message(format!("reference pictures, {}", network.config.label()));
        let each = self.pictures.each(count, self.batch_size, &mut |size, bytes| {
            collected.add(&*network.built, bytes, size, &left, self.device)?;
            bar.inc((bytes.len() / (size[0] * size[1] * 3).max(1)) as u64);
            Ok(())
        });
        bar.finish_and_clear();
        each.context("--reference")?;
        let of_pictures = Reference::of(collected, &left).context("--reference")?;
        Ok(Reference {
            gaussian: stored.gaussian.or(of_pictures.gaussian),
            spatial: stored.spatial.or(of_pictures.spatial),
            features: of_pictures.features,
        })
    }

    /// Writes pictures and the network's statistics as ADM's reference files hold them, with the network's digest.
    ///
    /// # Errors
    /// The disk refuses, or there are no pictures.
    pub fn save(&self, network: &Network, path: &Path) -> Result<()> {
        let count = self.num_pictures()?;
        ensure!(count > 0, "--save-reference: the reference holds no pictures to make one from");
        ensure!(is_npz(path), "--save-reference `{}`: its name must end in `.npz`", path.display());
        let has_spatial = network.config.metrics().contains(&Metric::SpatialFrechetDistance);
        let metrics = if has_spatial { vec![Metric::SpatialFrechetDistance] } else { vec![] };
        let mut collected = Collected::default();
        let saved = count.min(MOST_SAVED);
        let [height, width] = self.pictures.picture_size()?;
        let mut writer = NpzWriter::create(path, saved, height, width)?;
        let mut left = saved * height * width * 3;
        self.pictures.each(count, self.batch_size, &mut |size, bytes| {
            let taken = left.min(bytes.len());
            writer.write(&bytes[..taken])?;
            left -= taken;
            collected.add(&*network.built, bytes, size, &metrics, self.device)
        })?;
        let mut write = |names: [&str; 2], gaussian: Gaussian| {
            let dim = gaussian.dim();
            writer.write_f64(names[0], &[dim], &gaussian.mean)?;
            writer.write_f64(names[1], &[dim, dim], &gaussian.covariance_rows())
        };
        write(["mu", "sigma"], realign::eval::generation::gaussian(&collected.features, None)?)?;
        if has_spatial {
            write(["mu_s", "sigma_s"], realign::eval::generation::gaussian(&collected.spatial, None)?)?;
        }
        let name = network.tag()?;
        writer.write_f64(NETWORK, &[name.len()], &name.bytes().map(f64::from).collect::<Vec<_>>())?;
        writer.finish()
    }
}

/// The array that says whose statistics a file of ours holds: the tag of the network, one number for each letter.
/// Published files have none.
const NETWORK: &str = "network";

/// Statistics that the file holds of this network, of those that are wanted.
fn read_statistics(path: &Path, network: &Network, metrics: &[Metric]) -> Result<Reference> {
    let mut npz = Npz::open(path)?;
    let place = |name: &str| format!("array `{name}` of `{}`", path.display());
    let is_own = match npz.has(NETWORK) {
        true => {
            let tag: String = npz.read(NETWORK)?.1.iter().map(|letter| char::from(*letter as u8)).collect();
            tag == network.tag()?
        }
        // Statistics over positions are ADM's alone, so that a file with them is of no other convention.
        false => {
            let has_spatial = network.config.metrics().contains(&Metric::SpatialFrechetDistance);
            network.config.owns_unnamed_statistics() && (has_spatial || !npz.has("mu_s"))
        }
    };
    if !is_own && !npz.has("arr_0") {
        bail!(
            "the statistics in `{}` are not those of `{}`, and it holds no pictures to make them from",
            path.display(),
            network.config.label()
        );
    }
    // A file with pictures alone has no statistics; of one with some, all that are wanted must be there, because its
    // pictures are but a part of those that the statistics are of.
    let has_statistics = is_own && ["mu", "sigma", "mu_s", "sigma_s"].iter().any(|name| npz.has(name));
    let mut gaussian = |metric: Metric, [mean, covariance]: [&str; 2]| -> Result<Option<FrechetReference>> {
        if !has_statistics || !metrics.contains(&metric) {
            return Ok(None);
        }
        if let Some(absent) = [mean, covariance].into_iter().find(|name| !npz.has(name)) {
            bail!(
                "`{}` has no array `{absent}`, which `{}` needs; leave that out with --metric, or take another file",
                path.display(),
                network.config.metric_name(metric)
            );
        }
        let (mean_shape, mean_values) = npz.read(mean)?;
        let (shape, values) = npz.read(covariance)?;
        let dim = mean_values.len();
        ensure!(mean_shape == [dim] && dim > 0, "{} has the shape {mean_shape:?}; it must be [dim]", place(mean));
        ensure!(shape == [dim, dim], "{} has the shape {shape:?}; it must be [{dim}, {dim}]", place(covariance));
        let gaussian = Gaussian::from_rows(mean_values, &values).with_context(|| place(covariance))?;
        Ok(Some(FrechetReference::new(gaussian)?))
    };
    Ok(Reference {
        gaussian: gaussian(Metric::FrechetDistance, ["mu", "sigma"])?,
        spatial: gaussian(Metric::SpatialFrechetDistance, ["mu_s", "sigma_s"])?,
        ..Reference::default()
    })
}
