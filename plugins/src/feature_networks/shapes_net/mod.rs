//! `shapes_net`: a small network of our own, so that samples can be measured without a download.
//!
//! `recipes/shapes-net.yaml` trains it on the data set `shapes`; its weights are part of the program.

mod encoder;
mod network;

use anyhow::{Context, Result, ensure};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::eval::generation::Metric;
use realign::nn::{Linear, ParamBuilder};
use realign::plugin::{FeatureContext, FeatureNetwork, FeatureNetworkConfig, NetworkOutput};
use realign::weights::{digest, load_state_dict, parse_safetensors};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use encoder::ShapesNetEncoder;
pub use network::ShapesNet;

const CLASSES: usize = 16; // four forms in four colors
const CONVOLUTIONS: &[u8] = include_bytes!("encoder.safetensors");
const HEAD: &[u8] = include_bytes!("head.safetensors");

/// `shapes_net`: features of a small network that was trained on the data set `shapes`; part of the program.
///
/// For the demo, and for comparing runs on pictures of this kind. It knows four forms and four colors and nothing of
/// photographs. Its numbers carry its name and have nothing to do with FID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShapesNetConfig {}

#[typetag::serde(name = "shapes_net")]
impl FeatureNetworkConfig for ShapesNetConfig {
    fn label(&self) -> String {
        "shapes_net".into()
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::FrechetDistance, Metric::Score, Metric::Precision, Metric::Recall]
    }

    fn build(&self, _ctx: &FeatureContext, device: &Device) -> Result<Box<dyn FeatureNetwork>> {
        let params = ParamBuilder::new(device, 0);
        let network = ShapesNet::new(&params);
        let head = Linear::new(&params.child("head"), network::CHANNELS, CLASSES);
        Ok(Box::new(Classifier {
            network: load_state_dict(network, parse_safetensors(CONVOLUTIONS)?).context("shapes_net")?,
            head: load_state_dict(head, parse_safetensors(HEAD)?).context("shapes_net")?,
        }))
    }
}

realign::register!(FeatureNetworkConfig as "feature_network": ShapesNetConfig);

/// The network with the layer that names classes.
#[derive(Module, Debug)]
struct Classifier {
    network: ShapesNet,
    head: Linear,
}

impl FeatureNetwork for Classifier {
    fn features(&self, images: Tensor<4>) -> Result<NetworkOutput> {
        let [_, colors, height, width] = images.dims();
        ensure!(
            colors == 3 && height > 0 && width > 0,
            "feature network `shapes_net`: found pictures of shape {:?}; they must be RGB",
            images.dims()
        );
        let features = self.network.forward(images).mean_dim(1).squeeze_dim::<2>(1);
        let logits = self.head.forward(features.clone());
        Ok(NetworkOutput { features, spatial: None, logits: Some(logits) })
    }

    fn digest(&self) -> String {
        digest(self)
    }
}
