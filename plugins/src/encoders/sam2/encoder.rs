//! The `sam2` encoder: the trunk of SAM 2's image encoder.
//!
//! Source: Ravi et al., 2024; iREPA `jit/vision_encoder.py`, `SAM2Encoder` (`sam2-vit-*`). The neck behind the trunk
//! does not reach the features and is left out. All in f32.

use std::path::Path;

use anyhow::{Context, Result};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::nn::{ParamBuilder, Resampling};
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, Features, PatchGrid};
use realign::weights::{KeyMap, PublishedWeights};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::network_input::{IMAGENET, network_input, token_grid};
use super::super::weight_choice::{PublishedFile, WeightChoice, fit, notes};
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
            Self::S => (
                "sam2-hiera-small.safetensors",
                "https://huggingface.co/facebook/sam2-hiera-small/resolve/main/model.safetensors",
            ),
            Self::B => (
                "sam2-hiera-base-plus.safetensors",
                "https://huggingface.co/facebook/sam2-hiera-base-plus/resolve/main/model.safetensors",
            ),
            Self::L => (
                "sam2-hiera-large.safetensors",
                "https://huggingface.co/facebook/sam2-hiera-large/resolve/main/model.safetensors",
            ),
        };
        PublishedFile { name, url, license: "Apache-2.0" }
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

    fn notes(&self, _ctx: &EncoderContext) -> Result<Vec<String>> {
        let network = Hiera::new(&self.size.sizes(), &ParamBuilder::new(&Device::flex(), self.seed))?;
        Ok(notes(&network, self.weights.as_ref(), self.seed))
    }
}

realign::register!(EncoderConfig as "encoder": Sam2Config);

const SIZES: [Sam2Size; 3] = [Sam2Size::S, Sam2Size::B, Sam2Size::L];

fn published() -> Vec<PublishedWeights> {
    SIZES.map(|size| size.file().published("Hugging Face, Meta", fit_published)).into()
}

realign::publish_weights!(published);

fn fit_published(weights: &PublishedWeights, path: &Path) -> Result<usize> {
    let size = SIZES.into_iter().find(|size| size.file().name == weights.file).context("no such file")?;
    let network = Hiera::new(&size.sizes(), &ParamBuilder::new(&Device::flex(), 0))?;
    fit(network, &layout(), path)
}

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

#[cfg(test)]
mod tests {
    use realign::weights::{StateDict, parameters, state_dict, to_host};

    use super::*;

    fn context(image_size: usize, backbone_grid: PatchGrid) -> EncoderContext {
        EncoderContext { image_size, backbone_grid, weights_dir: "weights".into() }
    }

    fn small() -> HieraSizes {
        HieraSizes {
            widths: vec![6, 10],
            heads: vec![1, 2],
            blocks: vec![1, 2],
            windows: vec![8, 4],
            global_blocks: vec![2],
            num_pooled_stages: 1,
            background: [3, 5],
            mlp_ratio: 1.5,
            patch: [7, 4, 3],
        }
    }

    #[test]
    fn published_sizes_have_as_many_parameters_as_those_of_transformers() {
        let counts = [Sam2Size::S, Sam2Size::B, Sam2Size::L].map(|size| {
            let trunk = Hiera::new(&size.sizes(), &ParamBuilder::new(&Device::flex(), 0)).unwrap();
            parameters(&trunk).iter().map(|param| param.shape.iter().product::<usize>()).sum::<usize>()
        });
        assert_eq!(counts, [33_947_328, 68_675_712, 212_149_296]);
    }

    #[test]
    fn tokens_lie_one_for_16_pixels_and_on_the_backbones_grid_below_256() {
        let spec = |side, grid| Sam2Config::default().spec(&context(side, grid)).unwrap();
        assert_eq!(spec(512, PatchGrid::new(3, 3)).grid, PatchGrid::new(32, 32));
        assert_eq!(
            (spec(64, PatchGrid::new(5, 7)).grid, spec(64, PatchGrid::new(5, 7)).channels),
            (PatchGrid::new(5, 7), 768)
        );
        assert!(Sam2Config::default().spec(&context(300, PatchGrid::new(3, 3))).is_err());
    }

    #[test]
    fn random_weights_need_no_file_and_are_labeled() {
        let config = Sam2Config { weights: Some(WeightChoice::Random), ..Default::default() };
        let ctx = context(256, PatchGrid::new(16, 16));
        assert!(config.spec(&ctx).unwrap().weights.is_empty());
        assert!(config.notes(&ctx).unwrap()[1].starts_with("RANDOM WEIGHTS"));
        let published = Sam2Config::default().spec(&ctx).unwrap().weights;
        assert!(published[0].command.contains("sam2-hiera-small/resolve/main/model.safetensors"));
        assert_eq!(Sam2Config::default().notes(&ctx).unwrap().len(), 1);
    }

    #[test]
    fn pictures_of_any_size_give_the_grid() {
        let trunk = Hiera::new(&small(), &ParamBuilder::new(&Device::flex(), 3)).unwrap();
        let encoder = Sam2::new(trunk, &small(), PatchGrid::new(4, 8));
        let tokens = encoder.encode(Tensor::ones([2, 3, 21, 33], &Device::flex()) * 90.0).unwrap().tokens;
        assert_eq!(tokens.dims(), [2, 32, 10]);
        assert!(encoder.encode(Tensor::ones([2, 1, 21, 33], &Device::flex())).is_err());
    }

    #[test]
    fn both_published_layouts_are_read() {
        let trunk = Hiera::new(&small(), &ParamBuilder::new(&Device::flex(), 3)).unwrap();
        let ours = state_dict(&trunk);
        let named = |prefix: &str, renames: &[(&str, &str)]| -> StateDict {
            let name =
                |name: &str| renames.iter().fold(name.to_string(), |name, (ours, theirs)| name.replace(ours, theirs));
            ours.iter().map(|(ours, tensor)| (format!("{prefix}{}", name(ours)), tensor.clone())).collect()
        };
        let meta = [
            ("projection", "proj"),
            ("layer_norm", "norm"),
            ("mlp.proj_in", "mlp.layers.0"),
            ("mlp.proj_out", "mlp.layers.1"),
        ];
        for mut published in [named("vision_encoder.backbone.", &[]), named("model.image_encoder.trunk.", &meta)] {
            let elsewhere = published.values().next().unwrap().clone();
            published.insert("memory_encoder.weight".into(), elsewhere);
            assert_eq!(layout().import(&published, &parameters(&trunk)).unwrap(), ours);
        }
        assert_eq!(ours["blocks.1.proj.weight"].shape, [10, 6]);
        assert!(to_host(trunk.pos_embed.val()).iter().any(|value| *value != 0.0));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for sizes in [
            HieraSizes { heads: vec![1], ..small() },
            HieraSizes { heads: vec![1, 3], ..small() },
            HieraSizes { windows: vec![7, 4], ..small() },
            HieraSizes { widths: vec![6, 6], ..small() },
            HieraSizes { background: [0, 3], ..small() },
        ] {
            assert!(Hiera::new(&sizes, &ParamBuilder::new(&Device::flex(), 3)).is_err(), "{sizes:?}");
        }
    }
}
