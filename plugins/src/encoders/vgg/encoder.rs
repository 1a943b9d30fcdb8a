//! The `vgg` encoder: the map behind the fourth pooling.
//!
//! Source: iREPA `jit/vision_encoder.py`, `VGGEncoder` (`vgg-*-*`), which takes VGG-16. All in f32.

use anyhow::{Context, Result};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::nn::{ParamBuilder, Resampling};
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, Features};
use realign::weights::KeyMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::network_input::{IMAGENET, network_input, token_grid};
use super::super::weight_choice::{PublishedFile, WeightChoice};
use super::network::{Layer, VggFeatures};

const STRIDE: usize = 16; // pixels of the picture for one token, behind four poolings
/// What the published file of VGG-16 was trained with: the colors' mean taken off their values in 0..255.
const NATIVE: [[f32; 3]; 2] = [[0.482_35, 0.458_82, 0.407_84], [1.0 / 255.0; 3]];

/// `vgg`: 512 channels behind the fourth pooling of a network for classification.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VggConfig {
    /// Which layer list.
    pub size: VggSize,
    /// Whether colors are normalized as the file of VGG-16 was trained. The published encoder takes ImageNet's mean and
    /// deviation instead.
    pub native_norm: bool,
    /// File of weights; the published one in `weights_dir` when left out. `random` draws them.
    pub weights: Option<WeightChoice>,
    /// Seed of `weights: random`.
    pub seed: u64,
}

/// Which layer list, up to the fourth pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum VggSize {
    /// VGG-16: ten convolutions.
    #[default]
    #[serde(rename = "16")]
    Vgg16,
    /// VGG-19: twelve convolutions.
    #[serde(rename = "19")]
    Vgg19,
}

impl VggSize {
    /// The layer list with these numbers of channels; published ones are 64, 128, 256 and 512.
    pub fn layers(self, widths: [usize; 4]) -> Vec<Layer> {
        let counts = match self {
            Self::Vgg16 => [2, 2, 3, 3],
            Self::Vgg19 => [2, 2, 4, 4],
        };
        let stage = |(width, count)| std::iter::repeat_n(Layer::Conv(width), count).chain([Layer::Pool]);
        widths.into_iter().zip(counts).flat_map(stage).collect()
    }

    fn file(self) -> PublishedFile {
        let (name, url) = match self {
            Self::Vgg16 => ("vgg16_features-amdegroot-88682ab5.pth", "https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth"),
            Self::Vgg19 => ("vgg19-dcbb9e9d.pth", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"),
        };
        PublishedFile { name, url }
    }
}

/// Names in published files: torchvision's; later convolutions and the classifier are not used.
pub fn layout() -> KeyMap {
    KeyMap::new().ignore(&["features.**", "classifier.**"])
}

const WIDTHS: [usize; 4] = [64, 128, 256, 512];

#[typetag::serde(name = "vgg")]
impl EncoderConfig for VggConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        let weights = self.size.file().choose(self.weights.as_ref(), &ctx.weights_dir);
        Ok(EncoderSpec { grid: token_grid("vgg", ctx)?, channels: WIDTHS[3], weights: weights.into_iter().collect() })
    }

    fn build(&self, ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>> {
        let grid = token_grid("vgg", ctx)?;
        let network = VggFeatures::new(&self.size.layers(WIDTHS), &ParamBuilder::new(device, self.seed));
        let network = self.size.file().fill(network, &layout(), self.weights.as_ref(), &ctx.weights_dir);
        let input = [grid.rows * STRIDE, grid.columns * STRIDE];
        Ok(Box::new(Vgg { network: network.context("encoder `vgg`")?, input, native_norm: self.native_norm }))
    }
}

realign::register!(EncoderConfig as "encoder": VggConfig);

/// The encoder.
#[derive(Module, Debug)]
pub struct Vgg {
    /// The convolutions.
    pub network: VggFeatures,
    /// Height and width of the network's pictures.
    pub input: [usize; 2],
    /// Whether colors are normalized as the file of VGG-16 was trained.
    pub native_norm: bool,
}

impl Vgg {
    /// Pixels of the network.
    ///
    /// # Errors
    /// The pictures are not RGB.
    pub fn preprocess(&self, images: Tensor<4>) -> Result<Tensor<4>> {
        let norm = if self.native_norm { NATIVE } else { IMAGENET };
        network_input("vgg", images, self.input, Resampling::Bilinear, norm)
    }
}

impl Encoder for Vgg {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let map = self.network.forward(self.preprocess(images)?);
        let [batch, channels, rows, columns] = map.dims();
        let tokens = map.permute([0, 2, 3, 1]).reshape([batch, rows * columns, channels]);
        Ok(Features { tokens, class_token: None })
    }
}
