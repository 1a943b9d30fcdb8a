//! Mean and covariance of features, gathered piece by piece in f64.

use anyhow::{Result, ensure};
use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, Mat, MatRef, Par};

/// What files of single precision may differ by, beside the largest value.
const ROUNDING: f64 = 1e-4;

/// Count, mean and sum of squared deviations of rows seen so far.
///
/// Pieces may come in any sizes and be merged; each is centered at its own mean first, so that nothing is lost where the
/// mean is large beside the deviation.
#[derive(Debug, Clone)]
pub struct Moments {
    count: u64,
    mean: Vec<f64>,
    /// The lower triangle; above the diagonal are zeros.
    scatter: Mat<f64>,
}

/// Mean and covariance, of rows or from a file.
#[derive(Debug, Clone)]
pub struct Gaussian {
    /// `[dim]`.
    pub mean: Vec<f64>,
    /// `[dim, dim]`, the unbiased one.
    pub covariance: Mat<f64>,
}

impl Moments {
    /// Nothing seen yet, of rows of `dim` values.
    pub fn new(dim: usize) -> Self {
        Self { count: 0, mean: vec![0.0; dim], scatter: Mat::zeros(dim, dim) }
    }

    /// Rows seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds rows; `weights` counts each as often as it says, each once when left out.
    ///
    /// # Shapes
    /// * `rows`: `[count, dim]`, row-major
    /// * `weights`: `[count]`
    pub fn add(&mut self, rows: &[f32], weights: Option<&[u32]>) {
        let dim = self.mean.len();
        let count = rows.len() / dim.max(1);
        let times = |row: usize| weights.map_or(1, |weights| weights.get(row).copied().unwrap_or(0));
        let total: u64 = (0..count).map(|row| u64::from(times(row))).sum();
        if total == 0 {
            return;
        }
        let mut mean = vec![0.0; dim];
        for (row, values) in rows.chunks_exact(dim).enumerate() {
            let weight = f64::from(times(row)) / total as f64;
            mean.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * f64::from(*value));
        }
        let mut centered = Mat::zeros(dim, count); // a column for each row, so that each is adjacent in memory
        for (row, values) in rows.chunks_exact(dim).enumerate() {
            let root = f64::from(times(row)).sqrt();
            let column = centered.col_mut(row).iter_mut();
            column
                .zip(values.iter().zip(&mean))
                .for_each(|(to, (value, mean))| *to = root * (f64::from(*value) - mean));
        }
        let mut scatter = Mat::zeros(dim, dim);
        add_product_with_itself(&mut scatter, centered.as_ref(), 1.0, Par::rayon(0));
        self.merge(&Self { count: total, mean, scatter });
    }

    /// Joins what another has seen (Chan, Golub and LeVeque, 1979).
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (ours, theirs) = (self.count as f64, other.count as f64);
        let share = theirs / (ours + theirs);
        let gap: Vec<f64> = self.mean.iter().zip(&other.mean).map(|(ours, theirs)| theirs - ours).collect();
        self.mean.iter_mut().zip(&gap).for_each(|(mean, gap)| *mean += share * gap);
        self.scatter += &other.scatter;
        if ours > 0.0 {
            let gap = MatRef::from_column_major_slice(&gap, gap.len(), 1);
            add_product_with_itself(&mut self.scatter, gap, ours * share, Par::Seq);
        }
        self.count += other.count;
    }

    /// Mean and unbiased covariance.
    ///
    /// # Errors
    /// There are fewer than two rows, or a value is not finite.
    pub fn gaussian(&self) -> Result<Gaussian> {
        ensure!(self.count >= 2, "a covariance needs at least 2 pictures; found {}", self.count);
        let scale = 1.0 / (self.count - 1) as f64;
        let dim = self.mean.len();
        let covariance = Mat::from_fn(dim, dim, |i, j| scale * self.scatter[(i.max(j), i.min(j))]);
        Gaussian::new(self.mean.clone(), covariance)
    }
}

/// Adds `scale · columns · columnsᵀ` to the lower triangle, half the work of the whole product.
fn add_product_with_itself(lower: &mut Mat<f64>, columns: MatRef<f64>, scale: f64, par: Par) {
    use BlockStructure::{Rectangular, TriangularLower};
    matmul(lower, TriangularLower, Accum::Add, columns, Rectangular, columns.transpose(), Rectangular, scale, par);
}

impl Gaussian {
    /// A mean with its covariance.
    ///
    /// # Errors
    /// The sizes do not belong together, or a value is not finite.
    pub fn new(mean: Vec<f64>, covariance: Mat<f64>) -> Result<Self> {
        let dim = mean.len();
        ensure!(
            (covariance.nrows(), covariance.ncols()) == (dim, dim),
            "a mean of {dim} values and a covariance of {} x {} do not belong together",
            covariance.nrows(),
            covariance.ncols()
        );
        let is_finite = mean.iter().all(|value| value.is_finite())
            && covariance.col_iter().all(|column| column.iter().all(|value| value.is_finite()));
        ensure!(is_finite, "features, or statistics of them, are not finite (NaN or infinite)");
        Ok(Self { mean, covariance })
    }

    /// The same, of a covariance that is written row by row.
    ///
    /// # Errors
    /// As [`new`](Self::new), or it is not symmetric, or a variance is below zero.
    pub fn from_rows(mean: Vec<f64>, rows: &[f64]) -> Result<Self> {
        let dim = mean.len();
        ensure!(rows.len() == dim * dim, "{} values are no covariance of {dim} x {dim}", rows.len());
        let covariance = MatRef::from_row_major_slice(rows, dim, dim);
        let largest = rows.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        for i in 0..dim {
            let variance = covariance[(i, i)];
            ensure!(
                variance.is_nan() || variance >= -ROUNDING * largest,
                "it is no covariance: variance {i} is {variance}"
            );
            for j in 0..i {
                let pair = [covariance[(i, j)], covariance[(j, i)]];
                let is_same = (pair[0] - pair[1]).abs() <= ROUNDING * largest;
                // Comparisons with NaN are false; `new` says that there are some.
                ensure!(
                    is_same || pair.iter().any(|value| !value.is_finite()),
                    "it is no covariance: not symmetric, \
                     {} at {i}, {j} and {} at {j}, {i}",
                    pair[0],
                    pair[1]
                );
            }
        }
        Self::new(mean, covariance.to_owned())
    }

    /// Values of the mean.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// The covariance row by row.
    pub fn covariance_rows(&self) -> Vec<f64> {
        // Columns of the transpose are rows.
        self.covariance.transpose().col_iter().flat_map(|row| row.iter().copied().collect::<Vec<_>>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, dim: usize, offset: f32) -> Vec<f32> {
        (0..count * dim).map(|i| offset + ((i * i) as f32 * 0.37).sin()).collect()
    }

    fn far(a: &Gaussian, b: &Gaussian) -> f64 {
        (&a.covariance - &b.covariance).norm_max()
    }

    #[test]
    fn pieces_of_any_size_give_the_covariance_of_the_whole() {
        let rows = rows(53, 5, 1000.0);
        let mut whole = Moments::new(5);
        whole.add(&rows, None);
        let (mut pieces, mut other) = (Moments::new(5), Moments::new(5));
        pieces.add(&rows[..5], None);
        pieces.add(&rows[5..35], None);
        other.add(&rows[35..], None);
        pieces.merge(&other);
        let (whole, pieces) = (whole.gaussian().unwrap(), pieces.gaussian().unwrap());
        assert!(far(&whole, &pieces) < 1e-9, "{}", far(&whole, &pieces));
        let at = |row: usize, dim: usize| f64::from(rows[row * 5 + dim]) - whole.mean[dim];
        let direct: f64 = (0..53).map(|row| at(row, 1) * at(row, 3)).sum::<f64>() / 52.0;
        assert!((whole.covariance[(1, 3)] - direct).abs() < 1e-9);
        assert_eq!(whole.covariance_rows()[5 + 3], whole.covariance[(1, 3)]);
    }

    #[test]
    fn a_weight_counts_a_row_as_often_as_it_says() {
        let rows = rows(4, 3, 0.0);
        let (mut weighted, mut repeated) = (Moments::new(3), Moments::new(3));
        weighted.add(&rows, Some(&[2, 0, 1, 3]));
        for row in [0, 0, 2, 3, 3, 3] {
            repeated.add(&rows[row * 3..row * 3 + 3], None);
        }
        assert!(far(&weighted.gaussian().unwrap(), &repeated.gaussian().unwrap()) < 1e-12);
    }

    #[test]
    fn too_few_rows_and_values_that_are_no_numbers_are_refused() {
        let mut moments = Moments::new(2);
        moments.add(&[1.0, 2.0], None);
        assert!(moments.gaussian().unwrap_err().to_string().contains("at least 2 pictures; found 1"));
        moments.add(&[f32::NAN, 2.0], None);
        assert!(moments.gaussian().unwrap_err().to_string().contains("not finite"));
        assert!(Gaussian::new(vec![0.0; 3], Mat::zeros(2, 2)).unwrap_err().to_string().contains("2 x 2"));
    }

    #[test]
    fn what_is_no_covariance_is_refused() {
        let of = |rows: [f64; 4]| Gaussian::from_rows(vec![0.0; 2], &rows).map_err(|problem| problem.to_string());
        assert!(of([1.0, 0.5, 0.5, 1.0]).is_ok() && of([0.0; 4]).is_ok());
        assert!(of([1.0, 1.0, 0.0, 1.0]).unwrap_err().contains("not symmetric"));
        assert!(of([-1.0, 0.0, 0.0, -1.0]).unwrap_err().contains("variance 0 is -1"));
        assert!(of([f64::NAN; 4]).unwrap_err().contains("not finite"));
    }
}
