//! Tokens of a network that realign trained itself: the target of alignment can be a run of one's own.
//!
//! Source: diffusion features as a representation are what REPA compares with (Yu et al., 2024, section 3).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor, TensorData};
use realign::checkpoint::{TrainedEncoder, TrainedRun};
use realign::erase::Slot;
use realign::plugin::encoder::WeightFile;
use realign::plugin::{
    AutoencoderKind, BackboneInput, BackboneKind, Condition, Dynamics, Encoder, EncoderConfig, EncoderContext,
    EncoderKind, EncoderSpec, Features, Times,
};
use realign::recipe::{Check, Settings};
use realign::streams::Streams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `checkpoint`: tokens of an encoder that a run of realign trained, or of a block of its backbone.
///
/// A backbone sees pictures without a class. They carry as much of one fixed draw of noise as `time` says, the same
/// for every picture, so that a picture has the same features in every batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Folder of the run.
    pub run: PathBuf,
    /// Step of the checkpoint; the newest whole one when left out.
    pub step: Option<u64>,
    /// Name of a moving average, or `model`; when left out what the run samples with, or the first average of an encoder.
    pub weights: Option<String>,
    /// Block of a backbone whose tokens are taken, counted from 1; half of the depth when left out.
    pub layer: Option<usize>,
    /// How far on the way from the clean picture, 0, to noise, 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub time: f64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { run: PathBuf::from("runs"), step: None, weights: None, layer: None, time: 0.0 }
    }
}

/// What a run trained that pictures can be shown to.
enum Trained {
    /// A diffusion model, and the block whose tokens are taken.
    Backbone(Box<TrainedRun>, usize),
    /// An encoder of its own.
    Encoder(TrainedEncoder),
}

impl CheckpointConfig {
    fn open(&self, ctx: &EncoderContext) -> Result<Trained> {
        if let Some(trained) = TrainedEncoder::open(&self.run)? {
            self.check_size(trained.config()?.1.image_size, ctx)?;
            ensure!(
                self.layer.is_none() && self.time == 0.0,
                "encoder `checkpoint`: `{}` trained an encoder, which has neither `layer` nor `time`; leave them out",
                self.run.display()
            );
            return Ok(Trained::Encoder(trained));
        }
        let trained = TrainedRun::open(&Settings::default(), &self.run, &[])?;
        let depth = trained.plan.backbone.depth;
        self.check_size(trained.plan.recipe.image_size, ctx)?;
        let layer = self.layer.unwrap_or(depth.div_ceil(2));
        ensure!(
            (1..=depth).contains(&layer),
            "encoder `checkpoint`: layer is `{layer}`; `{}` has blocks 1 to {depth}",
            self.run.display()
        );
        Ok(Trained::Backbone(Box::new(trained), layer))
    }

    fn check_size(&self, size: usize, ctx: &EncoderContext) -> Result<()> {
        ensure!(
            size == ctx.image_size,
            "encoder `checkpoint`: `{}` was trained on pictures of {size} pixels, and this run's have {}; they must be \
             equal",
            self.run.display(),
            ctx.image_size
        );
        Ok(())
    }

    fn backbone(
        &self,
        trained: &TrainedRun,
        layer: usize,
        weights_dir: &Path,
        device: &Device,
    ) -> Result<TrainedTokens> {
        let (plan, recipe) = (&trained.plan, &trained.plan.recipe);
        let checkpoint = trained.checkpoint(self.step)?;
        let model = trained.model(&checkpoint, self.weights.as_deref().unwrap_or(&recipe.sample.weights), device)?;
        let null = trained.null_condition(&model, device)?;
        let objective = recipe.objective.build();
        let is_from_noise = recipe.objective.dynamics().contains(&Dynamics::VelocityFromNoise);
        let point = objective.path().at(self.time);
        let [channels, height, width] = plan.latent;
        let noise = TensorData::new(
            Streams::new(recipe.seed).normal("encoder", channels * height * width),
            [1, channels, height, width],
        );
        Ok(TrainedTokens {
            backbone: model.backbone,
            autoencoder: Slot::new(trained.autoencoder(&checkpoint, weights_dir, device)?),
            null,
            noise: objective.start(Tensor::from_data(noise, device)) * point.sigma,
            share: point.alpha,
            time: if is_from_noise { 1.0 - self.time } else { self.time },
            layer,
            image_size: recipe.image_size,
        })
    }
}

#[typetag::serde(name = "checkpoint")]
impl EncoderConfig for CheckpointConfig {
    fn spec(&self, ctx: &EncoderContext) -> Result<EncoderSpec> {
        if !self.run.join("recipe.yaml").exists() {
            // Sizes are unknown until there is a run; the engine says what is missing before it builds anything.
            let command = format!("cargo xtask run RECIPE --run-dir {}", self.run.display());
            let weights = vec![WeightFile { path: self.run.join("recipe.yaml"), command }];
            return Ok(EncoderSpec { grid: ctx.backbone_grid, channels: 1, weights });
        }
        match self.open(ctx)? {
            Trained::Backbone(trained, _) => {
                let backbone = &trained.plan.backbone;
                Ok(EncoderSpec { grid: backbone.grid, channels: backbone.hidden_size, weights: vec![] })
            }
            Trained::Encoder(trained) => {
                let (config, ctx) = trained.config()?;
                config.spec(&ctx)
            }
        }
    }

    fn build(&self, ctx: &EncoderContext, device: &Device) -> Result<Box<dyn Encoder>> {
        match self.open(ctx)? {
            Trained::Backbone(trained, layer) => {
                Ok(Box::new(self.backbone(&trained, layer, &ctx.weights_dir, device)?))
            }
            Trained::Encoder(trained) => {
                let encoder = trained.build(self.step, self.weights.as_deref(), device)?;
                Ok(Box::new(OwnEncoder { encoder }))
            }
        }
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("time", self.time, 0.0, 1.0);
        if let Some(layer) = self.layer {
            check.positive("layer", layer);
        }
    }
}

realign::register!(EncoderConfig as "encoder": CheckpointConfig);

/// An encoder that a program trained.
#[derive(Module, Debug)]
pub struct OwnEncoder {
    encoder: Slot<EncoderKind>,
}

impl Encoder for OwnEncoder {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        self.encoder.encode(images)
    }
}

/// Tokens of a diffusion model's backbone.
#[derive(Module, Debug)]
pub struct TrainedTokens {
    backbone: Slot<BackboneKind>,
    autoencoder: Slot<AutoencoderKind>,
    #[module(skip)]
    null: Condition,
    /// Scaled, `[1, channels, height, width]`.
    #[module(skip)]
    noise: Tensor<4>,
    share: f64,
    time: f64,
    layer: usize,
    image_size: usize,
}

impl Encoder for TrainedTokens {
    fn encode(&self, images: Tensor<4>) -> Result<Features> {
        let [batch, colors, height, width] = images.dims();
        ensure!(
            [colors, height, width] == [3, self.image_size, self.image_size],
            "encoder `checkpoint`: found pictures of {colors}x{height}x{width}; the run was trained on 3x{0}x{0}",
            self.image_size
        );
        let device = images.device();
        let x0 = self.autoencoder.encode(images, &Streams::new(0));
        let output = self.backbone.forward(BackboneInput {
            x: x0 * self.share + self.noise.clone(),
            times: Times::at(Tensor::full([batch], self.time, &device)),
            condition: repeated(&self.null, batch),
            taps: &[self.layer],
        });
        let tokens = output.taps.into_iter().next().context("the backbone returned no tokens")?;
        Ok(Features { tokens, class_token: None })
    }
}

/// One condition, `batch` times.
fn repeated(condition: &Condition, batch: usize) -> Condition {
    match condition {
        Condition::Labels(label) => Condition::Labels(label.clone().expand([batch])),
        Condition::Text(text) => {
            let [_, tokens, channels] = text.dims();
            Condition::Text(text.clone().expand([batch, tokens, channels]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::plugin::{Autoencoder, AutoencoderConfig, Backbone, BackboneOutput, PatchGrid};
    use std::path::Path;

    /// Returns what it is given as its only tokens.
    #[derive(Module, Debug)]
    struct Echo {
        unused: usize,
    }

    impl Backbone for Echo {
        fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
            let [batch, channels, height, width] = input.x.dims();
            let tokens = input.x.clone().reshape([batch, channels, height * width]).swap_dims(1, 2);
            let time = input.times.t.reshape([batch, 1, 1]).expand([batch, height * width, 1]);
            BackboneOutput { prediction: input.x, taps: vec![Tensor::cat(vec![tokens, time], 2)] }
        }
    }

    fn pixels() -> Box<dyn Autoencoder> {
        let config: Box<dyn AutoencoderConfig> = serde_json::from_str(r#"{"type": "identity"}"#).unwrap();
        config.build(Path::new("weights"), &Device::flex()).unwrap()
    }

    #[test]
    fn a_picture_gets_its_share_and_the_same_noise_in_every_batch() {
        let device = Device::flex();
        let encoder = TrainedTokens {
            backbone: Slot::<BackboneKind>::new(Box::new(Echo { unused: 0 })),
            autoencoder: Slot::<AutoencoderKind>::new(pixels()),
            null: Condition::labels(&[7], &device),
            noise: Tensor::<4>::ones([1, 3, 5, 5], &device) * 0.25,
            share: 0.75,
            time: 0.25,
            layer: 1,
            image_size: 5,
        };
        let white = Tensor::<4>::full([2, 3, 5, 5], 255.0, &device);
        let tokens = encoder.encode(white).unwrap().tokens;
        assert_eq!(tokens.dims(), [2, 25, 4]);
        let expected = Tensor::<1>::from_floats([1.0, 1.0, 1.0, 0.25], &device).reshape([1, 1, 4]);
        assert!((tokens - expected).abs().max().into_scalar::<f32>() < 1e-6);
        let message = encoder.encode(Tensor::zeros([1, 3, 4, 5], &device)).unwrap_err().to_string();
        assert!(message.contains("3x4x5") && message.contains("3x5x5"), "{message}");
    }

    #[test]
    fn an_absent_run_is_a_missing_file_and_not_an_error() {
        let ctx = EncoderContext { image_size: 32, backbone_grid: PatchGrid::new(5, 7), weights_dir: "w".into() };
        let config = CheckpointConfig { run: "no/such/run".into(), ..Default::default() };
        let spec = config.spec(&ctx).unwrap();
        assert_eq!(spec.grid, ctx.backbone_grid);
        assert!(spec.weights[0].command.contains("--run-dir no/such/run"));
    }
}
