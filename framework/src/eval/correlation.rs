//! Pearson correlation and the least-squares line.

/// Straight line through points, and how well they lie on it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Correlation {
    /// Pearson's r: covariance over the product of the deviations.
    pub r: f64,
    /// Slope of the line `y = slope · x + offset`.
    pub slope: f64,
    /// Where the line meets x = 0.
    pub offset: f64,
    /// Points that had both values.
    pub count: usize,
}

/// Correlation over the points with two finite values; nothing with fewer than three, or when all share one x or y.
pub fn correlation(points: &[(f64, f64)]) -> Option<Correlation> {
    let points: Vec<_> = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let count = points.len();
    if count < 3 {
        return None;
    }
    let mean = |value: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(|point| value(point)).sum::<f64>() / count as f64;
    let (mean_x, mean_y) = (mean(&|p| p.0), mean(&|p| p.1));
    let variance_x = mean(&|p| (p.0 - mean_x).powi(2));
    let variance_y = mean(&|p| (p.1 - mean_y).powi(2));
    let covariance = mean(&|p| (p.0 - mean_x) * (p.1 - mean_y));
    let slope = covariance / variance_x;
    let r = covariance / (variance_x * variance_y).sqrt();
    r.is_finite().then_some(Correlation { r, slope, offset: mean_y - slope * mean_x, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_points_are_worked_by_hand() {
        // Deviations (−1, 0, 1) and (−1, 2, −1)... of (1, 2), (2, 5), (3, 2): no slope at all.
        let flat = correlation(&[(1.0, 2.0), (2.0, 5.0), (3.0, 2.0)]).unwrap();
        assert_eq!((flat.r, flat.slope, flat.offset, flat.count), (0.0, 0.0, 3.0, 3));
        // (0, 0), (1, 1), (2, 4): covariance 4/3, variances 2/3 and 26/9.
        let found = correlation(&[(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)]).unwrap();
        assert!((found.r - 4.0 / 3.0 / (2.0f64 / 3.0 * 26.0 / 9.0).sqrt()).abs() < 1e-12);
        assert!((found.slope - 2.0).abs() < 1e-12 && (found.offset + 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn points_without_a_number_do_not_count() {
        let points = [(1.0, 3.0), (2.0, f64::NAN), (2.0, 2.0), (f64::INFINITY, 1.0), (3.0, 1.0)];
        let found = correlation(&points).unwrap();
        assert_eq!(found.count, 3);
        assert!((found.r + 1.0).abs() < 1e-12);
        assert_eq!(correlation(&points[..4]), None);
        assert_eq!(correlation(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(correlation(&[(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)]), None);
    }
}
