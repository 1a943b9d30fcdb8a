//! The `sam2` encoder: the trunk of SAM 2's image encoder.
//!
//! Source: Ravi et al., 2024; iREPA `jit/vision_encoder.py`, `SAM2Encoder` (`sam2-vit-*`). The neck behind the trunk
//! does not reach the features and is left out. All in f32.

use anyhow::{Context, Result};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::nn::{ParamBuilder, Resampling};
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, Features, PatchGrid};
use realign::weights::KeyMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::network_input::{IMAGENET, network_input, token_grid};
use super::super::weight_choice::{PublishedFile, WeightChoice};
use super::hiera::{Hiera, HieraSizes};

/// `sam2`: the last map of SAM 2's image trunk, without its neck. Pictures are doubled in size first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sam2Config {
    /// Size of the trunk.
    pub size: Sam2Size,
    /// File of weights; the published one in `weights_dir` when left out. `random` draws them.
    pub weights: Option<WeightChoice>,
    /// Seed of `weights: random`.
    pub seed: u64,
}

/// Size of the trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sam2Size {
    /// Small: 16 blocks, 768 channels at the end, 33.9 million parameters.
    #[default]
    S,
    /// Base plus: 24 blocks, 896 channels at the end, 68.7 million parameters.
    B,
    /// Large: 48 blocks, 1152 channels at the end, 212.1 million parameters.
    L,
}

impl Sam2Size {
    /// Sizes of the published network.
    pub fn sizes(self) -> HieraSizes {
        let (width, heads, blocks, windows, global_blocks, background) = match self {
            Self::S => (96, 1, [1, 2, 11, 2], [8, 4, 14, 7], [7, 10, 13], 7),
            Self::B => (112, 2, [2, 3, 16, 3], [8, 4, 14, 7], [12, 16, 20], 14),
            Self::L => (144, 2, [2, 6, 36, 4], [8, 4, 16, 8], [23, 33, 43], 7),
        };
        HieraSizes {
            widths: [1, 2, 4, 8].map(|factor| factor * width).to_vec(),
            heads: [1, 2, 4, 8].map(|factor| factor * heads).to_vec(),
            blocks: blocks.to_vec(),
            windows: windows.to_vec(),
            global_blocks: global_blocks.to_vec(),
            num_pooled_stages: 3,
            background: [background; 2],
            mlp_ratio: 4.0,
            patch: [7, 4, 3],
        }
    }

    fn file(self) -> PublishedFile {
        let (name, url) = match self {
            Self::S => ("sam2-hiera-small.safetensors", "https://huggingface.co/facebook/sam2-hiera-small/resolve/main/model.safetensors"),
            Self::B => ("sam2-hiera-base-plus.safetensors", "https://huggingface.co/facebook/sam2-hiera-base-plus/resolve/main/model.safetensors"),
            Self::L => ("sam2-hiera-large.safetensors", "https://huggingface.co/facebook/sam2-hiera-large/resolve/main/model.safetensors"),
        };
        PublishedFile { name, url }
    }
}

/// Names in published files: transformers' and those of SAM 2's own code.
pub fn layout() -> KeyMap {
    let same_or = |map: KeyMap, ours: &'static str, theirs| map.rename(ours, ours).rename(ours, theirs);
    let map = KeyMap::new().strip(&["model."]).strip(&[
        "vision_encoder.backbone.",
        "image_encoder.trunk.",
        "backbone.",
        "trunk.",
    ]);
    let map = same_or(map, "patch_embed.projection.*", "patch_embed.proj.*");
    let map = same_or(map, "blocks.*.layer_norm1.*", "blocks.*.norm1.*");
    let map = same_or(map, "blocks.*.layer_norm2.*", "blocks.*.norm2.*");
    let map = same_or(map, "blocks.*.mlp.proj_in.*", "blocks.*.mlp.layers.0.*");
    same_or(map, "blocks.*.mlp.proj_out.*", "blocks.*.mlp.layers.1.*")
}

#[typetag::serde(name = "sam2")]
impl EncoderConfig for Sam2Config {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        let weights = self.size.file().choose(self.weights.as_ref(), &ctx.weights_dir);
        let channels = self.size.sizes().channels();
        Ok(EncoderSpec { grid: token_grid("sam2", ctx)?, channels, weights: weights.into_iter().collect() })
    }

    fn build(&self, ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>> {
        let (grid, sizes) = (token_grid("sam2", ctx)?, self.size.sizes());
        let trunk = Hiera::new(&sizes, &ParamBuilder::new(device, self.seed))?;
        let trunk = self.size.file().fill(trunk, &layout(), self.weights.as_ref(), &ctx.weights_dir);
        Ok(Box::new(Sam2::new(trunk.context("encoder `sam2`")?, &sizes, grid)))
    }
}

realign::register!(EncoderConfig as "encoder": Sam2Config);

/// The encoder.
#[derive(Module, Debug)]
pub struct Sam2 {
    trunk: Hiera,
    input: [usize; 2],
}

impl Sam2 {
    /// A trunk whose result has this grid.
    pub fn new(trunk: Hiera, sizes: &HieraSizes, grid: PatchGrid) -> Self {
        Self { trunk, input: [grid.rows, grid.columns].map(|count| count * sizes.stride()) }
    }
}

impl Encoder for Sam2 {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let pixels = network_input("sam2", images, self.input, Resampling::Bicubic, IMAGENET)?;
        let map = self.trunk.forward(pixels);
        let [batch, rows, columns, channels] = map.dims();
        Ok(Features { tokens: map.reshape([batch, rows * columns, channels]), class_token: None })
    }
}
