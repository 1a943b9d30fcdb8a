//! Weighted nearest neighbors.

use rayon::prelude::*;

/// Settings of [`knn_accuracy`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knn {
    /// Neighbors that vote; at most as many as there are.
    pub num_neighbors: usize,
    /// Divides a neighbor's similarity in the exponent of its weight.
    pub temperature: f64,
}

impl Default for Knn {
    /// DINO's: 20 neighbors at temperature 0.07.
    fn default() -> Self {
        Self { num_neighbors: 20, temperature: 0.07 }
    }
}

/// Share of pictures whose class the neighbors among the known ones name right.
///
/// A neighbor votes for its class with weight `exp(cosine / temperature)`; of equal votes the lower class wins.
///
/// # Shapes
/// * `known`: `[known_labels.len(), channels]`, `asked`: `[asked_labels.len(), channels]`
pub fn knn_accuracy(known: &[f32], known_labels: &[usize], asked: &[f32], asked_labels: &[usize], knn: Knn) -> f64 {
    let channels = known.len() / known_labels.len().max(1);
    if channels == 0 || asked_labels.is_empty() {
        return f64::NAN;
    }
    let known = unit_rows(known, channels);
    let num_classes = known_labels.iter().max().map_or(0, |label| label + 1);
    let is_right = |(row, label): (&[f32], &usize)| {
        let row = unit_rows(row, channels);
        let dot = |other: &[f32]| row.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let mut similar: Vec<(f64, usize)> =
            known.chunks_exact(channels).map(dot).zip(known_labels.iter().copied()).collect();
        let count = knn.num_neighbors.clamp(1, similar.len());
        similar.select_nth_unstable_by(count - 1, |a, b| b.0.total_cmp(&a.0));
        let mut votes = vec![0.0; num_classes];
        for (cosine, label) in &similar[..count] {
            votes[*label] += (cosine / knn.temperature).exp();
        }
        let best = (0..num_classes).rev().max_by(|a, b| votes[*a].total_cmp(&votes[*b]));
        best == Some(*label)
    };
    let right = asked.par_chunks_exact(channels).zip(asked_labels).filter(|asked| is_right(*asked)).count();
    right as f64 / asked_labels.len() as f64
}

fn unit_rows(rows: &[f32], channels: usize) -> Vec<f32> {
    let unit = |row: &[f32]| {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
        row.iter().map(|x| (f64::from(*x) / length) as f32).collect::<Vec<_>>()
    };
    rows.chunks_exact(channels).flat_map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known: one of class 1 right beside the question, two of class 0 further off.
    fn answer(num_neighbors: usize, temperature: f64, label: usize) -> f64 {
        let at = |degrees: f64| [degrees.to_radians().cos() as f32 * 3.0, degrees.to_radians().sin() as f32 * 3.0];
        let known = [at(2.0), at(40.0), at(-40.0)].concat();
        knn_accuracy(&known, &[1, 0, 0], &at(0.0), &[label], Knn { num_neighbors, temperature })
    }

    #[test]
    fn near_neighbors_outvote_many_far_ones_at_a_low_temperature() {
        assert_eq!(answer(1, 0.07, 1), 1.0);
        assert_eq!(answer(20, 0.07, 1), 1.0);
        // At a high temperature all weigh the same, and two are more than one.
        assert_eq!(answer(20, 100.0, 0), 1.0);
        assert_eq!(answer(20, 100.0, 1), 0.0);
    }

    #[test]
    fn the_length_of_a_vector_does_not_count() {
        let known = [1.0, 0.0, 0.0, 50.0];
        assert_eq!(knn_accuracy(&known, &[0, 1], &[9.0, 1.0, 0.01, 0.2], &[0, 1], Knn::default()), 1.0);
        assert!(knn_accuracy(&[], &[], &[], &[], Knn::default()).is_nan());
    }
}
