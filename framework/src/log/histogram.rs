//! Histograms with the buckets that TensorBoard expects.

use super::event_record::Histogram;

const SMALLEST_LIMIT: f64 = 1e-12; // limits of TensorFlow's `Histogram`: 10 % apart
const LARGEST_LIMIT: f64 = 1e20;
const GROWTH: f64 = 1.1;

/// Counts the finite values of `values` in buckets whose limits lie 10 % apart; NaN and infinities are left out.
///
/// Runs of empty buckets are joined, so that weights around zero take a hundred buckets and not fifteen hundred.
/// Without any finite value it is one empty bucket, since TensorBoard cannot show a histogram without buckets.
pub(super) fn histogram_of(values: &[f32]) -> Histogram {
    let limits = bucket_limits();
    let mut counts = vec![0.0; limits.len()];
    let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut num, mut sum, mut sum_squares) = (0.0, 0.0, 0.0);
    for value in values.iter().copied().filter(|value| value.is_finite()).map(f64::from) {
        // The last limit is f64::MAX, above every finite f32, so a bucket always exists.
        let bucket_idx = limits.partition_point(|&limit| limit <= value);
        counts[bucket_idx] += 1.0;
        (min, max) = (min.min(value), max.max(value));
        num += 1.0;
        sum += value;
        sum_squares += value * value;
    }
    let (Some(first), Some(last)) = (counts.iter().position(|&n| n > 0.0), counts.iter().rposition(|&n| n > 0.0))
    else {
        return Histogram { bucket_limit: vec![0.0], bucket: vec![0.0], ..Histogram::default() };
    };
    let ends_an_empty_run = |idx: usize| counts[idx] > 0.0 || counts[idx + 1] > 0.0;
    let kept = (first..=last).filter(|&idx| idx == last || ends_an_empty_run(idx));
    let (bucket_limit, bucket) = kept.map(|idx| (limits[idx], counts[idx])).unzip();
    Histogram { min, max, num, sum, sum_squares, bucket_limit, bucket }
}

/// Upper limits in rising order: `-f64::MAX`, the negative ones, 0, the positive ones, `f64::MAX`.
fn bucket_limits() -> Vec<f64> {
    let grow = |limit: &f64| Some(limit * GROWTH);
    let positive: Vec<f64> = std::iter::successors(Some(SMALLEST_LIMIT), grow)
        .take_while(|&limit| limit < LARGEST_LIMIT)
        .chain([f64::MAX])
        .collect();
    positive.iter().rev().map(|limit| -limit).chain([0.0]).chain(positive.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_value_is_counted_between_its_limits() {
        let values = [-3.0_f32, -1e-20, 0.0, 0.5, 0.5, 1e30, f32::MAX, f32::MIN];
        let histogram = histogram_of(&values);
        assert_eq!(histogram.num, 8.0);
        assert_eq!(histogram.bucket.iter().sum::<f64>(), 8.0);
        assert_eq!((histogram.min, histogram.max), (f64::from(f32::MIN), f64::from(f32::MAX)));
        assert!(histogram.bucket_limit.is_sorted());
        let half = histogram.bucket_limit.iter().position(|&limit| limit > 0.5).unwrap();
        assert_eq!(histogram.bucket[half], 2.0);
        assert!(histogram.bucket_limit[half] < 0.5 * 1.1 + 1e-9);
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let histogram = histogram_of(&[f32::NAN, 1.0, f32::INFINITY, 2.0, f32::NEG_INFINITY]);
        assert_eq!((histogram.num, histogram.sum, histogram.sum_squares), (2.0, 3.0, 5.0));
        assert_eq!((histogram.min, histogram.max), (1.0, 2.0));
    }

    #[test]
    fn nothing_to_count_gives_one_empty_bucket() {
        for values in [&[][..], &[f32::NAN][..]] {
            let histogram = histogram_of(values);
            assert_eq!((histogram.bucket_limit, histogram.bucket), (vec![0.0], vec![0.0]));
            assert_eq!((histogram.min, histogram.max, histogram.num), (0.0, 0.0, 0.0));
        }
    }

    #[test]
    fn runs_of_empty_buckets_are_joined() {
        let histogram = histogram_of(&[-1.0, 1.0]);
        assert_eq!(histogram.bucket, [1.0, 0.0, 1.0]);
    }
}
