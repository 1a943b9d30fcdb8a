//! Random numbers of samples: a function of the seed and the sample's index, never of the batch.

use anyhow::{Result, ensure};
use rand::RngExt;

use crate::streams::Streams;

/// `count` standard normal values for sample `index`; `stream` tells initial noise from the noise of each step.
///
/// The published code draws per batch and process; drawing per sample makes the result independent of both.
///
/// ```
/// use realign::sample::image_noise;
/// assert_eq!(image_noise(7, 3, "initial", 5), image_noise(7, 3, "initial", 5));
/// assert_ne!(image_noise(7, 3, "initial", 5), image_noise(7, 4, "initial", 5));
/// ```
pub fn image_noise(seed: u64, index: u64, stream: &str, count: usize) -> Vec<f32> {
    Streams::new(seed).at(index, 0).normal(&format!("sample/{stream}"), count)
}

/// Classes of samples 0 to `num` − 1.
///
/// Balanced labels come in index order, as many of class 0 as of every other class, class 0 first (JiT
/// `engine_jit.py`); otherwise the label of each sample is uniform and independent (REPA `generate.py`).
///
/// # Errors
/// There are no classes, or balance is asked for and `num` is not a multiple of their number.
pub fn sample_labels(num: usize, num_classes: usize, is_balanced: bool, seed: u64) -> Result<Vec<i64>> {
    ensure!(num_classes > 0, "labels of samples: the number of classes is `0`; it must be at least 1");
    if is_balanced {
        ensure!(
            num.is_multiple_of(num_classes),
            "balanced labels: `{num}` samples cannot be shared evenly by {num_classes} classes; take {} or {}, \
             or set sample.label_sampling to `random`",
            (num / num_classes).max(1) * num_classes,
            (num / num_classes + 1) * num_classes
        );
        let per_class = num / num_classes;
        return Ok((0..num).map(|i| (i / per_class) as i64).collect());
    }
    let label = |i| Streams::new(seed).at(i, 0).stream("sample/label").random_range(0..num_classes) as i64;
    Ok((0..num as u64).map(label).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_differs_between_samples_streams_and_seeds() {
        let base = image_noise(1, 2, "initial", 7);
        for other in [image_noise(2, 2, "initial", 7), image_noise(1, 3, "initial", 7), image_noise(1, 2, "sde/0", 7)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn balanced_labels_hold_every_class_equally_often_in_order() {
        assert_eq!(sample_labels(6, 3, true, 0).unwrap(), [0, 0, 1, 1, 2, 2]);
        assert!(sample_labels(0, 3, true, 0).unwrap().is_empty());
        let message = sample_labels(7, 3, true, 0).unwrap_err().to_string();
        assert!(message.contains("take 6 or 9"), "{message}");
        assert!(sample_labels(7, 0, false, 0).is_err());
    }

    #[test]
    fn random_labels_cover_the_classes_and_do_not_depend_on_the_count() {
        let labels = sample_labels(3000, 5, false, 11).unwrap();
        for class in 0..5 {
            let count = labels.iter().filter(|&&label| label == class).count();
            assert!((500..700).contains(&count), "{class}: {count}");
        }
        assert_eq!(sample_labels(17, 5, false, 11).unwrap(), labels[..17]);
        assert_ne!(sample_labels(17, 5, false, 12).unwrap(), labels[..17]);
    }
}
