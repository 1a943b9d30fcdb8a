//! Histograms of oriented gradients: an encoder without weights.

mod descriptor;

use anyhow::{Result, ensure};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Tensor, TensorData};
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, EncoderSpec, Features, PatchGrid};
use realign::recipe::Check;
use realign::weights::to_host;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use descriptor::Hog;

/// `hog`: dense HOG, resampled to the token grid.
///
/// Source: iREPA `jit/vision_encoder.py`, `HOGVisionEncoder`, over scikit-image's `hog`. Computed on the CPU in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HogConfig {
    /// Rows and columns of tokens; the backbone's grid when left out (the reference fixes 16).
    pub grid: Option<usize>,
    /// Channels: orientations times `cells_per_block` squared.
    pub channels: usize,
    /// Side of a cell, in pixels.
    pub pixels_per_cell: usize,
    /// Side of a block, in cells.
    pub cells_per_block: usize,
}

impl Default for HogConfig {
    fn default() -> Self {
        Self { grid: None, channels: 128, pixels_per_cell: 2, cells_per_block: 4 }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct HogEncoder {
    #[module(skip)]
    hog: Hog,
}

impl Encoder for HogEncoder {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let ([batch, channels, height, width], device) = (images.dims(), images.device());
        ensure!(channels == 3, "`hog` takes RGB, found {channels} channels");
        let tokens = self.hog.tokens(&to_host(images), batch, [height, width]);
        let shape = [batch, self.hog.grid.tokens(), self.hog.channels()];
        Ok(Features { tokens: Tensor::from_data(TensorData::new(tokens, shape), &device), class_token: None })
    }
}

impl HogConfig {
    fn hog(&self, image_size: usize, backbone_grid: PatchGrid) -> Result<Hog> {
        let (cells, pixels) = (self.cells_per_block, self.pixels_per_cell);
        ensure!(cells > 0 && pixels > 0, "cells_per_block and pixels_per_cell must be at least 1");
        let orientations = self.channels / (cells * cells);
        ensure!(
            orientations > 0 && orientations * cells * cells == self.channels,
            "channels: `{}` is no multiple of cells_per_block squared, {}",
            self.channels,
            cells * cells
        );
        ensure!(
            image_size / pixels >= cells,
            "pictures of {image_size} pixels hold no block of {cells} cells of {pixels} pixels"
        );
        let grid = self.grid.map_or(backbone_grid, |side| PatchGrid::new(side, side));
        Ok(Hog { image_size, grid, orientations, pixels_per_cell: pixels, cells_per_block: cells })
    }
}

#[typetag::serde(name = "hog")]
impl EncoderConfig for HogConfig {
    fn spec(&self, image_size: usize, backbone_grid: PatchGrid) -> Result<EncoderSpec> {
        let hog = self.hog(image_size, backbone_grid)?;
        Ok(EncoderSpec { grid: hog.grid, channels: hog.channels(), weights: vec![] })
    }

    fn build(&self, ctx: &EncoderContext) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(HogEncoder { hog: self.hog(ctx.image_size, ctx.backbone_grid)? }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("channels", self.channels, 1, 4096);
        check.range("pixels_per_cell", self.pixels_per_cell, 1, 256);
        check.range("cells_per_block", self.cells_per_block, 1, 16);
        if let Some(grid) = self.grid {
            check.range("grid", grid, 1, 1024);
        }
    }
}

realign::register!(EncoderConfig as "encoder": HogConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use realign::burn::tensor::Device;

    fn encode(pixel: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let device = Device::flex();
        let grid = PatchGrid::new(8, 8);
        let encoder = HogConfig::default()
            .build(&EncoderContext { image_size: 32, backbone_grid: grid, device: device.clone() })
            .unwrap();
        let plane: Vec<f32> = (0..32 * 32).map(|i| pixel(i / 32, i % 32)).collect();
        let images = Tensor::from_data(TensorData::new(plane.repeat(3), [1, 3, 32, 32]), &device);
        let features = encoder.encode(images).unwrap();
        assert_eq!(features.tokens.dims(), [1, 64, 128]);
        to_host(features.tokens)
    }

    #[test]
    fn a_plain_picture_has_no_gradients() {
        assert!(encode(|_, _| 77.0).iter().all(|value| *value == 0.0));
    }

    #[test]
    fn a_vertical_edge_fills_the_first_orientation_only() {
        let tokens = encode(|_, column| if column < 16 { 0.0 } else { 200.0 });
        let by_orientation: Vec<f32> = (0..8).map(|bin| tokens.iter().skip(bin).step_by(8).sum()).collect();
        assert!(by_orientation[0] > 1.0 && by_orientation[1..].iter().all(|sum| *sum == 0.0), "{by_orientation:?}");
    }
}
