//! The layouts in which vision transformers are published, and how their names become ours.
//!
//! Our names are timm's. Queries, keys and values lie below one another in `attn.qkv`, gate and way up of a gated MLP in
//! `mlp.w12`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use realign::burn::tensor::Device;
use realign::nn::ParamBuilder;
use realign::weights::{HostTensor, KeyMap, StateDict, TensorFile, load_state_dict, parameters};

use super::architecture::{Architecture, QkvBias, Rotary};
use super::network::VisionTransformer;
use super::places::dinov3_periods;
use super::preprocess::Normalization;

/// A layout: its name, the end of a name that only it has, and its map.
struct Layout {
    title: &'static str,
    marker: &'static str,
    map: fn() -> KeyMap,
}

const LAYOUTS: [Layout; 7] = [
    Layout { title: "timm and Meta", marker: "patch_embed.proj.weight", map: timm },
    Layout { title: "Hugging Face DINOv2", marker: "embeddings.patch_embeddings.projection.weight", map: dinov2 },
    Layout { title: "Hugging Face DINOv3", marker: "embeddings.patch_embeddings.weight", map: dinov3 },
    Layout { title: "Hugging Face CLIP and SigLIP", marker: "embeddings.patch_embedding.weight", map: clip },
    Layout { title: "OpenAI CLIP and Perception Encoder", marker: "conv1.weight", map: openai },
    Layout { title: "RADIO", marker: "patch_generator.embedder.weight", map: radio },
    Layout { title: "Hugging Face RADIO", marker: "embeddings.patch_projection.weight", map: radio_hub },
];

/// The network with its weights from a file in any layout.
///
/// # Errors
/// The file cannot be read, has no known layout, or does not fit the architecture; tensors are listed by their
/// published names.
pub(super) fn load(network: VisionTransformer, path: &Path, architecture: &Architecture) -> Result<VisionTransformer> {
    let file = TensorFile::open(path)?;
    let names = || file.tensors().map(|(name, _)| name);
    let Some(layout) = LAYOUTS.iter().find(|layout| names().any(|name| ends_with(name, layout.marker))) else {
        let known: Vec<_> = LAYOUTS.iter().map(|layout| format!("`{}` ({})", layout.marker, layout.title)).collect();
        let first: Vec<_> = names().take(4).collect();
        bail!(
            "`{}` has no known layout: none of its tensors ends in {}; the first are called {}",
            path.display(),
            known.join(", "),
            first.join(", ")
        )
    };
    ensure!(
        !names().any(|name| name.contains("feature_normalizer")),
        "`{}` normalizes its features in a way that is not known here: it has `feature_normalizer`",
        path.display()
    );
    let published =
        imported(&file, layout, architecture).with_context(|| format!("weights in the layout of {}", layout.title))?;
    // Where fewer blocks are evaluated, those behind them are not kept.
    let wanted = parameters(&network);
    let dict = published.into_iter().filter(|(name, _)| wanted.iter().any(|param| param.name == *name)).collect();
    load_state_dict(network, dict)
}

fn imported(file: &TensorFile, layout: &Layout, architecture: &Architecture) -> Result<StateDict> {
    // All blocks and tables of the published network, declared and never made.
    let declared = ParamBuilder::new(&Device::flex(), 0);
    let mut wanted = parameters(&VisionTransformer::new(architecture, architecture.depth, &declared));
    let mut map = (layout.map)().ignore(&["rope_embed.**", "input_conditioner.**"]);
    if !architecture.norm {
        map = map.ignore(&["norm.**", "layernorm.**", "ln_post.**", "post_layernorm.**"]);
    }
    let mut dict = constants(file, architecture)?;
    wanted.retain(|param| !dict.contains_key(&param.name));
    let lacks_class_row = architecture.class_token && has_rows_of_patches_only(file, architecture);
    if lacks_class_row && let Some(table) = wanted.iter_mut().find(|param| param.name == "pos_embed") {
        table.shape[1] -= 1;
    }
    dict.extend(map.take(file, &wanted)?);
    if lacks_class_row && let Some(table) = dict.get_mut("pos_embed") {
        // timm adds the class token's position to the token itself.
        table.shape[1] += 1;
        table.values.splice(0..0, vec![0.0; architecture.hidden_size]);
    }
    if architecture.qkv_bias == QkvBias::NoKey {
        // Meta's files hold a bias of keys and a mask that takes it away.
        let d = architecture.hidden_size;
        for (_, bias) in dict.iter_mut().filter(|(name, _)| name.ends_with("attn.qkv.bias")) {
            bias.values[d..2 * d].fill(0.0);
        }
    }
    Ok(dict)
}

/// Constants of the network: the file's, or the known ones where it has none.
fn constants(file: &TensorFile, architecture: &Architecture) -> Result<StateDict> {
    let mut known = vec![];
    if architecture.rotary == Rotary::Dinov3 {
        known.push(("rope_embed.periods", dinov3_periods(architecture.head_dim())));
    }
    if architecture.input_conditioner {
        let [mean, deviation] = Normalization::Clip.constants().map(Vec::from);
        known.extend([("input_conditioner.norm_mean", mean), ("input_conditioner.norm_std", deviation)]);
    }
    let mut dict = StateDict::new();
    for (name, known) in known {
        let count = known.len();
        let values = match file.tensors().find(|(published, _)| ends_with(published, name)) {
            Some((published, _)) => file.read(published)?.values,
            None => known,
        };
        ensure!(values.len() == count, "`{name}` has {} values, expected {count}", values.len());
        dict.insert(name.into(), HostTensor { shape: vec![count], values });
    }
    Ok(dict)
}

fn has_rows_of_patches_only(file: &TensorFile, architecture: &Architecture) -> bool {
    let shape = [1, architecture.position_grid * architecture.position_grid, architecture.hidden_size];
    file.tensors().any(|(name, info)| ends_with(name, "pos_embed") && info.shape == shape)
}

fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// DINO, DINOv2, DINOv3, WebSSL, MAE, I-JEPA, MoCo v3.
fn timm() -> KeyMap {
    KeyMap::new()
        .strip(&["state_dict.", "model.", "encoder."])
        .strip(&["module.base_encoder.", "module."])
        .rename("register_tokens", "storage_tokens")
        .rename("register_tokens", "reg_token")
        .concat("blocks.*.mlp.w12.**", &["blocks.*.mlp.w1.**", "blocks.*.mlp.w2.**"])
        // timm's own conversion of DINOv2 giant.
        .rename("blocks.*.mlp.w12.**", "blocks.*.mlp.fc1.**")
        .rename("blocks.*.mlp.w3.**", "blocks.*.mlp.fc2.**")
        // Misspelt in the published file of MoCo v3 ViT-L.
        .rename("blocks.13.norm1.**", "blocks.13.norm13.**")
        .rename("blocks.13.mlp.fc1.**", "blocks.13.mlp.fc13.**")
        .rename("blocks.14.norm2.**", "blocks.14.norm14.**")
        .rename("blocks.14.mlp.fc2.**", "blocks.14.mlp.fc14.**")
        .ignore(&["mask_token", "blocks.*.attn.qkv.bias_mask", "local_cls_norm.**", "head.**", "fc.**"])
}

/// DINOv2 and WebSSL of transformers 4 and 5.
fn dinov2() -> KeyMap {
    KeyMap::new()
        .strip(&["dinov2_with_registers.", "dinov2."])
        .rename("patch_embed.proj.**", "embeddings.patch_embeddings.projection.**")
        .rename("cls_token", "embeddings.cls_token")
        .rename("register_tokens", "embeddings.register_tokens")
        .rename("pos_embed", "embeddings.position_embeddings")
        .concat(
            "blocks.*.attn.qkv.**",
            &[
                "encoder.layer.*.attention.attention.query.**",
                "encoder.layer.*.attention.attention.key.**",
                "encoder.layer.*.attention.attention.value.**",
            ],
        )
        .concat(
            "blocks.*.attn.qkv.**",
            &[
                "encoder.layer.*.attention.q_proj.**",
                "encoder.layer.*.attention.k_proj.**",
                "encoder.layer.*.attention.v_proj.**",
            ],
        )
        .rename("blocks.*.attn.proj.**", "encoder.layer.*.attention.output.dense.**")
        .rename("blocks.*.attn.proj.**", "encoder.layer.*.attention.o_proj.**")
        .rename("blocks.*.ls1.gamma", "encoder.layer.*.layer_scale1.lambda1")
        .rename("blocks.*.ls2.gamma", "encoder.layer.*.layer_scale2.lambda1")
        .rename("blocks.*.mlp.w12.**", "encoder.layer.*.mlp.weights_in.**")
        .concat("blocks.*.mlp.w12.**", &["encoder.layer.*.mlp.gate_proj.**", "encoder.layer.*.mlp.up_proj.**"])
        .rename("blocks.*.mlp.w3.**", "encoder.layer.*.mlp.weights_out.**")
        .rename("blocks.*.mlp.w3.**", "encoder.layer.*.mlp.down_proj.**")
        .rename("blocks.*.**", "encoder.layer.*.**")
        .rename("norm.**", "layernorm.**")
        .ignore(&["embeddings.mask_token"])
}

/// DINOv3 of transformers 4 and 5, which has one more segment before `layer`.
fn dinov3() -> KeyMap {
    let map = KeyMap::new()
        .rename("patch_embed.proj.**", "embeddings.patch_embeddings.**")
        .rename("cls_token", "embeddings.cls_token")
        .rename("register_tokens", "embeddings.register_tokens")
        .ignore(&["embeddings.mask_token"]);
    ["layer.*", "model.layer.*"].into_iter().fold(map, |map, layer| {
        let at = |name: &str| format!("{layer}.{name}");
        let qkv = |kind: &str| ["q", "k", "v"].map(|part| at(&format!("attention.{part}_proj.{kind}")));
        map.concat("blocks.*.attn.qkv.weight", &qkv("weight"))
            .concat_or_zeros("blocks.*.attn.qkv.bias", &qkv("bias"), &qkv("bias"))
            .rename("blocks.*.attn.proj.**", &at("attention.o_proj.**"))
            .rename("blocks.*.ls1.gamma", &at("layer_scale1.lambda1"))
            .rename("blocks.*.ls2.gamma", &at("layer_scale2.lambda1"))
            .concat("blocks.*.mlp.w12.**", &[at("mlp.gate_proj.**"), at("mlp.up_proj.**")])
            .rename("blocks.*.mlp.w3.**", &at("mlp.down_proj.**"))
            .rename("blocks.*.mlp.fc1.**", &at("mlp.up_proj.**"))
            .rename("blocks.*.mlp.fc2.**", &at("mlp.down_proj.**"))
            .rename("blocks.*.**", &at("**"))
    })
}

/// CLIP and SigLIP; both towers or the vision tower alone.
fn clip() -> KeyMap {
    KeyMap::new()
        .strip(&["vision_model."])
        .rename("patch_embed.proj.**", "embeddings.patch_embedding.**")
        .reshape("cls_token", "embeddings.class_embedding", |ours| ours[2..].to_vec())
        .reshape("pos_embed", "embeddings.position_embedding.weight", |ours| ours[1..].to_vec())
        .rename("norm_pre.**", "pre_layrnorm.**")
        .concat(
            "blocks.*.attn.qkv.**",
            &[
                "encoder.layers.*.self_attn.q_proj.**",
                "encoder.layers.*.self_attn.k_proj.**",
                "encoder.layers.*.self_attn.v_proj.**",
            ],
        )
        .rename("blocks.*.attn.proj.**", "encoder.layers.*.self_attn.out_proj.**")
        .rename("blocks.*.norm1.**", "encoder.layers.*.layer_norm1.**")
        .rename("blocks.*.norm2.**", "encoder.layers.*.layer_norm2.**")
        .rename("blocks.*.mlp.**", "encoder.layers.*.mlp.**")
        .rename("norm.**", "post_layernorm.**")
        .ignore(&["head.**"])
}

/// CLIP of OpenAI and the Perception Encoder; both towers or the vision tower alone.
fn openai() -> KeyMap {
    KeyMap::new()
        .strip(&["state_dict.", "weights."])
        .strip(&["module."])
        .strip(&["visual.", "model."])
        .rename("patch_embed.proj.weight", "conv1.weight")
        .reshape("cls_token", "class_embedding", |ours| ours[2..].to_vec())
        .reshape("pos_embed", "positional_embedding", |ours| ours[1..].to_vec())
        .rename("norm_pre.**", "ln_pre.**")
        .rename("blocks.*.attn.qkv.weight", "transformer.resblocks.*.attn.in_proj_weight")
        .rename("blocks.*.attn.qkv.bias", "transformer.resblocks.*.attn.in_proj_bias")
        .rename("blocks.*.attn.proj.**", "transformer.resblocks.*.attn.out_proj.**")
        .rename("blocks.*.norm1.**", "transformer.resblocks.*.ln_1.**")
        .rename("blocks.*.norm2.**", "transformer.resblocks.*.ln_2.**")
        .rename("blocks.*.ls1.gamma", "transformer.resblocks.*.ls_1.gamma")
        .rename("blocks.*.ls2.gamma", "transformer.resblocks.*.ls_2.gamma")
        .rename("blocks.*.mlp.fc1.**", "transformer.resblocks.*.mlp.c_fc.**")
        .rename("blocks.*.mlp.fc2.**", "transformer.resblocks.*.mlp.c_proj.**")
        .rename("norm.**", "ln_post.**")
        .ignore(&["attn_pool.**", "proj"])
}

/// C-RADIO as published: in a `.pth.tar`, or in the safetensors file of its repository.
fn radio() -> KeyMap {
    KeyMap::new()
        .strip(&["state_dict_ema.", "state_dict.", "radio_model."])
        .strip(&["base_model.", "model."])
        .reshape("patch_embed.proj.weight", "patch_generator.embedder.weight", flat_patches)
        .reshape("register_tokens", "patch_generator.cls_token.token", |ours| ours[1..].to_vec())
        .rename("pos_embed", "patch_generator.pos_embed")
        .rename("blocks.*.ls1.gamma", "blocks.*.ls1.grandma")
        .rename("blocks.*.ls1.gamma", "blocks.*.layer_scale1.lambda1")
        .rename("blocks.*.ls2.gamma", "blocks.*.ls2.grandma")
        .rename("blocks.*.ls2.gamma", "blocks.*.layer_scale2.lambda1")
}

/// C-RADIO of transformers 5.
fn radio_hub() -> KeyMap {
    KeyMap::new()
        .reshape("patch_embed.proj.weight", "embeddings.patch_projection.weight", flat_patches)
        .reshape("register_tokens", "embeddings.cls_register_token", |ours| ours[1..].to_vec())
        .rename("pos_embed", "embeddings.position_embedding")
        .concat(
            "blocks.*.attn.qkv.**",
            &[
                "encoder.layer.*.attention.q_proj.**",
                "encoder.layer.*.attention.k_proj.**",
                "encoder.layer.*.attention.v_proj.**",
            ],
        )
        .rename("blocks.*.attn.proj.**", "encoder.layer.*.attention.o_proj.**")
        .rename("blocks.*.ls1.gamma", "encoder.layer.*.layer_scale1.lambda1")
        .rename("blocks.*.ls2.gamma", "encoder.layer.*.layer_scale2.lambda1")
        .rename("blocks.*.**", "encoder.layer.*.**")
}

/// A linear map of flattened patches, for our convolution.
fn flat_patches(ours: &[usize]) -> Vec<usize> {
    vec![ours[0], ours[1..].iter().product()]
}
