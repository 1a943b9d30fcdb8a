//! `inception`: the network behind the published FID, sFID, Inception Score, precision and recall.

mod blocks;
mod network;
mod preprocess;

use anyhow::{Context, Result, ensure};
use realign::burn::tensor::{Device, Tensor};
use realign::eval::generation::{Metric, ScoreParts};
use realign::nn::ParamBuilder;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{FeatureContext, FeatureNetwork, FeatureNetworkConfig, NetworkOutput};
use realign::weights::{PublishedWeights, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use network::Inception;
pub use preprocess::Convention;

use crate::encoders::weight_choice::{PublishedFile, WeightChoice, fit};

/// `inception`: Inception-v3 of 2015, whose FID, sFID, Inception Score, precision and recall papers quote.
///
/// Its weights are pytorch-fid's file, which holds the same numbers as TensorFlow's graph.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InceptionConfig {
    /// Whose numbers are meant: how pictures become pixels, and how the score divides them.
    pub convention: Convention,
    /// File of weights; the published one in `weights_dir` when left out. `random` draws them, and then no number has a
    /// published name.
    pub weights: Option<WeightChoice>,
}

const FILE: PublishedFile = PublishedFile {
    name: "pt_inception-2015-12-05-6726825d.pth",
    url: "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    license: "Apache-2.0",
};

impl InceptionConfig {
    fn is_random(&self) -> bool {
        self.weights == Some(WeightChoice::Random)
    }
}

#[typetag::serde(name = "inception")]
impl FeatureNetworkConfig for InceptionConfig {
    fn label(&self) -> String {
        if self.is_random() { "inception_random".into() } else { "inception".into() }
    }

    fn metrics(&self) -> Vec<Metric> {
        match self.convention {
            Convention::Adm => Metric::ALL.into_iter().filter(|metric| *metric != Metric::Discrepancy).collect(),
            Convention::TorchFidelity => vec![Metric::FrechetDistance, Metric::Score],
            Convention::PytorchFid => vec![Metric::FrechetDistance],
        }
    }

    fn metric_name(&self, metric: Metric) -> String {
        if self.is_random() {
            return metric.of_network(&self.label());
        }
        match metric {
            Metric::FrechetDistance => "fid".into(),
            Metric::SpatialFrechetDistance => "sfid".into(),
            Metric::Score => "inception_score".into(),
            Metric::Precision => "precision".into(),
            Metric::Recall => "recall".into(),
            Metric::Discrepancy => metric.of_network("inception"),
        }
    }

    fn convention(&self) -> String {
        self.convention.name().into()
    }

    fn score_parts(&self) -> ScoreParts {
        match self.convention {
            Convention::TorchFidelity => ScoreParts::Shuffled(10),
            Convention::Adm | Convention::PytorchFid => ScoreParts::Size(5000),
        }
    }

    fn owns_unnamed_statistics(&self) -> bool {
        !self.is_random()
    }

    fn weights(&self, ctx: &FeatureContext) -> Vec<WeightFile> {
        FILE.choose(self.weights.as_ref(), &ctx.weights_dir).into_iter().collect()
    }

    fn build(&self, ctx: &FeatureContext, device: &Device) -> Result<Box<dyn FeatureNetwork>> {
        let network = Inception::new(&ParamBuilder::new(device, 0));
        let network = FILE.fill(network, &Inception::layout(), self.weights.as_ref(), &ctx.weights_dir);
        let network = network.context("feature network `inception`")?;
        Ok(Box::new(InceptionFeatures { network, convention: self.convention }))
    }
}

realign::register!(FeatureNetworkConfig as "feature_network": InceptionConfig);

fn published() -> Vec<PublishedWeights> {
    vec![FILE.published("pytorch-fid", |_, path| {
        fit(Inception::new(&ParamBuilder::new(&Device::flex(), 0)), &Inception::layout(), path)
    })]
}

realign::publish_weights!(published);

#[derive(Debug)]
struct InceptionFeatures {
    network: Inception,
    convention: Convention,
}

impl FeatureNetwork for InceptionFeatures {
    fn features(&self, images: Tensor<4>) -> Result<NetworkOutput> {
        let [_, colors, height, width] = images.dims();
        ensure!(
            colors == 3 && height > 0 && width > 0,
            "feature network `inception`: found pictures of shape {:?}; they must be RGB",
            images.dims()
        );
        Ok(self.network.forward(self.convention.pixels(images)))
    }

    fn digest(&self) -> String {
        digest(&self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::weights::{HostTensor, parameters, to_host, write_safetensors};

    fn context(weights_dir: &std::path::Path) -> FeatureContext {
        FeatureContext { picture_size: [32, 32], weights_dir: weights_dir.into() }
    }

    #[test]
    fn tensors_are_those_of_the_published_file() {
        let params = parameters(&Inception::new(&ParamBuilder::new(&Device::flex(), 0)));
        // 94 layers with a kernel and four tensors of the norm, and the last layer's weight; the file has a count of
        // batches for each layer and a bias more: 566.
        assert_eq!(params.len(), 94 * 5 + 1);
        let count: usize = params.iter().map(|param| param.shape.iter().product::<usize>()).sum();
        assert_eq!(count + 94 + 1008, 23_885_392 + 94);
    }

    #[test]
    fn one_picture_gives_features_of_every_kind() {
        let config = InceptionConfig { weights: Some(WeightChoice::Random), ..Default::default() };
        let device = realign::ops::open(realign::ops::DeviceChoice::Auto).unwrap();
        let network = config.build(&context("w".as_ref()), &device).unwrap();
        let found = network.features(Tensor::full([1, 3, 32, 32], 200.0, &device)).unwrap();
        assert_eq!(found.features.dims(), [1, 2048]);
        assert_eq!(found.spatial.unwrap().dims(), [1, 2023]);
        assert_eq!(found.logits.unwrap().dims(), [1, 1008]);
        assert!(to_host(found.features).iter().all(|value| value.is_finite()));
        assert!(network.features(Tensor::zeros([1, 1, 32, 32], &device)).is_err());
    }

    #[test]
    fn a_file_of_another_network_is_refused_and_an_absent_one_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrong.safetensors");
        let mut published = realign::weights::StateDict::new();
        published.insert("conv1.weight".into(), HostTensor { shape: vec![1], values: vec![1.0] });
        write_safetensors(&path, &published).unwrap();
        let config = InceptionConfig { weights: Some(WeightChoice::File(path)), ..Default::default() };
        let message = format!("{:#}", config.build(&context(dir.path()), &Device::flex()).unwrap_err());
        assert!(message.contains("wrong.safetensors") && message.contains("Conv2d_1a_3x3.bn.bias"), "{message}");
        let absent = InceptionConfig::default().weights(&context(dir.path()));
        assert!(absent[0].command.contains("pytorch-fid/releases"), "{}", absent[0].command);
    }

    #[test]
    fn published_names_need_published_weights() {
        let random = InceptionConfig { weights: Some(WeightChoice::Random), ..Default::default() };
        assert_eq!(InceptionConfig::default().metric_name(Metric::FrechetDistance), "fid");
        assert_eq!(random.metric_name(Metric::FrechetDistance), "fd_inception_random");
        assert!(!random.owns_unnamed_statistics());
    }
}
