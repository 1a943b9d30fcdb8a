//! The `vgg` encoder: the map behind the fourth pooling.
//!
//! Source: iREPA `jit/vision_encoder.py`, `VGGEncoder` (`vgg-*-*`), which takes VGG-16. All in f32.

use std::path::Path;

use anyhow::{Context, Result};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::nn::{ParamBuilder, Resampling};
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, Features};
use realign::weights::{KeyMap, PublishedWeights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::network_input::{IMAGENET, network_input, token_grid};
use super::super::weight_choice::{PublishedFile, WeightChoice, fit, notes};
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
#[serde(rename_all = "snake_case")]
pub enum VggSize {
    /// VGG-16: ten convolutions.
    #[default]
    Vgg16,
    /// VGG-19: twelve convolutions.
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
            Self::Vgg16 => (
                "vgg16_features-amdegroot-88682ab5.pth",
                "https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth",
            ),
            Self::Vgg19 => ("vgg19-dcbb9e9d.pth", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"),
        };
        PublishedFile { name, url, license: "BSD-3-Clause" }
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

    fn notes(&self, _ctx: &EncoderContext) -> Result<Vec<String>> {
        let network = VggFeatures::new(&self.size.layers(WIDTHS), &ParamBuilder::new(&Device::flex(), self.seed));
        Ok(notes(&network, self.weights.as_ref(), self.seed))
    }
}

realign::register!(EncoderConfig as "encoder": VggConfig);

const SIZES: [VggSize; 2] = [VggSize::Vgg16, VggSize::Vgg19];

fn published() -> Vec<PublishedWeights> {
    SIZES.map(|size| size.file().published("torchvision", fit_published)).into()
}

realign::publish_weights!(published);

fn fit_published(weights: &PublishedWeights, path: &Path) -> Result<usize> {
    let size = SIZES.into_iter().find(|size| size.file().name == weights.file).context("no such file")?;
    let network = VggFeatures::new(&size.layers(WIDTHS), &ParamBuilder::new(&Device::flex(), 0));
    fit(network, &layout(), path)
}

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

#[cfg(test)]
mod tests {
    use realign::plugin::PatchGrid;
    use realign::weights::{parameters, state_dict, to_host};

    use super::*;

    fn network(size: VggSize, widths: [usize; 4]) -> VggFeatures {
        VggFeatures::new(&size.layers(widths), &ParamBuilder::new(&Device::flex(), 3))
    }

    #[test]
    fn parameters_are_torchvisions_by_number_and_name() {
        let count =
            |size| parameters(&network(size, WIDTHS)).iter().map(|p| p.shape.iter().product::<usize>()).sum::<usize>();
        assert_eq!([VggSize::Vgg16, VggSize::Vgg19].map(count), [7_635_264usize, 10_585_152]);
        let names = |size: VggSize| -> Vec<String> {
            let names = parameters(&network(size, WIDTHS)).into_iter().map(|param| param.name);
            names.filter_map(|name| Some(name.strip_prefix("features.")?.strip_suffix(".bias")?.to_string())).collect()
        };
        assert_eq!(names(VggSize::Vgg16), ["0", "2", "5", "7", "10", "12", "14", "17", "19", "21"]);
        assert_eq!(names(VggSize::Vgg19), ["0", "2", "5", "7", "10", "12", "14", "16", "19", "21", "23", "25"]);
    }

    #[test]
    fn later_layers_of_a_published_file_are_left_aside_and_a_missing_one_is_not() {
        let network = network(VggSize::Vgg19, [3, 5, 7, 9]);
        let (ours, params) = (state_dict(&network), parameters(&network));
        let mut published = ours.clone();
        for extra in ["features.28.weight", "classifier.0.weight"] {
            published.insert(extra.into(), ours["features.0.weight"].clone());
        }
        assert_eq!(layout().import(&published, &params).unwrap(), ours);
        published.remove("features.25.bias");
        assert!(layout().import(&published, &params).unwrap_err().to_string().contains("features.25.bias"));
    }

    #[test]
    fn the_native_norm_takes_the_mean_off_bytes() {
        let vgg = |native_norm| Vgg { network: network(VggSize::Vgg16, [3, 5, 7, 9]), input: [32, 48], native_norm };
        let white = Tensor::<4>::ones([1, 3, 20, 20], &Device::flex()) * 255.0;
        let found = to_host(vgg(true).preprocess(white.clone()).unwrap());
        assert!((found[0] - (1.0 - 0.482_35) * 255.0).abs() < 1e-3, "{}", found[0]);
        let found = to_host(vgg(false).preprocess(white.clone()).unwrap());
        assert!((found[0] - (1.0 - 0.485) / 0.229).abs() < 1e-5, "{}", found[0]);
        assert_eq!(vgg(false).encode(white).unwrap().tokens.dims(), [1, 6, 9]);
    }

    #[test]
    fn random_weights_need_no_file_and_are_labeled() {
        let config = VggConfig { weights: Some(WeightChoice::Random), ..Default::default() };
        let ctx = EncoderContext { image_size: 64, backbone_grid: PatchGrid::new(2, 3), weights_dir: "weights".into() };
        assert!(config.spec(&ctx).unwrap().weights.is_empty());
        assert!(config.notes(&ctx).unwrap()[1].starts_with("RANDOM WEIGHTS"));
        let tokens = config.build(&ctx, &Device::flex()).unwrap().encode(Tensor::ones([1, 3, 64, 64], &Device::flex()));
        assert_eq!(tokens.unwrap().tokens.dims(), [1, 6, 512]);
        assert!(VggConfig::default().build(&ctx, &Device::flex()).is_err());
    }
}
