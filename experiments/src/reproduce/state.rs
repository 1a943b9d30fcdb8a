//! What has been measured so far.

use super::setting::Setting;
use super::work::Assessment;
use crate::evaluation::result::Evaluation;

/// Numbers of an entry over its seeds.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    /// One evaluation for each seed that is done, in the order of seeds.
    pub evaluations: Vec<Evaluation>,
}

/// A number over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The mean.
    pub mean: f64,
    /// Standard deviation over seeds (n - 1); none with one seed.
    pub spread: Option<f64>,
    /// Lower and upper end of the evaluation's own interval, with one seed.
    pub interval: Option<[f64; 2]>,
    /// Seeds.
    pub count: usize,
}

impl Ours {
    /// What is there of an entry.
    pub fn of(settings: &[Setting]) -> Self {
        Self { evaluations: settings.iter().filter_map(|setting| Assessment::of(setting).read()).collect() }
    }

    /// Names of the numbers.
    pub fn metrics(&self) -> Vec<&str> {
        self.evaluations.first().into_iter().flat_map(|found| found.metrics.keys()).map(String::as_str).collect()
    }

    /// A number over seeds.
    pub fn outcome(&self, metric: &str) -> Option<Outcome> {
        let found: Vec<_> = self.evaluations.iter().filter_map(|one| one.metrics.get(metric)).collect();
        let values: Vec<f64> = found.iter().map(|one| one.value).collect();
        let mut outcome = Outcome::over(&values)?;
        if let [only] = found[..] {
            outcome.interval = only.low.zip(only.high).map(|(low, high)| [low, high]);
        }
        Some(outcome)
    }
}

impl Outcome {
    /// Mean and spread of values.
    pub fn over(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let spread = (values.len() > 1).then(|| variance.sqrt());
        Some(Self { mean, spread, interval: None, count: values.len() })
    }

    /// Twice the standard error of the mean, or half of the interval of the one seed; none where nothing is known.
    pub fn noise(&self) -> Option<f64> {
        match (self.spread, self.interval) {
            (Some(spread), _) => Some(2.0 * spread / (self.count as f64).sqrt()),
            (None, Some([low, high])) => Some((high - low) / 2.0),
            _ => None,
        }
    }
}

/// Names of numbers, with the name of the paper's.
const PAPERS: [(&str, &str); 6] = [
    ("fid", "fid"),
    ("sfid", "sfid"),
    ("inception_score", "is"),
    ("precision", "prec"),
    ("recall", "rec"),
    ("cmmd", "cmmd"),
];

/// Our number of a metric of the paper.
pub fn same_metric(paper: &str) -> Option<&'static str> {
    PAPERS.iter().find(|(_, known)| *known == paper).map(|(ours, _)| *ours)
}

/// Whether less is better; also of a number of another network.
pub fn less_is_better(metric: &str) -> bool {
    ["fid", "sfid", "fd_", "spatial_fd_", "cmmd", "mmd"].iter().any(|start| metric.starts_with(start))
}

/// Whether a number has the name of one that the paper prints: it is of a published network.
pub fn is_published(metric: &str) -> bool {
    PAPERS.iter().any(|(ours, _)| *ours == metric)
}

/// The number that orders our runs: the paper's own where we have it, else the Fréchet distance of another network, or
/// what else there is of one. Another number of the paper never stands in for its own.
pub fn ordering_metric(paper: &str, ours: &[&str]) -> Option<String> {
    let own = same_metric(paper).filter(|own| ours.contains(own));
    let mut others = ours.iter().copied().filter(|name| !is_published(name));
    let distance = others.clone().find(|name| name.starts_with("fd_"));
    own.or(distance).or(others.next()).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_two_standard_errors_or_the_interval_of_the_only_seed() {
        let three = Outcome::over(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((three.mean, three.spread, three.count), (2.0, Some(1.0), 3));
        assert!((three.noise().unwrap() - 2.0 / 3f64.sqrt()).abs() < 1e-12);
        let one = Outcome { interval: Some([3.0, 5.0]), ..Outcome::over(&[4.5]).unwrap() };
        assert_eq!((one.spread, one.noise()), (None, Some(1.0)));
        assert_eq!(Outcome::over(&[4.5]).unwrap().noise(), None);
        assert_eq!(Outcome::over(&[]), None);
    }

    #[test]
    fn a_number_of_the_paper_never_stands_in_for_another() {
        let of = |paper: &str, ours: &[&str]| ordering_metric(paper, ours);
        assert_eq!(of("fid", &["cmmd", "fid"]).as_deref(), Some("fid"));
        assert_eq!(of("cmmd", &["fid", "inception_score"]), None);
        assert_eq!(of("fid", &["precision_hog", "fd_hog"]).as_deref(), Some("fd_hog"));
        assert_eq!(of("fid", &["spatial_fd_x"]).as_deref(), Some("spatial_fd_x"));
        assert!(less_is_better("spatial_fd_inception_random") && !less_is_better("precision"));
    }
}
