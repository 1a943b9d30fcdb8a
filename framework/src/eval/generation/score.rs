//! The Inception Score, of any classifier: how sure it is of each picture, and how evenly it names its classes.
//!
//! Source: Salimans et al., 2016: `exp(mean over pictures of KL(p(class | picture), mean p))`, the mean over parts of the
//! pictures.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::numpy_order::permutation;

/// How pictures are divided; the score is the mean over the parts, and smaller parts have smaller scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreParts {
    /// So many consecutive pictures in each; the last part may be short. ADM takes 5000.
    Size(usize),
    /// So many parts of the pictures in a fixed shuffled order. torch-fidelity takes 10, in the order of
    /// `numpy.random.RandomState(2020)`.
    Shuffled(usize),
}

/// Probabilities of classes, one row for each picture.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassProbabilities {
    num_classes: usize,
    /// `[pictures, num_classes]`.
    values: Vec<f64>,
    /// `Σ p log p` of each picture.
    certainty: Vec<f64>,
}

const TORCH_FIDELITY_SEED: u32 = 2020;

impl ClassProbabilities {
    /// Of probabilities.
    ///
    /// # Errors
    /// They are no rows of `num_classes`, or one is not finite.
    pub fn new(values: Vec<f64>, num_classes: usize) -> Result<Self> {
        ensure!(
            num_classes > 0 && values.len().is_multiple_of(num_classes),
            "{} probabilities are no rows of {num_classes}",
            values.len()
        );
        ensure!(values.iter().all(|p| p.is_finite()), "class probabilities are not finite (NaN or infinite)");
        let certainty = values.par_chunks_exact(num_classes).map(|row| row.iter().map(|p| p_log_p(*p)).sum()).collect();
        Ok(Self { num_classes, values, certainty })
    }

    /// Of logits, by softmax.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_logits(logits: &[f32], num_classes: usize) -> Result<Self> {
        let softmax = |row: &[f32]| {
            let largest = row.iter().fold(f32::NEG_INFINITY, |largest, x| largest.max(*x));
            let exps: Vec<f64> = row.iter().map(|x| f64::from(*x - largest).exp()).collect();
            let sum: f64 = exps.iter().sum();
            exps.into_iter().map(move |x| x / sum).collect::<Vec<_>>()
        };
        Self::new(logits.par_chunks(num_classes.max(1)).flat_map_iter(softmax).collect(), num_classes)
    }

    /// Pictures.
    pub fn count(&self) -> usize {
        self.certainty.len()
    }

    /// The score of all pictures.
    ///
    /// # Errors
    /// As [`score_of`](Self::score_of).
    pub fn score(&self, parts: ScoreParts) -> Result<f64> {
        self.score_of(&(0..self.count()).collect::<Vec<_>>(), parts)
    }

    /// The score of the pictures `indices`, which may repeat.
    ///
    /// # Errors
    /// There are fewer pictures than parts, or none.
    pub fn score_of(&self, indices: &[usize], parts: ScoreParts) -> Result<f64> {
        let count = indices.len();
        let scores: Vec<f64> = match parts {
            ScoreParts::Size(size) => {
                ensure!(size > 0 && count > 0, "a score needs pictures, and parts of at least 1");
                indices.par_chunks(size).map(|part| self.score_of_part(part)).collect()
            }
            ScoreParts::Shuffled(number) => {
                ensure!(
                    number > 0 && count >= number,
                    "a score over {number} parts needs as many pictures; found {count}"
                );
                let order: Vec<usize> =
                    permutation(count, TORCH_FIDELITY_SEED).into_iter().map(|at| indices[at]).collect();
                let part = |i: usize| &order[i * count / number..(i + 1) * count / number];
                (0..number).into_par_iter().map(|i| self.score_of_part(part(i))).collect()
            }
        };
        Ok(scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// `exp(mean Σ p log p − Σ m log m)`, m the mean probabilities: the mean divergence in one pass over the pictures.
    fn score_of_part(&self, part: &[usize]) -> f64 {
        let (mut mean, mut certainty) = (vec![0.0; self.num_classes], 0.0);
        for &picture in part {
            let row = &self.values[picture * self.num_classes..(picture + 1) * self.num_classes];
            mean.iter_mut().zip(row).for_each(|(sum, p)| *sum += p);
            certainty += self.certainty[picture];
        }
        let count = part.len() as f64;
        let of_mean: f64 = mean.iter().map(|sum| p_log_p(sum / count)).sum();
        (certainty / count - of_mean).exp()
    }
}

fn p_log_p(p: f64) -> f64 {
    if p > 0.0 { p * p.ln() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves() -> ClassProbabilities {
        let feature = |i: usize, j: usize| (0.1 * (i + 1) as f64 * (j + 1) as f64).sin();
        let logit = |i: usize, k: usize| -> f64 {
            (0..6).map(|j| feature(i, j) * (0.3 * j as f64 * (k + 1) as f64).cos()).sum()
        };
        let logits: Vec<f32> = (0..500).map(|at| logit(at / 10, at % 10) as f32).collect();
        ClassProbabilities::of_logits(&logits, 10).unwrap()
    }

    #[test]
    fn parts_of_any_size_score_as_the_reference_does() {
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        near(waves().score(ScoreParts::Size(5000)).unwrap(), 1.7623826297);
        near(waves().score(ScoreParts::Size(20)).unwrap(), 1.5636316032); // 20, 20 and 10 pictures
    }

    #[test]
    fn one_sure_class_for_each_picture_scores_the_number_of_classes() {
        let values: Vec<f64> = (0..35).map(|at| if at % 5 == (at / 5) % 5 { 1.0 } else { 0.0 }).collect();
        let sure = ClassProbabilities::new(values, 5).unwrap();
        assert!((sure.score_of(&[0, 1, 2, 3, 4], ScoreParts::Size(5)).unwrap() - 5.0).abs() < 1e-12);
        assert!((sure.score_of(&[0, 0, 5], ScoreParts::Size(5)).unwrap() - 1.0).abs() < 1e-12);
        let unsure = ClassProbabilities::new(vec![0.2; 35], 5).unwrap();
        assert!((unsure.score(ScoreParts::Shuffled(3)).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn too_few_pictures_and_values_that_are_no_numbers_are_refused() {
        let few = ClassProbabilities::new(vec![0.5; 6], 2).unwrap();
        assert!(few.score(ScoreParts::Shuffled(4)).unwrap_err().to_string().contains("found 3"));
        assert!(few.score_of(&[], ScoreParts::Size(7)).is_err());
        assert!(ClassProbabilities::of_logits(&[1.0, f32::NAN], 2).unwrap_err().to_string().contains("not finite"));
        assert!(ClassProbabilities::new(vec![1.0; 5], 2).is_err());
    }
}
