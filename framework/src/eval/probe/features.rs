//! One vector per picture: the mean of its patch tokens, and the class token.

use anyhow::Result;
use burn::tensor::Device;

use super::crop::random_resized_crop;
use crate::data::{image_tensor, in_order};
use crate::ops;
use crate::plugin::{Dataset, Encoder, Example};
use crate::streams::Streams;
use crate::weights::to_host;

/// Features of pictures with their classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProbeFeatures {
    /// Mean patch tokens, `[count, channels]`.
    pub mean: Vec<f32>,
    /// Class tokens, `[count, channels]`, where the encoder has them.
    pub class_token: Option<Vec<f32>>,
    /// Class of each picture.
    pub labels: Vec<usize>,
}

impl ProbeFeatures {
    /// Channels of one vector.
    pub fn channels(&self) -> usize {
        self.mean.len() / self.labels.len().max(1)
    }
}

/// Features of the examples `indices`; with `epoch`, each is a random crop of its picture, another one every epoch.
///
/// The crops are taken from the square that the data set gives, where MAE takes them from the whole picture.
///
/// # Errors
/// An example cannot be read, or the encoder fails.
pub fn encode(
    encoder: &dyn Encoder,
    dataset: &dyn Dataset,
    indices: &[usize],
    batch_size: usize,
    epoch: Option<(u64, u64)>,
    device: &Device,
) -> Result<ProbeFeatures> {
    let (mut features, mut class_tokens) = (ProbeFeatures::default(), vec![]);
    in_order(dataset, indices, batch_size, |batch, mut examples| {
        if let Some((seed, epoch)) = epoch {
            for (idx, Example { image, .. }) in batch.iter().zip(&mut examples) {
                let mut stream = Streams::new(seed).at(epoch, *idx as u64).stream("probe_crop");
                *image = random_resized_crop(image, image.width(), &mut stream);
            }
        }
        let found = ops::guard(|| encoder.encode(image_tensor(&examples, device)?))?;
        features.mean.extend(to_host(found.tokens.mean_dim(1)));
        if let Some(class_token) = found.class_token {
            class_tokens.extend(to_host(class_token));
        }
        features.labels.extend(examples.iter().map(|example| example.label));
        Ok(())
    })?;
    features.class_token = (!class_tokens.is_empty()).then_some(class_tokens);
    Ok(features)
}
