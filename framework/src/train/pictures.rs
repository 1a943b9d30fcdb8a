//! Pictures of the data as tensors.

use anyhow::{Result, bail};
use burn::tensor::{Device, Tensor};

use crate::data::loader::Batch;
use crate::ops;
use crate::plugin::Dataset;

/// A batch's pictures as floats in 0..255, `[batch, 3, side, side]`.
///
/// # Errors
/// The batch has another number of bytes than its pictures.
pub fn images(batch: &Batch, device: &Device) -> Result<Tensor<4>> {
    let (count, side) = (batch.labels.len(), batch.image_size);
    if batch.images.len() != count * 3 * side * side {
        bail!("a batch of {count} pictures of side {side} has {} bytes", batch.images.len());
    }
    Ok(ops::upload_bytes(&batch.images, [count, 3, side, side], device))
}

/// The pictures of these examples as floats in 0..255, `[indices, 3, height, width]`.
///
/// # Errors
/// An example cannot be read, or has another size than the first.
pub fn example_images(dataset: &dyn Dataset, indices: &[usize], device: &Device) -> Result<Tensor<4>> {
    let (mut bytes, mut size) = (vec![], None);
    for index in indices {
        let image = dataset.get(*index)?.image;
        let found = [image.height(), image.width()];
        if *size.get_or_insert(found) != found {
            bail!("example {index} is a picture of {}x{}, unlike the first; resize the data", found[0], found[1]);
        }
        bytes.extend_from_slice(image.pixels());
    }
    let [height, width] = size.unwrap_or_default();
    let channels_last = ops::upload_bytes(&bytes, [indices.len(), height, width, 3], device);
    Ok(channels_last.permute([0, 3, 1, 2]))
}

/// Examples that are spread evenly over a data set, at most as many as it has.
pub fn spread_examples(dataset: &dyn Dataset, count: usize) -> Vec<usize> {
    let count = count.min(dataset.len());
    (0..count).map(|i| i * dataset.len() / count).collect()
}
