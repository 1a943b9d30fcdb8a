//! Vision transformers: every family is a setting of the encoder `vit`, loaded from a file in its published layout.

use super::case::{Case, count};
use super::compare::Comparison;
use anyhow::{Context, Result, bail, ensure};
use realign::burn::tensor::{Device, Tensor};
use realign::nn::Resampling;
use realign::plugin::PatchGrid;
use realign::weights::{HostTensor, StateDict, write_safetensors};
use realign_plugins::encoders::vit::VitConfig;
use realign_plugins::encoders::vit::architecture::{Positions, Rotary};
use realign_plugins::encoders::vit::mixing::{ClsMixing, Mixing};
use realign_plugins::encoders::vit::network::Tokens;
use realign_plugins::encoders::vit::places::{angles, on_grid};
use realign_plugins::encoders::vit::preprocess::{Normalization, Preprocessing};
use serde_json::{Value, json};
use std::path::Path;

/// Keys of the encoder beside `preset: null` and the file of weights.
type Keys = Value;

/// DINO, I-JEPA, MoCo v3 in timm's layout.
pub fn timm(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    compared(case, &timm_keys(case, true)?, device, found).map(|_| ())
}

/// MAE, whose last norm is not applied.
pub fn mae(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    compared(case, &timm_keys(case, false)?, device, found).map(|_| ())
}

/// DINOv2 in timm's layout.
pub fn dinov2_timm(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let mut keys = timm_keys(case, true)?;
    keys["layer_scale"] = json!(true);
    keys["num_registers"] = json!(case.config.size_or("reg_tokens", 0)?);
    compared(case, &keys, device, found).map(|_| ())
}

fn timm_keys(case: &Case, norm: bool) -> Result<Keys> {
    let config = &case.config;
    let hidden_size = config.size("embed_dim")?;
    Ok(json!({
        "hidden_size": hidden_size,
        "depth": config.size("depth")?,
        "num_heads": config.size("num_heads")?,
        "patch_size": config.size("patch_size")?,
        "mlp_size": scaled(hidden_size, config.number("mlp_ratio", 4.0)),
        "class_token": case.has("param.cls_token"),
        "positions": "bicubic_antialias",
        "position_grid": config.size("img_size")? / config.size("patch_size")?,
        "norm_eps": config.number("layer_norm_eps", 1e-6),
        "norm": norm,
    }))
}

/// Sizes as transformers calls them.
fn hub_keys(case: &Case, mlp_size: usize, norm_eps: f64) -> Result<Keys> {
    let config = &case.config;
    Ok(json!({
        "hidden_size": config.size("hidden_size")?,
        "depth": config.size("num_hidden_layers")?,
        "num_heads": config.size("num_attention_heads")?,
        "patch_size": config.size("patch_size")?,
        "mlp_size": mlp_size,
        "position_grid": config.size_or("image_size", 0)? / config.size("patch_size")?,
        "norm_eps": config.number("layer_norm_eps", norm_eps),
    }))
}

fn hub_activation(word: &str) -> Result<&'static str> {
    Ok(match word {
        "gelu" => "gelu",
        "gelu_pytorch_tanh" | "gelu_new" => "gelu_tanh",
        "quick_gelu" => "quick_gelu",
        other => bail!("hidden_act `{other}` is not known"),
    })
}

/// DINOv2 and WebSSL of transformers, with and without registers.
pub fn dinov2(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let config = &case.config;
    let (num_registers, is_gated) = (config.size_or("num_register_tokens", 0)?, config.flag("use_swiglu_ffn"));
    let mut mlp_size = scaled(config.size("hidden_size")?, config.number("mlp_ratio", 4.0));
    if is_gated {
        mlp_size = (mlp_size * 2 / 3).div_ceil(8) * 8;
    }
    let mut keys = hub_keys(case, mlp_size, 1e-6)?;
    keys["num_registers"] = json!(num_registers);
    keys["layer_scale"] = json!(true);
    keys["activation"] = json!(if is_gated { "swi_glu" } else { hub_activation(config.word("hidden_act", "gelu"))? });
    // The two classes of the library resample differently.
    keys["positions"] = json!(if num_registers > 0 { "bicubic_antialias" } else { "bicubic" });
    compared(case, &keys, device, found).map(|_| ())
}

/// DINOv3, plain and gated.
pub fn dinov3(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let config = &case.config;
    let theta = config.number("rope_theta", 100.0);
    ensure!(theta == 100.0, "rope_theta `{theta}` is not DINOv3's");
    let has = |key: &str| config.0[key].as_bool();
    let [query, key, value] = [("query_bias", true), ("key_bias", false), ("value_bias", true)]
        .map(|(name, default)| has(name).unwrap_or(default));
    let mut keys = hub_keys(case, config.size("intermediate_size")?, 1e-5)?;
    keys["num_registers"] = json!(config.size_or("num_register_tokens", 0)?);
    keys["layer_scale"] = json!(true);
    keys["positions"] = json!("none");
    keys["rotary"] = json!("dinov3");
    keys["qkv_bias"] = json!(if key {
        "full"
    } else if query || value {
        "no_key"
    } else {
        "none"
    });
    let activation = config.word("hidden_act", "gelu");
    keys["activation"] = json!(if config.flag("use_gated_mlp") { "swi_glu" } else { hub_activation(activation)? });
    compared(case, &keys, device, found).map(|_| ())
}

/// CLIP and SigLIP of transformers; both interpolate their tables bicubically where they are asked to.
pub fn clip_hf(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let mut keys = hub_keys(case, case.config.size("intermediate_size")?, 1e-5)?;
    keys["activation"] = json!(hub_activation(case.config.word("hidden_act", "quick_gelu"))?);
    keys["positions"] = json!("bicubic");
    keys["patch_bias"] = json!(false);
    keys["pre_norm"] = json!(true);
    keys["norm"] = json!(false);
    compared(case, &keys, device, found).map(|_| ())
}

pub fn siglip(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let mut keys = hub_keys(case, case.config.size("intermediate_size")?, 1e-6)?;
    keys["activation"] = json!(hub_activation(case.config.word("hidden_act", "gelu_pytorch_tanh"))?);
    keys["positions"] = json!("bicubic");
    keys["class_token"] = json!(false);
    compared(case, &keys, device, found).map(|_| ())
}

/// CLIP and Perception Encoder in OpenAI's layout.
fn openai_keys(case: &Case) -> Result<Keys> {
    let config = &case.config;
    let width = config.size("width")?;
    Ok(json!({
        "hidden_size": width,
        "depth": config.size("layers")?,
        "num_heads": config.size("heads")?,
        "patch_size": config.size("patch_size")?,
        "mlp_size": scaled(width, config.number("mlp_ratio", 4.0)),
        "position_grid": config.size("image_size")? / config.size("patch_size")?,
        "patch_bias": false,
        "pre_norm": true,
        "norm_eps": config.number("layer_norm_eps", 1e-5),
    }))
}

pub fn clip_openai(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let mut keys = openai_keys(case)?;
    keys["activation"] = json!("quick_gelu");
    keys["positions"] = json!("bicubic_antialias");
    keys["norm"] = json!(false);
    compared(case, &keys, device, found).map(|_| ())
}

pub fn perception(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let config = &case.config;
    let mut keys = openai_keys(case)?;
    keys["positions"] = json!("bilinear");
    keys["rotary"] = json!("perception");
    keys["class_token"] = json!(config.flag("use_cls_token"));
    keys["layer_scale"] = json!(!config.0["ls_init_value"].is_null());
    keys["norm"] = json!(config.flag("norm") && config.0["use_ln_post"].as_bool().unwrap_or(true));
    let architecture = vit(&keys, Path::new("unread"))?.settings()?.architecture;
    ensure!(architecture.rotary == Rotary::Perception, "the keys lost their rotation");
    compared(case, &keys, device, found)?;
    for i in case.names("in.pixels.") {
        let name = format!("out.{i}.rope_freq");
        if case.has(&name) {
            let grid = grid(case, &format!("in.pixels.{i}"), architecture.patch_size)?;
            let turned = angles(&architecture, grid, &[]);
            let both: Vec<f64> = turned.iter().flat_map(|angle| [f64::from(*angle); 2]).collect();
            found.values(case, &name, &both)?;
        }
    }
    Ok(())
}

/// C-RADIO with its summary: tokens that `summary_idxs` names.
pub fn cradio(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let config = &case.config;
    let hidden_size = config.size("hidden_size")?;
    let mut keys = hub_keys(case, scaled(hidden_size, config.number("mlp_ratio", 4.0)), 1e-6)?;
    let num_classes = config.size("num_cls_tokens")?;
    keys["class_token"] = json!(false);
    keys["num_registers"] = json!(num_classes + config.size("num_registers")?);
    keys["positions"] = json!("bilinear_cropped");
    keys["position_grid"] = json!(config.size("max_img_size")? / config.size("patch_size")?);
    keys["patch_bias"] = json!(false);
    keys["layer_scale"] = json!(case.names("param.").any(|name| name.ends_with("layer_scale1.lambda1")));
    keys["norm"] = json!(false);
    keys["input_conditioner"] = json!(true);
    keys["activation"] = json!(hub_activation(config.word("hidden_act", "gelu"))?);
    let summary_idxs = config.list("summary_idxs").iter().map(count).collect::<Result<Vec<_>>>()?;
    for (name, tokens) in compared(case, &keys, device, found)? {
        let prefix = tokens.prefix.context("C-RADIO has tokens before the patches")?;
        let token = |at: &usize| prefix.clone().narrow(1, *at, 1).squeeze_dim::<2>(1);
        let summary = Tensor::cat(summary_idxs.iter().map(token).collect(), 1);
        found.forward(case, &format!("out.{name}summary"), summary)?;
    }
    Ok(())
}

/// Runs every `in.pixels` through networks loaded from both namings, compares them, and returns their tokens by the
/// number in the input's name, `0.` or nothing.
fn compared(case: &Case, keys: &Keys, device: &Device, found: &mut Comparison) -> Result<Vec<(String, Tokens)>> {
    let folder = tempfile::tempdir()?;
    let mut recorded = with_all_biases(case.params("param."));
    recorded.remove("summary_idxs"); // integers, which a file of weights has beside them
    let mut results = vec![];
    for (naming, dict) in [("recorded", recorded.clone()), ("published", published(case, recorded)?)] {
        let file = folder.path().join(naming).with_extension("safetensors");
        write_safetensors(&file, &dict)?;
        let vit = vit(keys, &file)?;
        let architecture = vit.settings()?.architecture;
        results.clear();
        for name in case.names("in.pixels") {
            let input = format!("in.pixels{name}");
            let name = name.strip_prefix('.').map(|number| format!("{number}.")).unwrap_or_default();
            let grid = grid(case, &input, architecture.patch_size)?;
            let network = vit.network(grid, folder.path(), device).with_context(|| format!("{naming} names"))?;
            let pixels = case.tensor::<4>(&input, device)?;
            // What is recorded for C-RADIO are pixels before they are moved to 0..1.
            let pixels = if architecture.input_conditioner { pixels * 0.25 + 0.5 } else { pixels };
            let tokens = network.forward(pixels);
            if architecture.class_token {
                let prefix = tokens.prefix.clone().context("a class token is a token before the patches")?;
                found.forward(case, &format!("out.{name}cls"), prefix.narrow(1, 0, 1).squeeze_dim::<2>(1))?;
            }
            found.forward(case, &format!("out.{name}patch"), tokens.patches.clone())?;
            results.push((name, tokens));
        }
        ensure!(!results.is_empty(), "the case has no `in.pixels`");
    }
    Ok(results)
}

fn vit(keys: &Keys, weights: &Path) -> Result<VitConfig> {
    let mut keys = keys.clone();
    keys["preset"] = Value::Null;
    keys["weights"] = json!(weights);
    Ok(serde_json::from_value(keys)?)
}

fn grid(case: &Case, input: &str, patch_size: usize) -> Result<PatchGrid> {
    let [_, _, height, width] = case.shape::<4>(input)?;
    Ok(PatchGrid::new(height / patch_size, width / patch_size))
}

/// As Python's `int(size * ratio)`.
fn scaled(size: usize, ratio: f64) -> usize {
    (size as f64 * ratio) as usize
}

/// Zeros where a recorded network leaves out the bias of a projection or MLP, which no published one does.
fn with_all_biases(mut dict: StateDict) -> StateDict {
    let is_one = |name: &String| {
        let (layer, _) = name.rsplit_once('.').unwrap_or_default();
        name.ends_with(".weight") && (layer.contains(".mlp.") || layer.ends_with(".o_proj"))
    };
    let weights: Vec<_> = dict.iter().filter(|(name, _)| is_one(name)).map(|(n, t)| (n.clone(), t.shape[0])).collect();
    for (weight, out) in weights {
        let bias = weight.replace(".weight", ".bias");
        dict.entry(bias).or_insert_with(|| HostTensor { shape: vec![out], values: vec![0.0; out] });
    }
    dict
}

/// The recorded parameters under their published names; where a published tensor holds several, their rows in order.
fn published(case: &Case, mut dict: StateDict) -> Result<StateDict> {
    let names = &case.checkpoint_names;
    let index = |name: &str| name.split('.').find_map(|segment| segment.parse::<usize>().ok());
    let kind = |name: &str| name.rsplit('.').next().unwrap_or_default().to_string();
    let mut fused = StateDict::new();
    for whole in &names.unmatched_published {
        let parts: &[&str] =
            if whole.contains("qkv") { &["q_proj", "k_proj", "v_proj"] } else { &["gate_proj", "up_proj"] };
        let mut together = HostTensor { shape: vec![], values: vec![] };
        for part in parts {
            let is_it =
                |name: &&String| index(name) == index(whole) && kind(name) == kind(whole) && name.contains(part);
            let name =
                names.unmatched_state_dict.iter().find(is_it).with_context(|| format!("no `{part}` for `{whole}`"))?;
            let tensor = dict.remove(name).with_context(|| format!("`{name}` was not recorded"))?;
            let rows = together.shape.first().copied().unwrap_or(0) + tensor.shape[0];
            together.shape = std::iter::once(rows).chain(tensor.shape[1..].iter().copied()).collect();
            together.values.extend(tensor.values);
        }
        fused.insert(whole.clone(), together);
    }
    let renamed = dict.into_iter().map(|(name, tensor)| (names.map.get(&name).cloned().unwrap_or(name), tensor));
    Ok(renamed.chain(fused).collect())
}

/// Tables of positions on another grid, as timm resamples them.
pub fn pos_embed_resample(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    for (i, item) in case.config.list("items").iter().enumerate() {
        let numbers: Vec<usize> = item.as_array().into_iter().flatten().map(count).collect::<Result<_>>()?;
        let [old, new, ..] = numbers[..] else { bail!("item {i} has no two sides") };
        let table = case.tensor::<3>(&format!("in.{i}"), device)?;
        let moved = on_grid(table, old, PatchGrid::new(new, new), Positions::BicubicAntialias);
        found.forward(case, &format!("out.{i}"), moved)?;
    }
    Ok(())
}

/// Class tokens mixed into patches by both formulas.
pub fn cls_mixing(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let (patches, class_token) = (case.tensor::<3>("in.patch", device)?, case.tensor::<2>("in.cls", device)?);
    for name in case.names("out.") {
        let (formula, alpha) = name.split_once(".alpha").with_context(|| format!("`out.{name}` names no alpha"))?;
        let mode = match formula {
            "repository" => Mixing::Convex,
            "paper" => Mixing::Additive,
            other => bail!("formula `{other}` is not known"),
        };
        let mixing = ClsMixing { mode, alpha: alpha.parse()? };
        found.forward(case, &format!("out.{name}"), mixing.mix(patches.clone(), class_token.clone()))?;
    }
    Ok(())
}

/// Pictures as each family of encoders gets them.
pub fn preprocess(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let (raw_size, resolution) = (case.config.size("raw_size")?, case.config.size("resolution")?);
    let stride = case.config.size_or("stride", 1)?;
    for name in case.names("out.").filter_map(|name| name.strip_suffix(".shape")) {
        let (preprocessing, side) = preprocessing(name, resolution, raw_size)?;
        let pixels = preprocessing.apply(case.tensor::<4>("in.raw", device)?, [side, side]);
        let shape: Vec<f64> = pixels.dims().iter().map(|size| *size as f64).collect();
        found.values(case, &format!("out.{name}.shape"), &shape)?;
        let kept = Tensor::arange_step(0..side as i64, stride, device);
        let pixels = pixels.select(2, kept.clone()).select(3, kept);
        found.forward(case, &format!("out.{name}.s{stride}"), pixels)?;
    }
    Ok(())
}

/// Preprocessing of a preset, or of an encoder that is no vision transformer; and the side of its pictures.
fn preprocessing(name: &str, resolution: usize, raw_size: usize) -> Result<(Preprocessing, usize)> {
    let (preset, side) = match name {
        "dino" => ("dino-vit-b", resolution),
        "dinov2" => ("dinov2-vit-b", 224 * (resolution / 256)),
        "webssl" => ("webssl-vit-dino300m_full2b_224", 224 * (resolution / 256)),
        "jepa" => ("jepa-vit-h", 224 * (resolution / 256)),
        "dinov3" => ("dinov3-vit-b16", resolution),
        "mocov3" => ("mocov3-vit-b", raw_size),
        "mae" => ("mae-vit-l", raw_size),
        "clip" => ("clip-vit-L", 224 * (raw_size / 256)),
        "siglip" => ("siglip-vit-b", resolution),
        "siglip_so400m" => ("siglip-vit-so400m", 14 * (resolution / 16)),
        "siglip2" => ("siglip2-vit-b", resolution),
        "pe" | "pe16" | "spatialpe" | "spatialpe16" => ("pe-vit-b", resolution),
        "pe14" | "langpe" | "langpe14" | "spatialpe14" => ("pe-vit-l", 14 * (resolution / 16)),
        "cradio" => ("cradio-vit-b", resolution),
        "sam" => return Ok((resized_then_imagenet(Resampling::Bicubic), 1024)),
        "sam2" => return Ok((resized_then_imagenet(Resampling::Bicubic), 2 * resolution)),
        "vgg" => return Ok((resized_then_imagenet(Resampling::Bilinear), resolution)),
        other => bail!("encoder `{other}` is not known"),
    };
    Ok((VitConfig::preset(preset).settings()?.preprocessing, side))
}

fn resized_then_imagenet(resize: Resampling) -> Preprocessing {
    Preprocessing { normalization: Normalization::Imagenet, normalize_first: false, resize }
}
