//! How samples are evaluated.

use serde::{Deserialize, Serialize};

use super::check::Check;
use crate::eval::generation::Metric;
use crate::plugin::FeatureNetworkConfig;

/// How samples are evaluated, by `realign eval`. No number of the training depends on it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSection {
    /// Networks whose features are compared, each by its own metrics.
    pub features: Vec<Box<dyn FeatureNetworkConfig>>,
    /// What samples are compared with: `data`, the run's own data set, or an `.npz`, a folder or a zip.
    pub reference: String,
    /// Pictures taken from the reference, evenly, where it holds pictures.
    pub num_reference: usize,
    /// Samples drawn.
    pub num_samples: usize,
    /// What is measured, of what each network offers; all of it when empty.
    pub metrics: Vec<Metric>,
    /// Draws of the bootstrap behind the intervals; 0 is none.
    pub bootstrap: usize,
    /// Pictures drawn and looked at together.
    pub batch_size: usize,
}

impl Default for EvaluationSection {
    fn default() -> Self {
        Self {
            features: vec![],
            reference: "data".into(),
            num_reference: 10_000, // as many as ADM's reference files have
            num_samples: 50_000,
            metrics: vec![],
            bootstrap: 0,
            batch_size: 64,
        }
    }
}

impl EvaluationSection {
    /// What is measured by a network: of its own metrics those that are asked for, all where none is.
    pub fn metrics_of(&self, network: &dyn FeatureNetworkConfig) -> Vec<Metric> {
        let is_wanted = |metric: &Metric| self.metrics.is_empty() || self.metrics.contains(metric);
        network.metrics().into_iter().filter(is_wanted).collect()
    }

    /// Reports values that cannot work.
    pub fn validate(&self, check: &mut Check<'_>) {
        for (i, network) in self.features.iter().enumerate() {
            check.within(&format!("features.{i}"), |check| network.validate(check));
            if self.features[..i].iter().any(|other| other.label() == network.label()) {
                check.bad(&format!("features.{i}"), format!("`{}` is measured twice", network.label()));
            }
        }
        for (i, metric) in self.metrics.iter().enumerate() {
            let is_offered = self.features.iter().any(|network| network.metrics().contains(metric));
            if !is_offered && !self.features.is_empty() {
                let labels: Vec<String> = self.features.iter().map(|network| network.label()).collect();
                let message = format!("{metric:?} is offered by none of the networks: {}", labels.join(", "));
                check.bad(&format!("metrics.{i}"), message);
            }
        }
        if self.reference.is_empty() {
            check.bad("reference", "is empty; write `data` or a path");
        }
        check.range("num_reference", self.num_reference, 2, 10_000_000);
        check.range("num_samples", self.num_samples, 2, 10_000_000);
        check.range("bootstrap", self.bootstrap, 0, 100_000);
        check.range("batch_size", self.batch_size, 1, 65_536);
    }
}
