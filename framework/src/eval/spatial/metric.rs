//! The metrics by name, as recipes and commands give them.

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cds, Lds, LdsMode, Rmsc, Srss};
use crate::plugin::PatchGrid;

/// A metric with its settings: `{type: lds, mode: code}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SpatialMetric {
    /// Local against distant similarity.
    Lds(Lds),
    /// Slope of similarity over distance.
    Cds(Cds),
    /// Similarity inside an object against similarity with what lies around it; needs masks.
    Srss(Srss),
    /// Contrast of tokens, wherever they lie.
    Rmsc(Rmsc),
}

impl SpatialMetric {
    /// All four with the paper's settings.
    pub fn all() -> [Self; 4] {
        [Self::Lds(Lds::default()), Self::Cds(Cds::default()), Self::Srss(Srss::default()), Self::Rmsc(Rmsc::default())]
    }

    /// Name in tables and tags; LDS by the code's definition is `lds_code`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lds(Lds { mode: LdsMode::Code, .. }) => "lds_code",
            Self::Lds(_) => "lds",
            Self::Cds(_) => "cds",
            Self::Srss(_) => "srss",
            Self::Rmsc(_) => "rmsc",
        }
    }

    /// Whether it needs object masks.
    pub fn needs_mask(&self) -> bool {
        matches!(self, Self::Srss(_))
    }

    /// One value per image.
    ///
    /// # Shapes
    /// * `tokens`: `[batch, grid.tokens(), channels]`
    /// * `mask`: `[batch, grid.tokens()]`, 1 on the object, 0 elsewhere
    /// * result: `[batch]`
    ///
    /// # Errors
    /// The tokens do not fill the grid, or a mask is needed and absent.
    pub fn measure(&self, tokens: Tensor<3>, mask: Option<Tensor<2>>, grid: PatchGrid) -> Result<Tensor<1>> {
        let [batch, count, _] = tokens.dims();
        ensure!(count == grid.tokens() && count > 0, "`{}`: {count} tokens do not fill a grid of {grid}", self.name());
        Ok(match self {
            Self::Lds(lds) => lds.measure(tokens, grid),
            Self::Cds(cds) => cds.measure(tokens, grid),
            Self::Rmsc(rmsc) => rmsc.measure(tokens),
            Self::Srss(srss) => {
                let mask = mask.context("`srss` compares an object with what is around it and needs masks")?;
                let found = mask.dims();
                ensure!(found == [batch, count], "`srss`: the mask is {found:?}, expected {:?}", [batch, count]);
                srss.measure(tokens, mask, grid)
            }
        })
    }
}

/// The mean of the values that are numbers; NaN where none is.
pub fn mean_of_numbers(values: &[f64]) -> f64 {
    let (sum, count) = values.iter().filter(|value| !value.is_nan()).fold((0.0, 0), |(sum, n), x| (sum + x, n + 1));
    if count == 0 { f64::NAN } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::ops::{self, DeviceChoice};
    use crate::weights::to_host;

    fn devices() -> Vec<Device> {
        let flex = Device::flex();
        match ops::backend_names().contains(&"libtorch") {
            true => vec![ops::open(DeviceChoice::Cpu).unwrap(), flex],
            false => vec![flex],
        }
    }

    /// The two images and masks of the specification's table: 16 rows and columns, 8 channels.
    fn tabled(device: &Device) -> (Tensor<3>, Tensor<2>) {
        let value = |b: usize, t: usize, d: usize| {
            let (b, d) = (b as f64, d as f64);
            let (row, column) = ((t / 16) as f64, (t % 16) as f64);
            (0.5 + (0.17 * (d + 1.0) * 0.5 * row + 0.23 * column * (1.0 + 0.1 * d) + d + 0.7 * b).sin()) as f32
        };
        let tokens: Vec<f32> = (0..2 * 256 * 8).map(|i| value(i / 2048, i / 8 % 256, i % 8)).collect();
        let is_object = |b: usize, t: usize| match b {
            0 => (4..12).contains(&(t / 16)) && (4..12).contains(&(t % 16)),
            _ => t % 16 < 3,
        };
        let mask: Vec<f32> = (0..512).map(|i| f32::from(is_object(i / 256, i % 256))).collect();
        (
            Tensor::from_data(TensorData::new(tokens, [2, 256, 8]), device),
            Tensor::from_data(TensorData::new(mask, [2, 256]), device),
        )
    }

    fn measured(metric: SpatialMetric, tokens: &Tensor<3>, mask: &Tensor<2>) -> Vec<f64> {
        let values = metric.measure(tokens.clone(), Some(mask.clone()), PatchGrid::new(16, 16)).unwrap();
        to_host(values).into_iter().map(f64::from).collect()
    }

    fn assert_near(found: &[f64], expected: &[f64], what: &str) {
        let is_near = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(is_near, "{what}: {found:?}, expected {expected:?}");
    }

    const CODE: SpatialMetric = SpatialMetric::Lds(Lds { mode: LdsMode::Code, near: None, far: None });

    #[test]
    fn all_metrics_have_the_values_of_the_specification() {
        let [paper, cds, srss, rmsc] = SpatialMetric::all();
        for device in devices() {
            let (tokens, mask) = tabled(&device);
            for (metric, expected) in [
                (CODE, [0.6492895, 0.6955788]),
                (paper, [0.2187546, 0.2444942]),
                (cds, [0.1097442, 0.1161742]),
                (srss, [0.6272722, 0.6820738]),
                (rmsc, [0.7923943, 0.8183908]),
            ] {
                assert_near(&measured(metric, &tokens, &mask), &expected, metric.name());
            }
        }
    }

    #[test]
    fn all_metrics_rise_as_the_specification_says_when_the_mean_token_is_taken_away() {
        let [_, cds, srss, rmsc] = SpatialMetric::all();
        for device in devices() {
            let (tokens, mask) = tabled(&device);
            let mean = tokens.clone().mean_dim(1);
            let deviation = ((tokens.clone() - mean.clone()).square().sum_dim(1) / 255.0).sqrt();
            let normalized = (tokens - mean * 0.6) / (deviation + 1e-6);
            for (metric, expected) in [
                (CODE, [0.9431532, 0.9615353]),
                (cds, [0.1583227, 0.1628313]),
                (srss, [0.9222890, 0.9490049]),
                (rmsc, [0.9533578, 0.9628531]),
            ] {
                assert_near(&measured(metric, &normalized, &mask), &expected, metric.name());
            }
        }
    }

    /// Tokens of two channels, each along one of the axes: K is 1 for equal letters and 0 for different ones.
    fn letters(words: &[&str], device: &Device) -> Tensor<3> {
        let values: Vec<f32> =
            words.concat().chars().flat_map(|letter| if letter == 'a' { [2.0, 0.0] } else { [0.0, 3.0] }).collect();
        Tensor::from_data(TensorData::new(values, [words.len(), words[0].len(), 2]), device)
    }

    #[test]
    fn tiny_grids_have_the_values_worked_by_hand() {
        let device = Device::flex();
        let tokens = letters(&["aaabbb", "ababab"], &device); // 2 rows of 3
        let grid = PatchGrid::new(2, 3);
        // Pairs at distances 1, 2, 3: 7, 6, 2. In `aaa/bbb` alike are 4 (in rows), 2 (ends of rows), 0.
        // In `aba/bab` neighbors differ always: 0, all 6, none of the 2.
        let values = |metric: SpatialMetric| to_host(metric.measure(tokens.clone(), None, grid).unwrap());
        let lds = |near, far| SpatialMetric::Lds(Lds { mode: LdsMode::Paper, near: Some(near), far: Some(far) });
        let check = |found: Vec<f32>, expected: [f64; 2]| {
            assert_near(&found.into_iter().map(f64::from).collect::<Vec<_>>(), &expected, "by hand")
        };
        check(values(lds(2.0, 3.0)), [4.0 / 7.0, 0.0]);
        check(values(lds(3.0, 3.0)), [6.0 / 13.0, 6.0 / 13.0]);
        // Half of two rows: nothing is closer than 1, and everything is far.
        check(values(SpatialMetric::all()[0]), [-6.0 / 15.0, -6.0 / 15.0]);
        // Slope through (1, 4/7), (2, 2/6), (3, 0), and through (1, 0), (2, 1), (3, 0).
        check(values(SpatialMetric::Cds(Cds { max_distance: 9 })), [2.0 / 7.0, 0.0]);
        check(values(SpatialMetric::Cds(Cds { max_distance: 2 })), [4.0 / 7.0 - 2.0 / 6.0, -1.0]);
        check(values(SpatialMetric::Cds(Cds { max_distance: 1 })), [0.0, 0.0]);
        // Half of the tokens on either axis: each is √½ from the middle.
        check(values(SpatialMetric::Rmsc(Rmsc { sqrt: true })), [0.5f64.sqrt(); 2]);
        check(values(SpatialMetric::Rmsc(Rmsc { sqrt: false })), [0.5; 2]);
    }

    #[test]
    fn srss_compares_the_object_with_what_is_far_and_is_nan_where_there_is_nothing_to_compare() {
        let device = Device::flex();
        let tokens = letters(&["aabbab"; 6], &device); // one row of 6
        let masks: [[f32; 6]; 6] = [
            [1.0, 1.0, 0.0, 0.0, 0.0, 0.0], // anchors 0 and 1: positives alike; far are 3 4 5 and 4 5
            [1.0, 0.0, 0.0, 0.0, 0.0, 0.0], // a single token
            [0.0; 6],                       // no object
            [1.0; 6],                       // nothing around it
            [1.0, 0.0, 1.0, 0.0, 0.0, 0.0], // two tokens that are no neighbors
            [0.0, 0.0, 1.0, 1.0, 1.0, 0.0], // see below
        ];
        let mask = Tensor::from_data(TensorData::new(masks.concat(), [6, 6]), &device);
        let distances = Srss { far: 3, ..Default::default() };
        let metric = SpatialMetric::Srss(distances);
        let found = to_host(metric.measure(tokens, Some(mask), PatchGrid::new(1, 6)).unwrap());
        // Anchor 0: 1 − 1/3; anchor 1: 1 − 1/2. In the last image anchors 2 and 3 are `b`, 4 is `a`; 5 is far from 2,
        // 0 from 3 and 4, 1 from 4. Anchor 2: 1 − K(2, 5) = 0. Anchor 3: 1/2 − 0. Anchor 4: 0 − 1.
        let expected = [(2.0 / 3.0 + 0.5) / 2.0, f64::NAN, f64::NAN, f64::NAN, f64::NAN, (0.0 + 0.5 - 1.0) / 3.0];
        for (found, expected) in found.iter().zip(expected) {
            let is_right = (f64::from(*found) - expected).abs() < 1e-6 || found.is_nan() && expected.is_nan();
            assert!(is_right, "{found}, expected {expected}");
        }
        let values: Vec<f64> = found.into_iter().map(f64::from).collect();
        assert!((mean_of_numbers(&values) - (7.0 / 12.0 - 1.0 / 6.0) / 2.0).abs() < 1e-6);
        assert!(mean_of_numbers(&values[1..5]).is_nan() && mean_of_numbers(&[]).is_nan());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let tokens = letters(&["aabbab"], &Device::flex());
        let [lds, _, srss, _] = SpatialMetric::all();
        let refused =
            |metric: SpatialMetric, mask, grid| metric.measure(tokens.clone(), mask, grid).unwrap_err().to_string();
        assert!(refused(lds, None, PatchGrid::new(2, 4)).contains("6 tokens do not fill a grid of 2x4"));
        assert!(refused(srss, None, PatchGrid::new(2, 3)).contains("needs masks"));
        let mask = Tensor::<2>::zeros([1, 5], &Device::flex());
        assert!(refused(srss, Some(mask), PatchGrid::new(2, 3)).contains("expected [1, 6]"));
    }

    #[test]
    fn a_single_token_and_a_constant_image_have_no_structure() {
        for (grid, count) in [(PatchGrid::new(1, 1), 1), (PatchGrid::new(5, 7), 35)] {
            let tokens = Tensor::<3>::ones([3, count, 12], &Device::flex());
            for metric in SpatialMetric::all().into_iter().filter(|metric| !metric.needs_mask()) {
                let found = to_host(metric.measure(tokens.clone(), None, grid).unwrap());
                assert!(found.iter().all(|value| value.abs() < 1e-3), "{}: {found:?}", metric.name());
            }
        }
    }

    #[test]
    fn a_metric_reads_as_a_recipe_writes_it() {
        let read = |text: &str| serde_yaml::from_str::<SpatialMetric>(text);
        assert_eq!(read("{type: lds, mode: code}").unwrap(), CODE);
        assert_eq!(read("{type: srss, far: 4}").unwrap(), SpatialMetric::Srss(Srss { far: 4, ..Default::default() }));
        assert!(read("{type: lds, fra: 4}").is_err() && read("{type: ldz}").is_err());
    }
}
