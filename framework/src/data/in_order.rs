//! Examples in a stated order, decoded ahead: for measuring, where each counts once.

use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::plugin::{Dataset, Example};

/// Hands the examples `indices` to `each` in batches, in their order; the next batch is decoded meanwhile.
///
/// # Errors
/// An example cannot be read, or `each` fails.
pub fn in_order(
    dataset: &dyn Dataset,
    indices: &[usize],
    batch_size: usize,
    mut each: impl FnMut(&[usize], Vec<Example>) -> Result<()>,
) -> Result<()> {
    let batches = || indices.chunks(batch_size.max(1));
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || {
            for batch in batches() {
                let read = |&idx: &usize| dataset.get(idx).with_context(|| format!("example {idx}"));
                if sender.send(batch.par_iter().map(read).collect::<Result<Vec<_>>>()).is_err() {
                    return; // the consumer failed
                }
            }
        });
        batches().zip(receiver).try_for_each(|(batch, examples)| each(batch, examples?))
    })
}

/// The pictures of examples, `[batch, 3, height, width]`, RGB in 0..255.
///
/// # Errors
/// There is none, or they differ in size.
pub fn image_tensor(examples: &[Example], device: &Device) -> Result<Tensor<4>> {
    let first = &examples.first().context("a batch of no pictures")?.image;
    let (height, width) = (first.height(), first.width());
    let mut values = Vec::with_capacity(examples.len() * 3 * height * width);
    for example in examples {
        let image = &example.image;
        ensure!(
            (image.height(), image.width()) == (height, width),
            "a picture is {} x {} pixels, and its batch began with {width} x {height}",
            image.width(),
            image.height()
        );
        for channel in 0..3 {
            values.extend(image.pixels().iter().skip(channel).step_by(3).map(|byte| f32::from(*byte)));
        }
    }
    Ok(Tensor::from_data(TensorData::new(values, [examples.len(), 3, height, width]), device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RgbImage;
    use crate::weights::to_host;

    #[derive(Debug)]
    struct Numbers;

    impl Dataset for Numbers {
        fn len(&self) -> usize {
            30
        }
        fn num_classes(&self) -> usize {
            1
        }
        fn class_name(&self, label: usize) -> String {
            label.to_string()
        }
        fn get(&self, idx: usize) -> Result<Example> {
            ensure!(idx != 13, "it is broken");
            let pixels = (0..3 * 5 * 7).map(|at| (at + idx) as u8).collect();
            Ok(Example { image: RgbImage::new(7, 5, pixels)?, label: 0, captions: vec![], mask: None })
        }
    }

    #[test]
    fn every_example_is_seen_once_in_its_order() {
        let mut seen = vec![];
        let indices: Vec<usize> = (20..30).rev().collect();
        in_order(&Numbers, &indices, 3, |batch, examples| {
            assert_eq!(batch.len(), examples.len());
            seen.extend(examples.iter().map(|example| usize::from(example.image.pixels()[0])));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, indices);
    }

    #[test]
    fn a_broken_example_and_a_failing_consumer_end_it() {
        let all: Vec<usize> = (0..30).collect();
        let problem = in_order(&Numbers, &all, 4, |_, _| Ok(())).unwrap_err();
        assert_eq!(format!("{problem:#}"), "example 13: it is broken");
        let problem = in_order(&Numbers, &all, 1, |_, _| anyhow::bail!("enough")).unwrap_err();
        assert_eq!(problem.to_string(), "enough");
    }

    #[test]
    fn channels_come_first_in_the_tensor() {
        let tensor = image_tensor(&[Numbers.get(2).unwrap(), Numbers.get(3).unwrap()], &Device::flex()).unwrap();
        assert_eq!(tensor.dims(), [2, 3, 5, 7]);
        let values = to_host(tensor);
        assert_eq!(values[..3], [2.0, 5.0, 8.0]);
        assert_eq!((values[35], values[105]), (3.0, 3.0));
    }
}
