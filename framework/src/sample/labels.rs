//! What each sample of a set is made from.

use anyhow::{Result, ensure};
use rand::RngExt;

use crate::streams::Streams;

/// Standard normal noise of one picture: a function of the seed, the picture's index and the stream alone, so that
/// results do not depend on batches (the reference seeds by process; sampling spec, section 7).
pub fn image_noise(seed: u64, idx: u64, stream: &str, count: usize) -> Vec<f32> {
    Streams::new(seed).at(idx, 0).normal(&format!("sample/{stream}"), count)
}

/// Classes of a set of samples: independent and uniform, or every class equally often in order.
///
/// # Errors
/// There is no class, or a balanced set whose size is no multiple of the classes.
pub fn sample_labels(count: usize, num_classes: usize, is_balanced: bool, seed: u64) -> Result<Vec<i64>> {
    ensure!(num_classes > 0, "the data set has no classes");
    if is_balanced {
        let each = count / num_classes;
        ensure!(
            each * num_classes == count,
            "label_sampling `balanced` needs a multiple of {num_classes} pictures, found `{count}`; use {} or `random`",
            (each + 1) * num_classes
        );
        return Ok((0..count).map(|i| (i / each) as i64).collect());
    }
    let mut stream = Streams::new(seed).stream("sample/labels");
    Ok((0..count).map(|_| stream.random_range(0..num_classes) as i64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_labels_go_in_runs_of_equal_length() {
        assert_eq!(sample_labels(6, 3, true, 0).unwrap(), [0, 0, 1, 1, 2, 2]);
        assert!(sample_labels(7, 3, true, 0).unwrap_err().to_string().contains("use 9"));
    }

    #[test]
    fn random_labels_cover_all_classes() {
        let labels = sample_labels(3000, 7, false, 5).unwrap();
        for class in 0..7 {
            let count = labels.iter().filter(|label| **label == class).count();
            assert!((350..510).contains(&count), "{class}: {count}");
        }
    }
}
