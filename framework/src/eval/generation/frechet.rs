//! The Fréchet distance of two Gaussians: FID where the features are Inception's, and the same of any other network.
//!
//! Source: Heusel et al., 2017: `|μ1 − μ2|² + tr S1 + tr S2 − 2 tr (S1 S2)^½`. The reference implementations take the root
//! of the product of two matrices, which is not symmetric and may come out complex; here only symmetric matrices are
//! taken apart: `tr (S1 S2)^½ = Σ √λ(Fᵀ S2 F)` for any factor `F Fᵀ = S1`. They are equal in exact arithmetic, also where
//! a covariance is singular.

use anyhow::{Result, anyhow, ensure};
use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::{Accum, Mat, Par, Side};

use super::moments::Gaussian;

/// A Gaussian that others are compared with: its covariance is taken apart once.
#[derive(Debug, Clone)]
pub struct FrechetReference {
    gaussian: Gaussian,
    factor: Factor,
}

/// A matrix that times its transpose is a covariance.
#[derive(Debug, Clone)]
struct Factor {
    matrix: Mat<f64>,
    structure: BlockStructure,
}

impl Factor {
    /// The Cholesky factor, or the symmetric root where the covariance is singular.
    fn new(covariance: &Mat<f64>) -> Result<Self> {
        Ok(match covariance.llt(Side::Lower) {
            Ok(cholesky) => Self { matrix: cholesky.L().to_owned(), structure: BlockStructure::TriangularLower },
            Err(_) => Self { matrix: symmetric_root(covariance)?, structure: BlockStructure::Rectangular },
        })
    }

    /// The lower triangle of `Fᵀ S F`.
    fn congruence(&self, symmetric: &Mat<f64>) -> Mat<f64> {
        let dim = symmetric.nrows();
        let (factor, par) = (&self.matrix, Par::rayon(0));
        let full = BlockStructure::Rectangular;
        let mut half = Mat::zeros(dim, dim);
        matmul(&mut half, full, Accum::Replace, symmetric, full, factor, self.structure, 1.0, par);
        let mut product = Mat::zeros(dim, dim);
        let lower = BlockStructure::TriangularLower;
        matmul(&mut product, lower, Accum::Replace, factor.transpose(), full, &half, full, 1.0, par);
        product
    }
}

impl FrechetReference {
    /// Takes the covariance apart.
    ///
    /// # Errors
    /// The eigenvalues do not converge.
    pub fn new(gaussian: Gaussian) -> Result<Self> {
        let factor = Factor::new(&gaussian.covariance)?;
        Ok(Self { gaussian, factor })
    }

    /// Values of the mean.
    pub fn dim(&self) -> usize {
        self.gaussian.dim()
    }

    /// The distance of another Gaussian.
    ///
    /// # Errors
    /// It has another dimension, or the eigenvalues do not converge.
    pub fn distance(&self, other: &Gaussian) -> Result<f64> {
        let dim = self.dim();
        ensure!(
            other.dim() == dim,
            "features of {} values cannot be compared with a reference of {dim}; was it made with another network?",
            other.dim()
        );
        let product = self.factor.congruence(&other.covariance);
        let values = product.self_adjoint_eigenvalues(Side::Lower).map_err(no_convergence)?;
        let trace_of_root: f64 = values.iter().map(|value| value.max(0.0).sqrt()).sum();
        let gap: f64 = self.gaussian.mean.iter().zip(&other.mean).map(|(ours, theirs)| (ours - theirs).powi(2)).sum();
        Ok(gap + trace(&self.gaussian.covariance) + trace(&other.covariance) - 2.0 * trace_of_root)
    }
}

/// The distance of two Gaussians.
///
/// # Errors
/// As [`FrechetReference::distance`].
pub fn frechet_distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    FrechetReference::new(a.clone())?.distance(b)
}

/// The symmetric root of a symmetric matrix; eigenvalues below zero are rounding errors and count as zero.
///
/// # Errors
/// The eigenvalues do not converge.
pub fn symmetric_root(matrix: &Mat<f64>) -> Result<Mat<f64>> {
    let dim = matrix.nrows();
    let eigen = matrix.self_adjoint_eigen(Side::Lower).map_err(no_convergence)?;
    let vectors = eigen.U();
    let mut scaled = vectors.to_owned();
    for (mut column, value) in scaled.col_iter_mut().zip(eigen.S().column_vector().iter()) {
        column *= faer::Scale(value.max(0.0).sqrt());
    }
    let mut root = Mat::zeros(dim, dim);
    let full = BlockStructure::Rectangular;
    matmul(&mut root, full, Accum::Replace, &scaled, full, vectors.transpose(), full, 1.0, Par::rayon(0));
    Ok(root)
}

fn trace(matrix: &Mat<f64>) -> f64 {
    matrix.diagonal().column_vector().iter().sum()
}

fn no_convergence(problem: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("the eigenvalues of a covariance cannot be found: {problem:?}")
}

#[cfg(test)]
mod tests {
    use super::super::moments::Moments;
    use super::*;

    fn gaussian(mean: &[f64], diagonal: &[f64]) -> Gaussian {
        let covariance = Mat::from_fn(diagonal.len(), diagonal.len(), |i, j| if i == j { diagonal[i] } else { 0.0 });
        Gaussian::new(mean.to_vec(), covariance).unwrap()
    }

    fn waves(wave: impl Fn(f64, f64) -> f64) -> Gaussian {
        let rows: Vec<f32> = (0..300).map(|at| wave((at / 6) as f64, (at % 6) as f64) as f32).collect();
        let mut moments = Moments::new(6);
        moments.add(&rows, None);
        moments.gaussian().unwrap()
    }

    #[test]
    fn diagonal_covariances_are_worked_by_hand() {
        // 1 + 4 of the means; (1 + 4) + (9 + 16) − 2 (3 + 8) of the covariances.
        let found = frechet_distance(&gaussian(&[1.0, 2.0], &[1.0, 4.0]), &gaussian(&[0.0, 0.0], &[9.0, 16.0]));
        assert!((found.unwrap() - 13.0).abs() < 1e-12);
    }

    #[test]
    fn the_distance_of_two_samples_is_that_of_the_reference() {
        let one = waves(|i, j| (0.1 * (i + 1.0) * (j + 1.0)).sin());
        let other = waves(|i, j| (0.07 * (i + 2.0) * (j + 1.0)).cos());
        // scipy's `sqrtm` on the same rows in f64.
        let found = frechet_distance(&one, &other).unwrap();
        assert!((found - 0.21691432542).abs() < 1e-7, "{found}");
        assert!((frechet_distance(&other, &one).unwrap() - found).abs() < 1e-10);
        assert!(frechet_distance(&one, &one).unwrap().abs() < 1e-9);
    }

    #[test]
    fn a_singular_covariance_has_a_distance_and_another_dimension_has_none() {
        let flat = gaussian(&[0.0; 3], &[4.0, 0.0, 0.0]);
        let full = gaussian(&[0.0; 3], &[1.0, 1.0, 9.0]);
        for (a, b) in [(&flat, &full), (&full, &flat)] {
            assert!((frechet_distance(a, b).unwrap() - (4.0 + 11.0 - 2.0 * 2.0)).abs() < 1e-12);
        }
        let message = frechet_distance(&flat, &gaussian(&[0.0], &[1.0])).unwrap_err().to_string();
        assert!(message.contains("1 values") && message.contains("of 3"), "{message}");
    }

    #[test]
    fn the_root_times_itself_is_the_matrix() {
        let matrix = waves(|i, j| (0.1 * (i + 1.0) * (j + 1.0)).sin()).covariance;
        let root = symmetric_root(&matrix).unwrap();
        assert!((&root * &root - &matrix).norm_max() < 1e-12);
    }
}
