//! One file of a cache.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorView, serialize};
use sha2::{Digest, Sha256};

use super::manifest::CacheSettings;
use super::statistics::ChannelSums;
use crate::data::image::RgbImage;

const DIGEST_BYTES: usize = 8; // of a SHA-256: enough against damage and mix-ups
const MAX_HEADER_BYTES: u64 = 1 << 16;

/// Examples of one shard, in order.
#[derive(Debug, Clone, Default)]
pub struct ShardContents {
    /// Mean and deviation of each example, one after another.
    pub moments: Vec<f32>,
    /// Class of each example.
    pub labels: Vec<i64>,
    /// [Digest](picture_digest) of each picture.
    pub pictures: Vec<u8>,
}

/// What tells a cropped picture from all others.
pub fn picture_digest(image: &RgbImage) -> [u8; 8] {
    short_digest(image.pixels())
}

fn short_digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&Sha256::digest(bytes)[..DIGEST_BYTES]);
    short
}

/// Hexadecimal SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ShardContents {
    /// The file's bytes.
    ///
    /// # Errors
    /// The lists do not belong together.
    pub(super) fn to_bytes(&self, settings: &CacheSettings) -> Result<Vec<u8>> {
        let count = self.labels.len();
        let fits = self.moments.len() == count * settings.moments_len() && self.pictures.len() == count * DIGEST_BYTES;
        ensure!(fits, "a shard of {count} examples has {} values of moments", self.moments.len());
        let moments: Vec<u8> = self.moments.iter().flat_map(|value| value.to_le_bytes()).collect();
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let checksums: Vec<u8> = moments.chunks_exact(settings.moments_len() * 4).flat_map(short_digest).collect();
        let [channels, height, width] = settings.shape;
        let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).context("cannot lay out a shard");
        let views = [
            ("moments", view(Dtype::F32, vec![count, 2 * channels, height, width], &moments)?),
            ("labels", view(Dtype::I64, vec![count], &labels)?),
            ("pictures", view(Dtype::U8, vec![count, DIGEST_BYTES], &self.pictures)?),
            ("checksums", view(Dtype::U8, vec![count, DIGEST_BYTES], &checksums)?),
        ];
        let metadata = HashMap::from([("format".to_string(), "mean_std".to_string())]);
        serialize(views, Some(metadata)).context("cannot lay out a shard")
    }

    /// Sums over the latents of a shard's bytes; checks that it holds what the settings say.
    pub(super) fn sums(bytes: &[u8], settings: &CacheSettings, count: usize) -> Result<ChannelSums> {
        let file = SafeTensors::deserialize(bytes).context("it is not whole")?;
        let moments = file.tensor("moments").context("it has no moments")?;
        let [channels, height, width] = settings.shape;
        let expected = [count, 2 * channels, height, width];
        ensure!(moments.shape() == expected, "its moments are {:?}, expected {expected:?}", moments.shape());
        let mut sums = ChannelSums::new(channels);
        for example in moments.data().chunks_exact(settings.moments_len() * 4) {
            sums.add(&floats(example));
        }
        Ok(sums)
    }
}

/// A shard's file, opened; values are read one example at a time.
#[derive(Debug)]
pub(super) struct ShardFile {
    path: PathBuf,
    file: File,
    moments: u64, // place in the file
    example_bytes: usize,
    pub(super) labels: Vec<i64>,
    pictures: Vec<u8>,
    checksums: Vec<u8>,
}

impl ShardFile {
    /// Opens a shard and reads everything but the moments.
    ///
    /// # Errors
    /// The file is absent, cut short or of another shape.
    pub(super) fn open(path: &Path, settings: &CacheSettings, count: usize, bytes: u64) -> Result<Self> {
        let open = || -> Result<Self> {
            let mut file = File::open(path).context("it cannot be opened")?;
            let found = file.metadata().context("it cannot be inspected")?.len();
            ensure!(found == bytes, "it has {found} bytes, {bytes} were written");
            let mut length = [0; 8];
            file.read_exact(&mut length).context("it has no header")?;
            let length = u64::from_le_bytes(length);
            ensure!(length <= MAX_HEADER_BYTES.min(bytes), "its header cannot be {length} bytes long");
            let mut header = vec![0; usize::try_from(length)?];
            file.read_exact(&mut header).context("its header is cut")?;
            let header: Metadata = serde_json::from_slice(&header).context("its header is damaged")?;
            let [channels, height, width] = settings.shape;
            let place = |name: &str, dtype: Dtype, shape: &[usize]| -> Result<(u64, usize)> {
                let info = header.info(name).with_context(|| format!("it has no `{name}`"))?;
                ensure!(
                    info.dtype == dtype && info.shape == shape,
                    "its `{name}` is {:?} {:?}",
                    info.dtype,
                    info.shape
                );
                let (from, to) = info.data_offsets;
                let start = 8 + length + from as u64;
                ensure!(from <= to && 8 + length + to as u64 <= bytes, "its `{name}` lies outside of the file");
                Ok((start, to - from))
            };
            let read = |(start, bytes): (u64, usize)| -> Result<Vec<u8>> {
                let mut values = vec![0; bytes];
                file.read_exact_at(&mut values, start).context("it cannot be read")?;
                Ok(values)
            };
            let labels = read(place("labels", Dtype::I64, &[count])?)?;
            let pictures = read(place("pictures", Dtype::U8, &[count, DIGEST_BYTES])?)?;
            let checksums = read(place("checksums", Dtype::U8, &[count, DIGEST_BYTES])?)?;
            let (moments, _) = place("moments", Dtype::F32, &[count, 2 * channels, height, width])?;
            let labels = labels.as_chunks().0.iter().map(|label| i64::from_le_bytes(*label)).collect();
            let example_bytes = settings.moments_len() * 4;
            Ok(Self { path: path.to_path_buf(), file, moments, example_bytes, labels, pictures, checksums })
        };
        let remedy = "delete it and run the same `realign prepare latents` again";
        open().with_context(|| format!("shard `{}` is damaged; {remedy}", path.display()))
    }

    /// Mean and deviation of an example, checked against its checksum.
    pub(super) fn moments(&self, at: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; self.example_bytes];
        let place = || format!("cannot read `{}`", self.path.display());
        self.file.read_exact_at(&mut bytes, self.moments + (at * self.example_bytes) as u64).with_context(place)?;
        let expected = self.checksums.get(at * DIGEST_BYTES..(at + 1) * DIGEST_BYTES);
        ensure!(
            expected == Some(&short_digest(&bytes)[..]),
            "example {at} of shard `{}` is not what was written; delete the file and run the same `realign prepare \
             latents` again",
            self.path.display()
        );
        Ok(floats(&bytes))
    }

    /// Digest of an example's picture.
    pub(super) fn picture(&self, at: usize) -> Option<&[u8]> {
        self.pictures.get(at * DIGEST_BYTES..(at + 1) * DIGEST_BYTES)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}
