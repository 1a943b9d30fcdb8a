//! The `sam` encoder: the map behind the neck of SAM's image encoder.
//!
//! Source: iREPA `jit/vision_encoder.py`, `SAMEncoder` (`sam-vit-*`): pictures of 1024 pixels, whatever the run's, and
//! a map of 64x64 that is reduced to the run's grid.

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
use super::network::{ImageEncoder, SamSizes};

/// `sam`: 256 channels behind the neck of SAM's image encoder. It sees every picture at 1024 pixels, which is slow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamConfig {
    /// Size of the transformer.
    pub size: SamSize,
    /// File of weights; the published one in `weights_dir` when left out. `random` draws them.
    pub weights: Option<WeightChoice>,
    /// Seed of `weights: random`.
    pub seed: u64,
}

/// Size of the transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SamSize {
    /// Base: 12 blocks of width 768.
    #[default]
    B,
    /// Large: 24 blocks of width 1024.
    L,
    /// Huge: 32 blocks of width 1280.
    H,
}

impl SamSize {
    /// Sizes of the published network.
    pub fn sizes(self) -> SamSizes {
        let (hidden_size, depth, heads) = match self {
            Self::B => (768, 12, 12),
            Self::L => (1024, 24, 16),
            Self::H => (1280, 32, 16),
        };
        SamSizes {
            hidden_size,
            depth,
            heads,
            mlp_size: 4 * hidden_size,
            image_size: 1024,
            patch_size: 16,
            window: 14,
            // The last block of each quarter.
            global_blocks: (1..=4).map(|quarter| quarter * depth / 4 - 1).collect(),
            channels: 256,
            has_positions: true,
            has_places: true,
        }
    }

    fn file(self) -> PublishedFile {
        let (name, url) = match self {
            Self::B => (
                "sam-vit-base.safetensors",
                "https://huggingface.co/facebook/sam-vit-base/resolve/main/model.safetensors",
            ),
            Self::L => (
                "sam-vit-large.safetensors",
                "https://huggingface.co/facebook/sam-vit-large/resolve/main/model.safetensors",
            ),
            Self::H => (
                "sam-vit-huge.safetensors",
                "https://huggingface.co/facebook/sam-vit-huge/resolve/main/model.safetensors",
            ),
        };
        PublishedFile { name, url, license: "Apache-2.0" }
    }
}

/// Names in published files: transformers' and those of SAM's own code.
pub fn layout() -> KeyMap {
    let same_or = |map: KeyMap, ours: &'static str, theirs| map.rename(ours, ours).rename(ours, theirs);
    let map = KeyMap::new().strip(&["vision_encoder.", "image_encoder."]);
    let map = same_or(map, "patch_embed.projection.*", "patch_embed.proj.*");
    let map = same_or(map, "layers.*.layer_norm1.*", "blocks.*.norm1.*");
    let map = same_or(map, "layers.*.layer_norm2.*", "blocks.*.norm2.*");
    let map = same_or(map, "layers.*.attn.**", "blocks.*.attn.**");
    let map = same_or(map, "layers.*.mlp.**", "blocks.*.mlp.**");
    let map = same_or(map, "neck.conv1.*", "neck.0.*");
    let map = same_or(map, "neck.layer_norm1.*", "neck.1.*");
    let map = same_or(map, "neck.conv2.*", "neck.2.*");
    same_or(map, "neck.layer_norm2.*", "neck.3.*")
}

#[typetag::serde(name = "sam")]
impl EncoderConfig for SamConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        let weights = self.size.file().choose(self.weights.as_ref(), &ctx.weights_dir);
        let channels = self.size.sizes().channels;
        Ok(EncoderSpec { grid: token_grid("sam", ctx)?, channels, weights: weights.into_iter().collect() })
    }

    fn build(&self, ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>> {
        let (grid, sizes) = (token_grid("sam", ctx)?, self.size.sizes());
        let network = ImageEncoder::new(&sizes, &ParamBuilder::new(device, self.seed))?;
        let network = self.size.file().fill(network, &layout(), self.weights.as_ref(), &ctx.weights_dir);
        let grid = [grid.rows, grid.columns];
        Ok(Box::new(Sam { network: network.context("encoder `sam`")?, image_size: sizes.image_size, grid }))
    }

    fn notes(&self, _ctx: &EncoderContext) -> Result<Vec<String>> {
        let network = ImageEncoder::new(&self.size.sizes(), &ParamBuilder::new(&Device::flex(), self.seed))?;
        Ok(notes(&network, self.weights.as_ref(), self.seed))
    }
}

realign::register!(EncoderConfig as "encoder": SamConfig);

const SIZES: [SamSize; 3] = [SamSize::B, SamSize::L, SamSize::H];

fn published() -> Vec<PublishedWeights> {
    SIZES.map(|size| size.file().published("Hugging Face, Meta", fit_published)).into()
}

realign::publish_weights!(published);

fn fit_published(weights: &PublishedWeights, path: &Path) -> Result<usize> {
    let size = SIZES.into_iter().find(|size| size.file().name == weights.file).context("no such file")?;
    let network = ImageEncoder::new(&size.sizes(), &ParamBuilder::new(&Device::flex(), 0))?;
    fit(network, &layout(), path)
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Sam {
    network: ImageEncoder,
    image_size: usize,
    grid: [usize; 2],
}

impl Encoder for Sam {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let pixels = network_input("sam", images, [self.image_size; 2], Resampling::Bicubic, IMAGENET)?;
        Ok(Features { tokens: tokens(self.network.forward(pixels), self.grid), class_token: None })
    }
}

/// The map's tokens on a grid: bilinear between its values.
///
/// # Shapes
/// * `map`: `[batch, channels, height, width]`; result: `[batch, grid[0] · grid[1], channels]`
pub fn tokens(map: Tensor<4>, grid: [usize; 2]) -> Tensor<3> {
    let map = Resampling::Bilinear.resize(map, grid).permute([0, 2, 3, 1]);
    let [batch, rows, columns, channels] = map.dims();
    map.reshape([batch, rows * columns, channels])
}

#[cfg(test)]
mod tests {
    use realign::weights::{StateDict, parameters, state_dict};

    use super::*;

    #[test]
    fn published_sizes_have_as_many_parameters_as_those_of_transformers() {
        let counts = [SamSize::B, SamSize::L, SamSize::H].map(|size| {
            let network = ImageEncoder::new(&size.sizes(), &ParamBuilder::new(&Device::flex(), 0)).unwrap();
            parameters(&network).iter().map(|param| param.shape.iter().product::<usize>()).sum::<usize>()
        });
        assert_eq!(counts, [89_670_912, 308_278_272, 637_026_048]);
        assert_eq!(SamSize::L.sizes().global_blocks, [5, 11, 17, 23]);
    }

    #[test]
    fn the_layout_of_the_authors_is_read_too() {
        let sizes = SamSizes {
            hidden_size: 6,
            depth: 2,
            heads: 2,
            mlp_size: 5,
            image_size: 32,
            global_blocks: vec![1],
            ..SamSize::B.sizes()
        };
        let network = ImageEncoder::new(&sizes, &ParamBuilder::new(&Device::flex(), 3)).unwrap();
        let ours = state_dict(&network);
        let renames = [
            ("neck.conv1", "neck.0"),
            ("neck.layer_norm1", "neck.1"),
            ("neck.conv2", "neck.2"),
            ("neck.layer_norm2", "neck.3"),
            ("projection", "proj"),
            ("layers.", "blocks."),
            ("layer_norm", "norm"),
        ];
        let name =
            |name: &str| renames.iter().fold(name.to_string(), |name, (ours, theirs)| name.replace(ours, theirs));
        let published: StateDict =
            ours.iter().map(|(ours, tensor)| (format!("image_encoder.{}", name(ours)), tensor.clone())).collect();
        assert_eq!(layout().import(&published, &parameters(&network)).unwrap(), ours);
    }

    #[test]
    fn a_map_is_reduced_to_the_grid() {
        let map = Tensor::<4>::ones([2, 3, 8, 8], &Device::flex());
        assert_eq!(tokens(map, [5, 7]).dims(), [2, 35, 3]);
    }
}
