//! `clip`: CLIP's embedding of a picture, for CMMD.
//!
//! Source: Jayasumana et al., 2024; `sayakpaul/cmmd-pytorch`: the class token of `clip-vit-large-patch14-336` behind its
//! last norm, projected. Pictures are resized as Pillow does, in bytes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::{Device, Tensor};
use realign::erase::Slot;
use realign::eval::generation::Metric;
use realign::nn::{Init, ParamBuilder, Resampling};
use realign::plugin::encoder::WeightFile;
use realign::plugin::{
    EncoderConfig, EncoderContext, EncoderKind, FeatureContext, FeatureNetwork, FeatureNetworkConfig, NetworkOutput,
    PatchGrid,
};
use realign::recipe::Check;
use realign::serde_json;
use realign::weights::{PublishedWeights, TensorFile, digest, load_state_dict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `clip`: the embedding of a picture by CLIP ViT-L/14 at 336 pixels, for CMMD.
///
/// With an encoder and sizes of one's own it is another network, and its numbers are no CMMD.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClipConfig {
    /// File with both towers, or with that of pictures and `visual_projection.weight`; the published one in
    /// `weights_dir` when left out.
    pub weights: Option<PathBuf>,
    /// Another vision tower, a section with its `type` and weights; the published one when left out.
    #[schemars(with = "Option<serde_json::Value>")]
    pub encoder: Option<Box<dyn EncoderConfig>>,
    /// Side of the network's pictures, in pixels.
    #[schemars(range(min = 1, max = 4096))]
    pub image_size: usize,
    /// Side of a patch, in pixels.
    #[schemars(range(min = 1, max = 256))]
    pub patch_size: usize,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self { weights: None, encoder: None, image_size: 336, patch_size: 14 }
    }
}

const PROJECTION: &str = "visual_projection.weight";

fn file() -> PublishedWeights {
    let url = "https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin";
    PublishedWeights::new("clip-vit-large-patch14-336", "clip-vit-large-patch14-336.bin", url, "Hugging Face", "MIT")
}

impl ClipConfig {
    fn file(&self, ctx: &FeatureContext) -> WeightFile {
        file().file_at(self.weights.as_deref(), &ctx.weights_dir)
    }

    /// The vision tower, with the last norm behind its class token.
    fn tower(&self, ctx: &FeatureContext) -> Result<Box<dyn EncoderConfig>> {
        let section = match &self.encoder {
            Some(encoder) => serde_json::to_value(encoder)?,
            None => serde_json::json!({
                "type": "vit",
                "preset": "clip-vit-L",
                "position_grid": self.image_size / self.patch_size,
                "norm": true,
                "weights": self.file(ctx).path,
            }),
        };
        serde_json::from_value(section).context("the vision tower")
    }

    /// Below 256 pixels encoders take the grid that they are told, and pictures come in the network's own size anyway.
    fn encoder_context(&self, ctx: &FeatureContext) -> EncoderContext {
        let side = self.image_size / self.patch_size;
        EncoderContext {
            image_size: 224,
            backbone_grid: PatchGrid::new(side, side),
            weights_dir: ctx.weights_dir.clone(),
        }
    }
}

#[typetag::serde(name = "clip")]
impl FeatureNetworkConfig for ClipConfig {
    fn label(&self) -> String {
        if self.encoder.is_none() { "clip".into() } else { "own_clip".into() }
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::Discrepancy]
    }

    fn metric_name(&self, metric: Metric) -> String {
        let is_published = self.encoder.is_none() && (self.image_size, self.patch_size) == (336, 14);
        if is_published && metric == Metric::Discrepancy { "cmmd".into() } else { metric.of_network(&self.label()) }
    }

    fn convention(&self) -> String {
        if self.metric_name(Metric::Discrepancy) == "cmmd" { "cmmd".into() } else { self.label() }
    }

    fn weights(&self, ctx: &FeatureContext) -> Vec<WeightFile> {
        vec![self.file(ctx)]
    }

    fn build(&self, ctx: &FeatureContext, device: &Device) -> Result<Box<dyn FeatureNetwork>> {
        let path = self.file(ctx).path;
        let (tower, context) = (self.tower(ctx)?, self.encoder_context(ctx));
        let channels = tower.spec(&context)?.channels;
        let file = TensorFile::open(&path)?;
        let found = file.tensors().find(|(name, _)| *name == PROJECTION).map(|(_, info)| info.shape.to_vec());
        let shape = found.with_context(|| format!("`{}` has no `{PROJECTION}`", path.display()))?;
        ensure!(
            shape.len() == 2 && shape[1] == channels,
            "`{}`: `{PROJECTION}` has the shape {shape:?}, and the tower {channels} channels",
            path.display()
        );
        let weight = ParamBuilder::new(device, 0).param("weight", [shape[0], channels], Init::FanIn);
        let projection = load_state_dict(
            Projection { weight },
            [("weight".to_string(), file.read(PROJECTION)?)].into_iter().collect(),
        )?;
        let encoder = Slot::new(tower.build(&context, device).context("the vision tower")?);
        Ok(Box::new(Clip { network: Network { encoder, projection }, side: self.image_size }))
    }

    fn validate(&self, check: &mut Check<'_>) {
        check.range("image_size", self.image_size, 1, 4096);
        check.range("patch_size", self.patch_size, 1, 256);
        if let Some(encoder) = &self.encoder {
            check.within("encoder", |check| encoder.validate(check));
        }
    }
}

realign::register!(FeatureNetworkConfig as "feature_network": ClipConfig);

fn published() -> Vec<PublishedWeights> {
    vec![file()]
}

realign::publish_weights!(published);

#[derive(Module, Debug)]
struct Projection {
    /// `[embedding, channels]`.
    weight: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct Network {
    encoder: Slot<EncoderKind>,
    projection: Projection,
}

#[derive(Debug)]
struct Clip {
    network: Network,
    side: usize,
}

impl FeatureNetwork for Clip {
    fn features(&self, images: Tensor<4>) -> Result<NetworkOutput> {
        let encoded =
            self.network.encoder.encode(Resampling::BicubicAntialias.resize_bytes(center(images), [self.side; 2]))?;
        let class_token = encoded.class_token.context("the vision tower has no class token")?;
        let features = class_token.matmul(self.network.projection.weight.val().transpose());
        Ok(NetworkOutput { features, spatial: None, logits: None })
    }

    fn digest(&self) -> String {
        digest(&self.network)
    }
}

/// The largest square in the middle.
fn center(images: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = images.dims();
    let side = height.min(width);
    images.narrow(2, (height - side) / 2, side).narrow(3, (width - side) / 2, side)
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::weights::{HostTensor, StateDict, to_host, write_safetensors};

    const TOWER: &str = "{type: vit, preset: null, hidden_size: 8, depth: 1, num_heads: 2, patch_size: 4, mlp_size: 16, \
                         class_token: true, position_grid: 3, norm: true, weights: random}";

    fn own(path: PathBuf) -> ClipConfig {
        let encoder = Some(realign::serde_yaml::from_str(TOWER).unwrap());
        ClipConfig { weights: Some(path), encoder, image_size: 12, patch_size: 4 }
    }

    #[test]
    fn only_the_published_network_has_the_published_name() {
        assert_eq!(ClipConfig::default().metric_name(Metric::Discrepancy), "cmmd");
        assert_eq!(own("x".into()).metric_name(Metric::Discrepancy), "mmd_own_clip");
        assert_eq!(ClipConfig { image_size: 224, ..Default::default() }.metric_name(Metric::Discrepancy), "mmd_clip");
        let ctx = FeatureContext { picture_size: [20, 20], weights_dir: "w".into() };
        let spec = ClipConfig::default();
        let spec = spec.tower(&ctx).unwrap().spec(&spec.encoder_context(&ctx)).unwrap();
        assert_eq!((spec.grid, spec.channels), (PatchGrid::new(24, 24), 1024));
    }

    #[test]
    fn the_class_token_is_projected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.safetensors");
        let values = (0..24).map(|i| if i / 8 == i % 8 { 2.0 } else { 0.0 }).collect();
        write_safetensors(&path, &StateDict::from([(PROJECTION.into(), HostTensor { shape: vec![3, 8], values })]))
            .unwrap();
        let ctx = FeatureContext { picture_size: [20, 30], weights_dir: "w".into() };
        let device = Device::flex();
        let network = own(path.clone()).build(&ctx, &device).unwrap();
        let images = Tensor::<4>::full([2, 3, 20, 30], 90.0, &device);
        let found = to_host(network.features(images.clone()).unwrap().features);
        let tower = own(path.clone()).encoder.unwrap().build(&own(path).encoder_context(&ctx), &device).unwrap();
        let token = to_host(tower.encode(Tensor::full([1, 3, 12, 12], 90.0, &device)).unwrap().class_token.unwrap());
        assert!(found.iter().zip(&token[..3]).all(|(found, token)| (found - 2.0 * token).abs() < 1e-5), "{found:?}");
        let wrong = own(dir.path().join("absent")).build(&ctx, &device).unwrap_err();
        assert!(format!("{wrong:#}").contains("absent"));
    }
}
