//! DINOv2, as far as shapes go: grids and widths are checked, and running it says what is missing.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use realign::burn::tensor::Device;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, EncoderSpec, PatchGrid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `dinov2`: patch tokens of DINOv2 after its last norm. This version checks its shapes and cannot run it yet.
///
/// Source: Oquab et al., 2023; iREPA `ldm/vision_encoder.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DinoV2Config {
    /// Size of the vision transformer.
    pub size: DinoV2Size,
    /// The published weights.
    pub weights: Option<PathBuf>,
}

/// Size of the vision transformer, all with patches of 14.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DinoV2Size {
    /// 12 blocks of width 768.
    #[default]
    B,
    /// 24 blocks of width 1024.
    L,
    /// 40 blocks of width 1536.
    G,
}

impl Default for DinoV2Config {
    fn default() -> Self {
        Self { size: DinoV2Size::B, weights: None }
    }
}

impl DinoV2Config {
    fn file(&self, weights_dir: &Path) -> WeightFile {
        let letter = match self.size {
            DinoV2Size::B => "b",
            DinoV2Size::L => "l",
            DinoV2Size::G => "g",
        };
        let name = format!("dinov2_vit{letter}14_pretrain.pth");
        let path = self.weights.clone().unwrap_or_else(|| weights_dir.join(&name));
        let url = format!("https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{letter}14/{name}");
        WeightFile { command: format!("curl --create-dirs -L -o {} {url}", path.display()), path }
    }
}

#[typetag::serde(name = "dinov2")]
impl EncoderConfig for DinoV2Config {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        // The reference resizes to 224 · (size / 256), patches of 14; below 256 pixels it is silent, and the grid follows.
        let image_size = ctx.image_size;
        let grid = match image_size {
            0..256 => ctx.backbone_grid,
            _ => PatchGrid::new(16 * (image_size / 256), 16 * (image_size / 256)),
        };
        ensure!(grid.tokens() > 0, "pictures of {image_size} pixels have no patch");
        let channels = match self.size {
            DinoV2Size::B => 768,
            DinoV2Size::L => 1024,
            DinoV2Size::G => 1536,
        };
        Ok(EncoderSpec { grid, channels, weights: vec![self.file(&ctx.weights_dir)] })
    }

    fn build(&self, _ctx: &EncoderContext, _device: &Device) -> Result<Box<dyn Encoder>> {
        bail!("this version checks the shapes of `dinov2` and cannot run it yet; choose `hog`")
    }
}

realign::register!(EncoderConfig as "encoder": DinoV2Config);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_sixteen_at_256_and_follows_the_backbone_below() {
        let grid = |image_size| {
            let ctx = EncoderContext { image_size, backbone_grid: PatchGrid::new(5, 7), weights_dir: PathBuf::new() };
            DinoV2Config::default().spec(&ctx).unwrap().grid
        };
        assert_eq!(
            [grid(256), grid(512), grid(64)],
            [PatchGrid::new(16, 16), PatchGrid::new(32, 32), PatchGrid::new(5, 7)]
        );
    }
}
