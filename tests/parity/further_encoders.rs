//! Encoders that are networks and no plain vision transformers: SAM, SAM 2's trunk, VGG.

use super::case::{Case, count};
use super::compare::Comparison;
use anyhow::{Context, Result, ensure};
use realign::burn::tensor::{Device, Tensor};
use realign::nn::ParamBuilder;
use realign::plugin::Encoder;
use realign::weights::parameters;
use realign_plugins::encoders::sam::{self, ImageEncoder, SamSizes};
use realign_plugins::encoders::sam2::{self, Hiera, HieraSizes};
use realign_plugins::encoders::vgg::{self, Vgg, VggFeatures, VggSize};
use serde_json::Value;

/// The last map of SAM 2's trunk, from pixels; every `in.pixels.<i>`.
pub fn sam2(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let trunk = Hiera::new(&hiera_sizes(&case.config.0["backbone"])?, &ParamBuilder::new(device, 0))?;
    let dict = sam2::layout().ignore(&["neck.**"]).import(&case.params("param."), &parameters(&trunk))?;
    let trunk = realign::weights::load_state_dict(trunk, dict)?;
    for i in case.names("in.pixels.") {
        let map = trunk.forward(case.tensor(&format!("in.pixels.{i}"), device)?);
        let [batch, rows, columns, channels] = map.dims();
        if case.has(&format!("out.{i}.patch")) {
            found.forward(case, &format!("out.{i}.patch"), map.clone().reshape([batch, rows * columns, channels]))?;
        }
        found.forward(case, &format!("out.{i}.last_hidden_state"), map)?;
    }
    Ok(())
}

fn hiera_sizes(config: &Value) -> Result<HieraSizes> {
    let list = |key: &str| {
        let list = config[key].as_array().with_context(|| format!("config.backbone.{key} is missing or no list"))?;
        list.iter().map(count).collect::<Result<Vec<_>>>()
    };
    let square = |key: &str| {
        let [rows, columns] = list(key)?[..] else { anyhow::bail!("config.backbone.{key} has not two sides") };
        ensure!(rows == columns, "config.backbone.{key} is not square");
        Ok(rows)
    };
    ensure!(square("query_stride")? == 2, "queries are pooled by two");
    ensure!(config["hidden_act"] == "gelu", "the activation is `gelu`");
    let [rows, columns] = list("window_positional_embedding_background_size")?[..] else {
        anyhow::bail!("the table of positions has not two sides")
    };
    Ok(HieraSizes {
        widths: list("embed_dim_per_stage")?,
        heads: list("num_attention_heads_per_stage")?,
        blocks: list("blocks_per_stage")?,
        windows: list("window_size_per_stage")?,
        global_blocks: list("global_attention_blocks")?,
        num_pooled_stages: count(&config["num_query_pool_stages"])?,
        background: [rows, columns],
        mlp_ratio: config["mlp_ratio"].as_f64().context("config.backbone.mlp_ratio is missing")?,
        patch: [square("patch_kernel_size")?, square("patch_stride")?, square("patch_padding")?],
    })
}

/// The map behind SAM's neck, and its tokens on half the grid, from pixels; every `in.pixels.<i>`.
pub fn sam(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let config = &case.config;
    let sizes = SamSizes {
        hidden_size: config.size("hidden_size")?,
        depth: config.size("num_hidden_layers")?,
        heads: config.size("num_attention_heads")?,
        mlp_size: config.size("mlp_dim")?,
        image_size: config.size("image_size")?,
        patch_size: config.size("patch_size")?,
        window: config.size("window_size")?,
        global_blocks: config.list("global_attn_indexes").iter().map(count).collect::<Result<_>>()?,
        channels: config.size("output_channels")?,
        has_positions: config.flag("use_abs_pos"),
        has_places: config.flag("use_rel_pos"),
    };
    let network = ImageEncoder::new(&sizes, &ParamBuilder::new(device, 0))?;
    let dict = sam::layout().import(&case.params("param."), &parameters(&network))?;
    let network = realign::weights::load_state_dict(network, dict)?;
    for i in case.names("in.pixels.") {
        let map = network.forward(case.tensor(&format!("in.pixels.{i}"), device)?);
        if case.has(&format!("out.{i}.patch_resized")) {
            let tokens = sam::tokens(map.clone(), [sizes.image_size / 2 / 16; 2]);
            found.forward(case, &format!("out.{i}.patch_resized"), tokens)?;
        }
        found.forward(case, &format!("out.{i}.last_hidden_state"), map)?;
    }
    Ok(())
}

/// Preprocessed pictures and tokens behind the fourth pooling.
pub fn vgg(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let resolution = case.config.size("resolution")?;
    let widths: Vec<usize> = case.config.list("widths").iter().map(count).collect::<Result<_>>()?;
    let widths = widths.try_into().ok().context("config.widths has not four entries")?;
    // VGG-19 has a convolution where VGG-16 has its fourth pooling.
    let size = if case.has("param.23.weight") { VggSize::Vgg19 } else { VggSize::Vgg16 };
    let network = VggFeatures::new(&size.layers(widths), &ParamBuilder::new(device, 0));
    let params = case.params("param.").into_iter().map(|(name, tensor)| (format!("features.{name}"), tensor)).collect();
    let dict = vgg::layout().import(&params, &parameters(&network))?;
    let network = realign::weights::load_state_dict(network, dict)?;
    let native_norm = case.config.flag("native_norm");
    let encoder = Vgg { network, input: [resolution, resolution], native_norm };
    let images: Tensor<4> = case.tensor("in.raw", device)?;
    for name in case.names("out.preprocessed_strided") {
        let stride: usize = name.parse().with_context(|| format!("`out.preprocessed_strided{name}` has no stride"))?;
        let kept = |side: usize| side.div_ceil(stride);
        let pixels = encoder.preprocess(images.clone())?;
        let [batch, colors, height, width] = pixels.dims();
        let every = |axis: usize, side: usize, pixels: Tensor<4>| {
            let picked = (0..kept(side)).map(|i| pixels.clone().narrow(axis, i * stride, 1)).collect();
            Tensor::cat(picked, axis)
        };
        let pixels = every(3, width, every(2, height, pixels));
        ensure!(pixels.dims() == [batch, colors, kept(height), kept(width)]);
        found.forward(case, &format!("out.preprocessed_strided{name}"), pixels)?;
    }
    if case.has("out.preprocessed") {
        found.forward(case, "out.preprocessed", encoder.preprocess(images.clone())?)?;
    }
    found.forward(case, "out.patch", encoder.encode(images)?.tokens)
}
