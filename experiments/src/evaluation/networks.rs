//! Feature networks as the command line or a recipe names them.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use realign::burn::tensor::Device;
use realign::eval::generation::Metric;
use realign::plugin::{FeatureContext, FeatureNetwork, FeatureNetworkConfig};
use realign::recipe::Layered;
use serde::Deserialize;

use super::result::NetworkUsed;
use super::source::short_digest;

/// A network with its weights, and what is measured with it.
#[derive(Debug)]
pub struct Network<'a> {
    /// As it was named.
    pub config: &'a dyn FeatureNetworkConfig,
    /// The network.
    pub built: Box<dyn FeatureNetwork>,
    /// What is measured.
    pub metrics: Vec<Metric>,
}

#[derive(Deserialize)]
struct Typed {
    features: Box<dyn FeatureNetworkConfig>,
}

/// A network given as `--features text`.
///
/// # Errors
/// Its section is wrong.
pub fn read_network(text: &str) -> Result<Box<dyn FeatureNetworkConfig>> {
    let layered = Layered::typed("--features", "features", text)?;
    let Typed { features } = layered.extract()?;
    layered.check(|check| check.within("features", |check| features.validate(check)))?;
    Ok(features)
}

/// A metric given as `--metric text`.
///
/// # Errors
/// It is unknown.
pub fn read_metric(text: &str) -> Result<Metric> {
    let known = || Metric::ALL.map(|metric| serde_json::to_value(metric).unwrap_or_default());
    let word = serde_json::Value::String(text.into());
    serde_json::from_value(word).ok().with_context(|| {
        let words: Vec<String> = known().iter().filter_map(|word| Some(word.as_str()?.to_string())).collect();
        format!("--metric: unknown metric `{text}`; known: {}", words.join(", "))
    })
}

impl<'a> Network<'a> {
    /// Builds the network for pictures of this size.
    ///
    /// # Errors
    /// Nothing would be measured, or a file of weights is absent; the message says how to get it.
    pub fn new(
        config: &'a dyn FeatureNetworkConfig,
        metrics: Vec<Metric>,
        picture_size: [usize; 2],
        weights_dir: &Path,
        device: &Device,
    ) -> Result<Self> {
        let label = config.label();
        ensure!(
            !metrics.is_empty(),
            "nothing that is asked for is measured with feature network `{label}`; leave it out"
        );
        let context = FeatureContext { picture_size, weights_dir: weights_dir.to_path_buf() };
        if let Some(file) = config.weights(&context).iter().find(|file| !file.path.exists()) {
            bail!(
                "feature network `{label}` needs `{}`, which does not exist; get it with\n  {}",
                file.path.display(),
                file.command
            );
        }
        Ok(Self { config, built: config.build(&context, device)?, metrics })
    }

    /// What tells its statistics from those of other networks: a hash of its type, settings and weights.
    ///
    /// # Errors
    /// Its settings cannot be written.
    pub fn tag(&self) -> Result<String> {
        let NetworkUsed { mut network, digest } = self.used()?;
        // The digest says which weights they are, wherever they lie.
        if let Some(settings) = network.as_object_mut() {
            settings.remove("weights");
        }
        Ok(short_digest(&serde_json::json!([network, digest]).to_string()))
    }

    /// What the result says of it.
    ///
    /// # Errors
    /// Its settings cannot be written.
    pub fn used(&self) -> Result<NetworkUsed> {
        let network = serde_json::to_value(self.config).context("cannot write a network's settings")?;
        Ok(NetworkUsed { network, digest: self.built.digest() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::registry;

    #[test]
    fn wrong_networks_and_metrics_are_refused_with_the_nearest() {
        let message = read_network("shape_net").unwrap_err().to_string();
        assert!(message.contains("did you mean `shapes_net`"), "{message}");
        let message = read_network("{type: encoder, encoder: {type: hog, channels: 7}}").unwrap_err().to_string();
        assert!(message.contains("features.encoder.channels"), "{message}");
        assert!(read_metric("fid").unwrap_err().to_string().contains("frechet_distance"));
        assert_eq!(read_metric("recall").unwrap(), Metric::Recall);
    }

    #[test]
    fn absent_weights_come_with_the_command_that_gets_them() {
        let config = read_network("inception").unwrap();
        let built = Network::new(&*config, config.metrics(), [32, 32], Path::new("no/such"), &Device::flex());
        let message = built.unwrap_err().to_string();
        assert!(message.contains("curl") && message.contains("no/such/pt_inception"), "{message}");
    }

    /// The published names stand for the published networks: whatever else is linked in has its own name in its numbers'.
    #[test]
    fn no_number_of_another_network_is_ever_called_fid() {
        let mut num_found = 0;
        for name in registry::names("feature_network") {
            let config = read_network(name).or_else(|_| read_network("{type: encoder, encoder: {type: hog}}")).unwrap();
            for metric in Metric::ALL {
                let called = config.metric_name(metric);
                let is_published = match name {
                    "inception" => ["fid", "sfid", "inception_score", "precision", "recall"].contains(&&*called),
                    "clip" => called == "cmmd",
                    _ => false,
                };
                assert!(is_published || called.contains(&config.label()), "{name}: {called}");
                assert!(is_published || !["fid", "inception_score", "cmmd"].iter().any(|word| called.contains(word)));
            }
            num_found += 1;
        }
        assert!(num_found >= 4);
        let random = read_network("{type: inception, weights: random}").unwrap();
        assert!(Metric::ALL.iter().all(|metric| random.metric_name(*metric).contains("inception_random")));
    }
}
