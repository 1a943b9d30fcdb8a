//! The `sift` encoder: one descriptor per token.
//!
//! Source: iREPA `jit/vision_encoder.py`, `SIFTEncoder` (`sift-*-*`) and `SIFTOpenCVEncoder` (`siftopencv-*-*`).
//! Everything is computed in f32 on the CPU.

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

use super::kornia::{Frame, NUM_CHANNELS, Picture, Rules};
use super::opencv::Gradients;

/// `sift`: a descriptor of oriented gradients around each token, 128 channels. It needs no download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SiftConfig {
    /// Whose descriptor.
    pub variant: SiftVariant,
    /// Pixels from token to token and size of a keypoint. The published code has 16 at every picture size; when left
    /// out, tokens lie on the backbone's grid, which is the same at 256 pixels.
    #[schemars(range(min = 1, max = 1024))]
    pub step: Option<usize>,
    /// Whether the dominant gradient's turn is left out. OpenCV's descriptors are not turned at all.
    pub upright: bool,
}

/// Whose descriptor: they differ in the window, the turn and the scale of their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SiftVariant {
    /// That of kornia 0.8, turned by the dominant gradient, of unit length: the published `sift`.
    #[default]
    #[serde(rename = "kornia_0.8")]
    Kornia08,
    /// That of kornia 0.9, which corrected where samples and cells lie.
    #[serde(rename = "kornia_0.9")]
    Kornia09,
    /// OpenCV's with its wide window, whole numbers in 0..255: the published `siftopencv`.
    #[serde(rename = "opencv")]
    Opencv,
}

impl SiftConfig {
    /// Rows and columns of the tokens' centers and the keypoints' size, in pixels.
    fn keypoints(&self, ctx: &EncoderContext) -> Keypoints {
        let side = ctx.image_size as f32;
        match self.step {
            Some(step) => {
                let centers: Vec<f32> = (step / 2..ctx.image_size).step_by(step.max(1)).map(|at| at as f32).collect();
                Keypoints { rows: centers.clone(), columns: centers, size: step as f32 }
            }
            None => {
                let PatchGrid { rows, columns } = ctx.backbone_grid;
                let centers = |count: usize| (0..count).map(|i| (i as f32 + 0.5) * side / count as f32).collect();
                Keypoints { rows: centers(rows), columns: centers(columns), size: side / rows.max(columns) as f32 }
            }
        }
    }
}

#[typetag::serde(name = "sift")]
impl EncoderConfig for SiftConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        ensure!(self.step != Some(0), "encoder `sift`: step is `0` pixels; it must be at least 1");
        ensure!(ctx.image_size >= 2, "encoder `sift`: pictures of {} pixels have no gradient", ctx.image_size);
        let grid = self.keypoints(ctx).grid();
        ensure!(
            grid.tokens() > 0,
            "encoder `sift`: pictures of {} pixels hold no token at a step of {} pixels; choose a smaller step",
            ctx.image_size,
            self.step.unwrap_or(0)
        );
        Ok(EncoderSpec { grid, channels: NUM_CHANNELS, weights: vec![] })
    }

    fn build(&self, ctx: &EncoderContext, _device: &Device) -> Result<Box<dyn Encoder>> {
        self.spec(ctx)?;
        Ok(Box::new(Sift { config: *self, image_size: ctx.image_size, keypoints: self.keypoints(ctx) }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        if let Some(step) = self.step {
            check.range("step", step, 1, 1024);
        }
        if self.upright && self.variant == SiftVariant::Opencv {
            check.bad("upright", "OpenCV's descriptors are not turned; leave it out");
        }
    }
}

realign::register!(EncoderConfig as "encoder": SiftConfig);

/// Where descriptors are taken.
#[derive(Debug, Clone)]
struct Keypoints {
    rows: Vec<f32>,
    columns: Vec<f32>,
    size: f32,
}

impl Keypoints {
    fn grid(&self) -> PatchGrid {
        PatchGrid::new(self.rows.len(), self.columns.len())
    }

    /// Column and row of a token's center.
    fn center(&self, token: usize) -> (f32, f32) {
        (self.columns[token % self.columns.len()], self.rows[token / self.columns.len()])
    }
}

/// The encoder. Pictures of another size than the run's are resized bilinearly first.
#[derive(Module, Debug)]
pub struct Sift {
    #[module(skip)]
    config: SiftConfig,
    image_size: usize,
    #[module(skip)]
    keypoints: Keypoints,
}

impl Encoder for Sift {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let [batch, colors, height, width] = images.dims();
        ensure!(
            colors == 3 && height > 0 && width > 0,
            "encoder `sift`: found pictures of shape `{:?}`; they must be RGB, `[batch, 3, height, width]`",
            images.dims()
        );
        let (tokens, device) = (self.keypoints.grid().tokens(), images.device());
        let pixels = to_host(images);
        let pictures: Vec<_> = pixels.par_chunks_exact(3 * height * width).collect();
        let mut values = vec![0.0; batch * tokens * NUM_CHANNELS];
        let rules = match self.config.variant {
            SiftVariant::Opencv => None,
            SiftVariant::Kornia08 => Some(Rules::V08),
            SiftVariant::Kornia09 => Some(Rules::V09),
        };
        let (side, scale) = (self.image_size, self.keypoints.size);
        match rules {
            None => self.describe(
                pictures.par_iter().map(|planes| Gradients::new(planes, height, width, side)).collect(),
                &mut values,
                |gradients, x, y, descriptor| gradients.describe(x, y, scale, descriptor),
            ),
            Some(rules) => self.describe(
                pictures.par_iter().map(|planes| Picture::new(rules, planes, height, width, side)).collect(),
                &mut values,
                |picture, x, y, descriptor| {
                    let frame = Frame { x, y, scale, angle: 0.0 };
                    let frame = if self.config.upright { frame } else { frame.oriented(picture) };
                    picture.describe(&frame, descriptor);
                },
            ),
        }
        let tokens = ops::upload(&values, [batch, tokens, NUM_CHANNELS], &device);
        Ok(Features { tokens, class_token: None })
    }

    fn works_on_host(&self) -> bool {
        true
    }
}

impl Sift {
    /// Fills every token's descriptor from its picture, on all cores.
    fn describe<P: Sync>(
        &self,
        pictures: Vec<P>,
        values: &mut [f32],
        describe: impl Fn(&P, f32, f32, &mut [f32]) + Sync,
    ) {
        let tokens = self.keypoints.grid().tokens();
        values.par_chunks_exact_mut(NUM_CHANNELS).enumerate().for_each(|(token, descriptor)| {
            let (x, y) = self.keypoints.center(token % tokens);
            describe(&pictures[token / tokens], x, y, descriptor);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use realign::burn::tensor::TensorData;
    use realign::streams::Streams;

    use super::*;

    const VARIANTS: [SiftVariant; 3] = [SiftVariant::Kornia08, SiftVariant::Kornia09, SiftVariant::Opencv];

    fn context(image_size: usize, backbone_grid: PatchGrid) -> EncoderContext {
        EncoderContext { image_size, backbone_grid, weights_dir: PathBuf::new() }
    }

    fn pictures(shape: [usize; 4]) -> Tensor<4> {
        let values = Streams::new(3).uniform("pictures", shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &Device::flex()) * 255.0
    }

    #[test]
    fn tokens_lie_on_the_backbones_grid_or_a_step_apart() {
        for variant in VARIANTS {
            for (step, grid) in [(None, PatchGrid::new(5, 7)), (Some(16), PatchGrid::new(3, 3))] {
                let (config, ctx) = (SiftConfig { variant, step, upright: false }, context(48, PatchGrid::new(5, 7)));
                assert_eq!(config.spec(&ctx).unwrap().grid, grid);
                let features = config.build(&ctx, &Device::flex()).unwrap().encode(pictures([2, 3, 33, 51])).unwrap();
                assert_eq!(features.tokens.dims(), [2, grid.tokens(), 128]);
                assert!(to_host(features.tokens).iter().all(|value| value.is_finite()));
            }
        }
    }

    #[test]
    fn the_backbones_grid_of_256_pixels_is_the_published_step() {
        let ctx = context(256, PatchGrid::new(16, 16));
        let [followed, published] = [None, Some(16)].map(|step| {
            let Keypoints { rows, columns, size } = SiftConfig { step, ..Default::default() }.keypoints(&ctx);
            (rows, columns, size)
        });
        assert_eq!(followed, published);
    }

    #[test]
    fn a_picture_has_the_same_features_in_every_batch() {
        for variant in VARIANTS {
            let config = SiftConfig { variant, ..Default::default() };
            let sift = config.build(&context(33, PatchGrid::new(3, 5)), &Device::flex()).unwrap();
            let batch = pictures([3, 3, 33, 33]);
            let whole = sift.encode(batch.clone()).unwrap().tokens.narrow(0, 1, 1);
            let alone = sift.encode(batch.narrow(0, 1, 1)).unwrap().tokens;
            assert_eq!(to_host(whole), to_host(alone));
        }
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        let grid = PatchGrid::new(3, 5);
        let refused = |step, side| {
            let config = SiftConfig { step, ..Default::default() };
            config.spec(&context(side, grid)).unwrap_err().to_string()
        };
        assert!(refused(Some(0), 32).contains("at least 1"));
        assert!(refused(None, 1).contains("no gradient"));
        assert!(refused(Some(100), 32).contains("smaller step"));
    }
}
