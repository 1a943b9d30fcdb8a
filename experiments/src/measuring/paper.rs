//! What the paper measured, from `experiments/tables/encoders.yaml`.

use anyhow::{Context, Result};
use serde::Deserialize;

/// The file, as it travels with the program.
pub const TEXT: &str = include_str!("../../tables/encoders.yaml");

/// Numbers of the paper.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Encoders as targets.
    pub encoders: Vec<PaperEncoder>,
    /// Correlations over encoders.
    pub correlations: Vec<PaperCorrelation>,
}

/// One encoder as a target; see the file for what each number is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct PaperEncoder {
    pub encoder: String,
    pub name: String,
    pub linear_probe: Option<f64>,
    pub lds: Option<f64>,
    pub fid: Option<f64>,
    pub fid_irepa: Option<f64>,
    pub fid_400k: Option<f64>,
    pub fid_irepa_400k: Option<f64>,
    pub fid_b_400k: Option<f64>,
    pub fid_irepa_b_400k: Option<f64>,
}

/// Pearson's r of a metric with a measure of generation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PaperCorrelation {
    pub metric: String,
    pub target: String,
    pub model: String,
    pub encoders: usize,
    pub r: f64,
    pub source: String,
}

impl Paper {
    /// Reads the numbers.
    ///
    /// # Errors
    /// The file of this build is damaged.
    pub fn read() -> Result<Self> {
        serde_yaml::from_str(TEXT).context("the paper's numbers in this build cannot be read")
    }

    /// What is known of an encoder, by its name in iREPA's repository; the names of `ViT-L` and `vit-l` are one.
    pub fn encoder(&self, label: &str) -> Option<&PaperEncoder> {
        self.encoders.iter().find(|known| known.encoder.eq_ignore_ascii_case(label))
    }

    /// Pearson's r of `metric` with `target` on a model.
    pub fn r(&self, metric: &str, target: &str, model: &str) -> Option<&PaperCorrelation> {
        let metric = metric.strip_suffix("_code").unwrap_or(metric);
        self.correlations
            .iter()
            .find(|known| (&*known.metric, &*known.target, &*known.model) == (metric, target, model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_numbers_can_be_looked_up() {
        let paper = Paper::read().unwrap();
        assert_eq!(paper.encoder("PE-ViT-G").unwrap().linear_probe, Some(82.8));
        assert_eq!(paper.encoder("hog").map(|known| known.fid), None);
        assert_eq!(paper.r("lds_code", "fid", "SiT-XL/2").unwrap().r, -0.852);
        assert!(paper.r("lds", "fid", "SiT-S/2").is_none());
    }
}
