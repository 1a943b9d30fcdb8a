//! Histograms of oriented gradients as an encoder that needs no weights.
//!
//! Source: iREPA `jit/vision_encoder.py`, `HOGVisionEncoder`. Everything is computed in f32 on the CPU.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::ops;
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, Features, PatchGrid};
use realign::recipe::Check;
use realign::weights::to_host;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::oriented_gradients::{OrientedGradients, gray};

/// `hog`: blocks of gradient histograms, one per token. Its features are exact, fast and need no download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HogConfig {
    /// Rows and columns of tokens; the backbone's grid when left out. The published code has 16 at every size.
    pub grid: Option<usize>,
    /// Channels of a token: `cells_per_block`² times the number of orientations.
    #[schemars(range(min = 1, max = 4096))]
    pub channels: usize,
    /// Side of a cell, in pixels.
    #[schemars(range(min = 1, max = 256))]
    pub pixels_per_cell: usize,
    /// Side of a block, in cells.
    #[schemars(range(min = 1, max = 32))]
    pub cells_per_block: usize,
}

impl Default for HogConfig {
    fn default() -> Self {
        Self { grid: None, channels: 128, pixels_per_cell: 2, cells_per_block: 4 }
    }
}

impl HogConfig {
    fn gradients(&self, image_size: usize) -> Result<OrientedGradients> {
        let cells = self.cells_per_block * self.cells_per_block;
        ensure!(
            self.pixels_per_cell > 0 && cells > 0 && self.channels > 0 && self.channels.is_multiple_of(cells),
            "encoder `hog`: channels is `{}`, pixels_per_cell `{}`, cells_per_block `{}`; none may be 0, and \
             channels must be a multiple of cells_per_block squared, `{cells}`",
            self.channels,
            self.pixels_per_cell,
            self.cells_per_block
        );
        let gradients = OrientedGradients {
            size: image_size,
            pixels_per_cell: self.pixels_per_cell,
            cells_per_block: self.cells_per_block,
            num_orientations: self.channels / cells,
        };
        ensure!(
            gradients.num_blocks() > 0,
            "encoder `hog`: pictures of {image_size} pixels hold no block of {} x {} cells of {} pixels; \
             they need {} pixels or a smaller cell or block",
            self.cells_per_block,
            self.cells_per_block,
            self.pixels_per_cell,
            self.cells_per_block * self.pixels_per_cell
        );
        Ok(gradients)
    }

    fn token_grid(&self, backbone_grid: PatchGrid) -> PatchGrid {
        self.grid.map_or(backbone_grid, |side| PatchGrid::new(side, side))
    }
}

#[typetag::serde(name = "hog")]
impl EncoderConfig for HogConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        self.gradients(ctx.image_size)?;
        let grid = self.token_grid(ctx.backbone_grid);
        ensure!(grid.tokens() > 0, "encoder `hog`: grid is `{grid}`; it must be at least 1x1");
        Ok(EncoderSpec { grid, channels: self.channels, weights: vec![] })
    }

    fn build(&self, ctx: &EncoderContext, _device: &Device) -> Result<Box<dyn Encoder>> {
        let EncoderSpec { grid, .. } = self.spec(ctx)?;
        Ok(Box::new(Hog { config: *self, image_size: ctx.image_size, grid: [grid.rows, grid.columns] }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("channels", self.channels, 1, 4096);
        check.range("pixels_per_cell", self.pixels_per_cell, 1, 256);
        check.range("cells_per_block", self.cells_per_block, 1, 32);
        let cells = self.cells_per_block * self.cells_per_block;
        if cells > 0 && !self.channels.is_multiple_of(cells) {
            check.bad("channels", format!("`{}` is no multiple of cells_per_block squared, `{cells}`", self.channels));
        }
        if let Some(grid) = self.grid {
            check.range("grid", grid, 1, 1024);
        }
    }
}

realign::register!(EncoderConfig as "encoder": HogConfig);

/// The encoder. Pictures of another size than the run's are resized bilinearly first.
#[derive(Module, Debug)]
pub struct Hog {
    #[module(skip)]
    config: HogConfig,
    image_size: usize,
    grid: [usize; 2],
}

impl Encoder for Hog {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let [batch, colors, height, width] = images.dims();
        ensure!(
            colors == 3 && height > 0 && width > 0,
            "encoder `hog`: found pictures of shape `{:?}`; they must be RGB, `[batch, 3, height, width]`",
            images.dims()
        );
        let gradients = self.config.gradients(self.image_size)?;
        let ([rows, columns], channels, device) = (self.grid, gradients.channels(), images.device());
        let pixels = to_host(images);
        let mut tokens = vec![0.0; batch * rows * columns * channels];
        let pictures = pixels.par_chunks_exact(3 * height * width);
        pictures.zip(tokens.par_chunks_exact_mut(rows * columns * channels)).for_each(|(picture, tokens)| {
            gradients.describe(&gray(picture, height, width, self.image_size), rows, columns, tokens);
        });
        let tokens = ops::upload(&tokens, [batch, rows * columns, channels], &device);
        Ok(Features { tokens, class_token: None })
    }

    fn works_on_host(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use realign::burn::tensor::TensorData;
    use realign::streams::Streams;

    use super::*;

    fn context(image_size: usize, backbone_grid: PatchGrid) -> EncoderContext {
        EncoderContext { image_size, backbone_grid, weights_dir: "weights".into() }
    }

    fn encoder(config: HogConfig, image_size: usize, grid: PatchGrid) -> Result<Box<dyn Encoder>> {
        config.build(&context(image_size, grid), &Device::flex())
    }

    fn pictures(shape: [usize; 4]) -> Tensor<4> {
        let values = Streams::new(3).uniform("pictures", shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Device::flex()) * 255.0
    }

    #[test]
    fn tokens_lie_on_the_backbones_grid_unless_the_recipe_says_otherwise() {
        let grid = PatchGrid::new(5, 7);
        for (config, tokens) in [(HogConfig::default(), 35), (HogConfig { grid: Some(3), ..Default::default() }, 9)] {
            assert_eq!(config.spec(&context(32, grid)).unwrap().grid.tokens(), tokens);
            let features = encoder(config, 32, grid).unwrap().encode(pictures([2, 3, 32, 32])).unwrap();
            assert_eq!(features.tokens.dims(), [2, tokens, 128]);
            assert!(features.class_token.is_none());
        }
    }

    #[test]
    fn a_picture_has_the_same_features_in_every_batch() {
        let hog = encoder(HogConfig::default(), 33, PatchGrid::new(8, 8)).unwrap();
        let batch = pictures([3, 3, 33, 33]);
        let whole = hog.encode(batch.clone()).unwrap().tokens.narrow(0, 1, 1);
        let alone = hog.encode(batch.narrow(0, 1, 1)).unwrap().tokens;
        assert_eq!(to_host(whole), to_host(alone));
    }

    #[test]
    fn a_vertical_edge_fills_the_first_orientation_only() {
        let hog = encoder(HogConfig::default(), 32, PatchGrid::new(8, 8)).unwrap();
        let columns: Vec<f32> = (0..32 * 32 * 3).map(|i| if i % 32 < 16 { 20.0 } else { 220.0 }).collect();
        let picture = Tensor::from_data(TensorData::new(columns, [1, 3, 32, 32]), &Device::flex());
        let found = to_host(hog.encode(picture).unwrap().tokens);
        let total = |bin: usize| found.iter().skip(bin).step_by(8).sum::<f32>();
        assert!(total(0) > 1.0 && (1..8).all(|bin| total(bin) == 0.0));
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        let grid = PatchGrid::new(8, 8);
        assert!(HogConfig::default().spec(&context(7, grid)).unwrap_err().to_string().contains("8 pixels"));
        assert!(HogConfig { channels: 100, ..Default::default() }.spec(&context(32, grid)).is_err());
        assert!(HogConfig { grid: Some(0), ..Default::default() }.spec(&context(32, grid)).is_err());
        let hog = encoder(HogConfig::default(), 32, grid).unwrap();
        assert!(hog.encode(pictures([1, 1, 32, 32])).unwrap_err().to_string().contains("must be RGB"));
    }
}
