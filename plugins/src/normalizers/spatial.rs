//! iREPA's spatial normalization.

use realign::burn::tensor::Tensor;
use realign::plugin::{Normalizer, NormalizerConfig, PatchGrid};
use realign::recipe::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `spatial`: removes a share `gamma` of the mean token and divides by the deviation over tokens, per channel.
///
/// Source: the paper, section 4, Algorithm 1 and appendix G (gamma 0.6 to 0.8); iREPA `ldm/utils.py`. The paper's text
/// adds `eps` under the root, Algorithm 1 and the code after it; the default follows the latter. Computes in f32. A
/// single token has no deviation: it is divided by `eps` alone, which the cosine loss does not see.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpatialConfig {
    /// Share of the mean that is removed: 0 none, 1 all.
    #[serde(alias = "zscore_alpha")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub gamma: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Estimator of the deviation.
    pub denominator: Denominator,
}

/// Estimator of the deviation over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Denominator {
    /// Unbiased deviation plus eps.
    #[default]
    StdUnbiased,
    /// Root of the biased variance plus eps.
    SqrtVarEps,
}

impl Default for SpatialConfig {
    fn default() -> Self {
        Self { gamma: 0.6, eps: 1e-6, denominator: Denominator::StdUnbiased }
    }
}

impl Normalizer for SpatialConfig {
    fn normalize(&self, features: Tensor<3>, _grid: PatchGrid) -> Tensor<3> {
        let tokens = features.dims()[1];
        let mean = features.clone().mean_dim(1); // [batch, 1, channels]
        // From the first token on, which moves no deviation: that of a channel that is the same everywhere is then 0 and
        // not the rounding of its mean, against which eps would not be small.
        let moved = features.clone() - features.clone().narrow(1, 0, 1);
        let squares = (moved.clone() - moved.mean_dim(1)).square().sum_dim(1);
        let denominator = match self.denominator {
            Denominator::StdUnbiased => (squares / tokens.saturating_sub(1).max(1) as f64).sqrt() + self.eps,
            Denominator::SqrtVarEps => (squares / tokens.max(1) as f64 + self.eps).sqrt(),
        };
        (features - mean * self.gamma) / denominator
    }
}

#[typetag::serde(name = "spatial")]
impl NormalizerConfig for SpatialConfig {
    fn build(&self) -> Box<dyn Normalizer> {
        Box::new(*self)
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("gamma", self.gamma, 0.0, 1.0);
        if !(self.eps > 0.0 && self.eps <= 1.0) {
            check.bad("eps", format!("`{}` is out of range; allowed is above 0 to 1", self.eps));
        }
    }
}

realign::register!(NormalizerConfig as "normalizer": SpatialConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::{Device, Distribution};

    #[test]
    fn at_gamma_one_every_channel_has_mean_zero_and_unit_deviation() {
        let x = Tensor::<3>::random([3, 35, 12], Distribution::Normal(4.0, 3.0), &Device::flex());
        for denominator in [Denominator::StdUnbiased, Denominator::SqrtVarEps] {
            let y = SpatialConfig { gamma: 1.0, eps: 1e-6, denominator }.normalize(x.clone(), PatchGrid::new(5, 7));
            let count = if denominator == Denominator::StdUnbiased { 34.0 } else { 35.0 };
            assert!(y.clone().mean_dim(1).abs().max().into_scalar::<f32>() < 1e-5);
            let variance = y.square().sum_dim(1) / count;
            assert!((variance - 1.0).abs().max().into_scalar::<f32>() < 1e-4);
        }
    }

    #[test]
    fn the_reference_name_of_gamma_is_read_and_other_keys_are_refused() {
        let read = |text: &str| serde_json::from_str::<Box<dyn NormalizerConfig>>(text);
        let config = read(r#"{"type": "spatial", "zscore_alpha": 0.8, "denominator": "sqrt_var_eps"}"#).unwrap();
        let written = serde_json::to_value(&config).unwrap();
        assert_eq!((&written["gamma"], &written["denominator"]), (&0.8.into(), &"sqrt_var_eps".into()));
        assert!(read(r#"{"type": "spatial", "alpha": 0.8}"#).is_err());
    }

    #[test]
    fn a_channel_that_is_the_same_everywhere_is_divided_by_eps_alone() {
        for (value, side) in [(0.3_f32, 3), (1.7, 3), (3.3, 4), (0.7, 16), (-2.6, 32)] {
            let x = Tensor::<3>::full([2, side * side, 5], value, &Device::flex());
            let y = SpatialConfig::default().normalize(x, PatchGrid::new(side, side));
            let (least, most) = (y.clone().min().into_scalar::<f32>(), y.max().into_scalar::<f32>());
            let expected = f64::from(value) * (1.0 - 0.6) / 1e-6;
            for found in [least, most] {
                assert!((f64::from(found) / expected - 1.0).abs() < 1e-5, "{value}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn a_single_token_stays_finite() {
        let x = Tensor::<3>::ones([2, 1, 3], &Device::flex());
        for denominator in [Denominator::StdUnbiased, Denominator::SqrtVarEps] {
            let config = SpatialConfig { denominator, ..Default::default() };
            let y = config.normalize(x.clone(), PatchGrid::new(1, 1)).abs().max().into_scalar::<f32>();
            assert!(y.is_finite(), "{y}");
        }
    }

    #[test]
    fn a_share_of_the_mean_stays() {
        let x = Tensor::<3>::random([3, 35, 12], Distribution::Normal(4.0, 3.0), &Device::flex());
        let config = SpatialConfig { gamma: 0.25, ..Default::default() };
        let left = config.normalize(x.clone(), PatchGrid::new(5, 7)).mean_dim(1);
        let whole = SpatialConfig { gamma: 0.0, ..config }.normalize(x, PatchGrid::new(5, 7)).mean_dim(1);
        assert!((left - whole * 0.75).abs().max().into_scalar::<f32>() < 1e-5);
    }
}
