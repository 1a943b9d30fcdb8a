//! The `sift` encoder: one descriptor per token.
//!
//! Source: iREPA `jit/vision_encoder.py`, `SIFTEncoder` (`sift-*-*`) and `SIFTOpenCVEncoder` (`siftopencv-*-*`).
//! Everything is computed in f32 on the CPU.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor, TensorData};
use realign::plugin::encoder::EncoderSpec;
use realign::plugin::{Encoder, EncoderConfig, EncoderContext, Features, PatchGrid};
use realign::recipe::Check;
use realign::weights::to_host;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kornia::{self, Frame, NUM_CHANNELS, PATCH_SIDE, Picture};
use super::opencv;

/// `sift`: a descriptor of oriented gradients around each token, 128 channels. It needs no download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SiftConfig {
    /// Whose descriptor.
    pub variant: SiftVariant,
    /// Pixels from token to token and size of a keypoint. The published code has 16 at every picture size; when left
    /// out, tokens lie on the backbone's grid, which is the same at 256 pixels.
    pub step: Option<usize>,
}

/// Whose descriptor: they differ in the window, the turn and the scale of their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SiftVariant {
    /// kornia's, turned by the dominant gradient; unit length. The published `sift`.
    #[default]
    Kornia,
    /// kornia's without the turn.
    KorniaUpright,
    /// OpenCV's with its wide window, whole numbers in 0..255. The published `siftopencv`.
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
        Ok(Box::new(Sift { variant: self.variant, image_size: ctx.image_size, keypoints: self.keypoints(ctx) }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        if let Some(step) = self.step {
            check.range("step", step, 1, 1024);
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
    variant: SiftVariant,
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
        let size = [height, width];
        match self.variant {
            SiftVariant::Opencv => self.describe(
                &mut values,
                pictures.par_iter().map(|p| opencv::Gradients::new(p, size[0], size[1], self.image_size)).collect(),
                |gradients, x, y, descriptor| gradients.describe(x, y, self.keypoints.size, descriptor),
            ),
            SiftVariant::Kornia | SiftVariant::KorniaUpright => self.describe(
                &mut values,
                pictures.par_iter().map(|p| Picture::new(p, size[0], size[1], self.image_size)).collect(),
                |picture, x, y, descriptor| {
                    let frame = Frame { x, y, scale: self.keypoints.size, angle: 0.0 };
                    let is_turned = self.variant == SiftVariant::Kornia;
                    let frame = if is_turned { frame.oriented(picture) } else { frame };
                    kornia::describe(&picture.patch(&frame, PATCH_SIDE), descriptor);
                },
            ),
        }
        let tokens = Tensor::from_data(TensorData::new(values, [batch, tokens, NUM_CHANNELS]), &device);
        Ok(Features { tokens, class_token: None })
    }
}

impl Sift {
    /// Fills every token's descriptor from its picture, on all cores.
    fn describe<P: Sync>(
        &self,
        values: &mut [f32],
        pictures: Vec<P>,
        describe: impl Fn(&P, f32, f32, &mut [f32]) + Sync,
    ) {
        let tokens = self.keypoints.grid().tokens();
        values.par_chunks_exact_mut(NUM_CHANNELS).enumerate().for_each(|(token, descriptor)| {
            let (x, y) = self.keypoints.center(token % tokens);
            describe(&pictures[token / tokens], x, y, descriptor);
        });
    }
}
