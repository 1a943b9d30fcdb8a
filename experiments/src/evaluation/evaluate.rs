//! Measures samples, seed by seed, and gathers the numbers.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use realign::burn::tensor::Device;
use realign::eval::generation::{Collected, Measure, Measurement, Reference};

use super::networks::Network;
use super::result::Measured;
use super::source::Take;

/// Networks with their references, and how often the bootstrap draws.
#[derive(Debug)]
pub struct Evaluator<'a> {
    /// Each with its reference.
    pub networks: Vec<(Network<'a>, Reference)>,
    /// Draws of the bootstrap; 0 is none.
    pub bootstrap: usize,
    /// Where it is computed.
    pub device: &'a Device,
}

impl Evaluator<'_> {
    /// Numbers of the pictures that `pictures` hands on once, by name.
    ///
    /// # Errors
    /// Pictures cannot be had, or are too few.
    pub fn measure(
        &self,
        pictures: impl FnOnce(&mut Take<'_>) -> Result<()>,
    ) -> Result<BTreeMap<String, (Measurement, String)>> {
        let mut collected = vec![Collected::default(); self.networks.len()];
        pictures(&mut |size, bytes| {
            for ((network, _), collected) in self.networks.iter().zip(&mut collected) {
                collected.add(&*network.built, bytes, size, &network.metrics, self.device)?;
            }
            Ok(())
        })?;
        let mut measured = BTreeMap::new();
        for ((network, reference), collected) in self.networks.iter().zip(&collected) {
            let (metrics, parts) = (&network.metrics, network.config.score_parts());
            let measure = Measure { metrics, parts, bootstrap: self.bootstrap, device: self.device };
            let found = measure.run(collected, reference).with_context(|| network.config.label())?;
            for measurement in found {
                let name = network.config.metric_name(measurement.metric);
                measured.insert(name, (measurement, network.config.convention()));
            }
        }
        Ok(measured)
    }
}

/// The numbers of all seeds as one: with one seed its value and interval, with several their mean, range and spread.
pub fn gather(seeds: Vec<BTreeMap<String, (Measurement, String)>>) -> BTreeMap<String, Measured> {
    let mut gathered = BTreeMap::new();
    for (name, (first, convention)) in seeds.first().into_iter().flatten() {
        let by_seed: Vec<f64> = seeds.iter().filter_map(|seed| Some(seed.get(name)?.0.value)).collect();
        let count = by_seed.len() as f64;
        let value = by_seed.iter().sum::<f64>() / count;
        let (low, high, spread) = match by_seed.len() {
            1 => (first.interval.map(|ends| ends[0]), first.interval.map(|ends| ends[1]), None),
            _ => {
                let low = by_seed.iter().copied().fold(f64::INFINITY, f64::min);
                let high = by_seed.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let squares: f64 = by_seed.iter().map(|x| (x - value).powi(2)).sum();
                (Some(low), Some(high), Some((squares / (count - 1.0)).sqrt()))
            }
        };
        let measured = Measured { value, low, high, convention: convention.clone(), by_seed, spread };
        gathered.insert(name.clone(), measured);
    }
    gathered
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::eval::generation::Metric;

    fn seed(value: f64, interval: Option<[f64; 2]>) -> BTreeMap<String, (Measurement, String)> {
        let measurement = Measurement { metric: Metric::Precision, value, interval };
        [("precision".to_string(), (measurement, "adm".to_string()))].into()
    }

    #[test]
    fn one_seed_keeps_its_interval_and_several_give_mean_range_and_spread() {
        let one = &gather(vec![seed(0.5, Some([0.4, 0.6]))])["precision"];
        assert_eq!((one.value, one.low, one.high, one.spread), (0.5, Some(0.4), Some(0.6), None));
        let three = &gather(vec![seed(1.0, None), seed(2.0, None), seed(6.0, None)])["precision"];
        assert_eq!((three.value, three.low, three.high), (3.0, Some(1.0), Some(6.0)));
        assert!((three.spread.unwrap() - 7f64.sqrt()).abs() < 1e-12); // (4 + 1 + 9) / 2
        assert_eq!(three.by_seed, [1.0, 2.0, 6.0]);
    }
}
