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

/// Blocks of DINOv3 below `$layer`.
macro_rules! dinov3_blocks {
    ($map:expr, $layer:literal) => {
        $map.concat(
            "blocks.*.attn.qkv.weight",
            &[
                concat!($layer, ".attention.q_proj.weight"),
                concat!($layer, ".attention.k_proj.weight"),
                concat!($layer, ".attention.v_proj.weight"),
            ],
        )
        .concat_or_zeros(
            "blocks.*.attn.qkv.bias",
            &[
                concat!($layer, ".attention.q_proj.bias"),
                concat!($layer, ".attention.k_proj.bias"),
                concat!($layer, ".attention.v_proj.bias"),
            ],
            &[concat!($layer, ".attention.k_proj.bias")],
        )
        .rename("blocks.*.attn.proj.**", concat!($layer, ".attention.o_proj.**"))
        .rename("blocks.*.ls1.gamma", concat!($layer, ".layer_scale1.lambda1"))
        .rename("blocks.*.ls2.gamma", concat!($layer, ".layer_scale2.lambda1"))
        .concat("blocks.*.mlp.w12.**", &[concat!($layer, ".mlp.gate_proj.**"), concat!($layer, ".mlp.up_proj.**")])
        .rename("blocks.*.mlp.w3.**", concat!($layer, ".mlp.down_proj.**"))
        .rename("blocks.*.mlp.fc1.**", concat!($layer, ".mlp.up_proj.**"))
        .rename("blocks.*.mlp.fc2.**", concat!($layer, ".mlp.down_proj.**"))
        .rename("blocks.*.**", concat!($layer, ".**"))
    };
}

/// DINOv3 of transformers 4 and 5, which has one more segment before `layer`.
fn dinov3() -> KeyMap {
    let map = KeyMap::new()
        .rename("patch_embed.proj.**", "embeddings.patch_embeddings.**")
        .rename("cls_token", "embeddings.cls_token")
        .rename("register_tokens", "embeddings.register_tokens")
        .ignore(&["embeddings.mask_token"]);
    dinov3_blocks!(dinov3_blocks!(map, "layer.*"), "model.layer.*")
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

#[cfg(test)]
mod tests {
    use realign::weights::{state_dict, write_safetensors};
    use serde_json::{Value, json};

    use super::super::VitConfig;
    use super::super::presets::{Preset, presets};
    use super::*;

    /// A preset at a reduced width and depth.
    fn reduced(preset: &Preset, keys: Value) -> Architecture {
        let mut all = json!({"preset": preset.name, "hidden_size": 8, "depth": 2, "num_heads": 2, "mlp_size": 6});
        all.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        serde_json::from_value::<VitConfig>(all).unwrap().settings().unwrap().architecture
    }

    fn network(architecture: &Architecture, seed: u64) -> VisionTransformer {
        VisionTransformer::new(architecture, architecture.depth, &ParamBuilder::new(&Device::flex(), seed))
    }

    fn tensor(shape: &[usize], value: f32) -> HostTensor {
        HostTensor { shape: shape.to_vec(), values: vec![value; shape.iter().product()] }
    }

    /// The layouts of a preset's published files: map, prefix, and what else lies in them.
    fn published(preset: &Preset) -> Vec<(KeyMap, &'static str, &'static [&'static str])> {
        let meta: &[&str] = &["mask_token"];
        match preset.title.as_str() {
            "DINO" => vec![(timm(), "", &[])],
            // Meta's names of DINOv2 are ours.
            "DINOv2" | "WebSSL" => vec![
                (KeyMap::new(), "", meta),
                (dinov2(), "", &["embeddings.mask_token"]),
                (dinov2(), "dinov2.", &["dinov2.embeddings.mask_token", "classifier.weight"]),
            ],
            "DINOv3" => vec![(timm(), "", meta), (dinov3(), "", &["embeddings.mask_token"])],
            "Perception Encoder" => {
                vec![
                    (openai(), "", &["proj", "attn_pool.probe"]),
                    (openai(), "visual.", &["positional_embedding", "logit_scale"]),
                ]
            }
            "C-RADIO v3" => vec![
                (radio(), "state_dict.base_model.", &["state_dict.input_conditioner.norm_mean"]),
                (radio(), "radio_model.model.", &["radio_model.input_conditioner.norm_mean"]),
                (radio_hub(), "", &[]),
            ],
            "CLIP" => vec![
                (openai(), "visual.", &["visual.proj", "transformer.resblocks.0.ln_1.weight", "visual.ln_post.weight"]),
                (
                    clip(),
                    "vision_model.",
                    &["text_model.final_layer_norm.weight", "vision_model.post_layernorm.weight"],
                ),
            ],
            "MoCo v3" | "MoCo v3, small" => vec![(
                timm(),
                "state_dict.module.base_encoder.",
                &["state_dict.module.base_encoder.head.0.weight", "state_dict.module.predictor.0.weight"],
            )],
            "I-JEPA" => {
                vec![(timm(), "encoder.module.", &["predictor.module.mask_token", "target_encoder.module.pos_embed"])]
            }
            "MAE" => vec![(timm(), "model.", &["model.norm.weight", "model.norm.bias"])],
            "SigLIP" => vec![(clip(), "vision_model.", &["vision_model.head.probe", "logit_bias"])],
            other => panic!("no layout of {other}"),
        }
    }

    #[test]
    fn every_preset_loads_a_file_in_each_published_layout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        for preset in presets() {
            let architecture = reduced(preset, json!({}));
            let mut ours = state_dict(&network(&architecture, 1));
            if architecture.qkv_bias == QkvBias::NoKey {
                ours.iter_mut()
                    .filter(|(name, _)| name.ends_with("qkv.bias"))
                    .for_each(|(_, bias)| bias.values[8..16].fill(0.0));
            }
            let is_constant = |name: &str| name.starts_with("rope_embed.") || name.starts_with("input_conditioner.");
            let exported: StateDict = ours.clone().into_iter().filter(|(name, _)| !is_constant(name)).collect();
            for (map, prefix, others) in published(preset) {
                let mut file = map.export(exported.clone(), prefix).unwrap();
                file.extend(others.iter().map(|name| (name.to_string(), tensor(&[3], 0.5))));
                write_safetensors(&path, &file).unwrap();
                let loaded = load(network(&architecture, 2), &path, &architecture);
                let loaded =
                    state_dict(&loaded.unwrap_or_else(|problem| panic!("{}: {prefix}: {problem:#}", preset.name)));
                for (name, tensor) in ours.iter().filter(|(name, _)| !name.contains("norm_mean")) {
                    assert!(loaded[name] == *tensor, "{}: {prefix}: {name}", preset.name);
                }
            }
        }
    }

    fn written(preset: &str, keys: Value, change: impl FnOnce(&mut StateDict)) -> (Architecture, Result<StateDict>) {
        let architecture = reduced(Preset::find(preset).unwrap(), keys);
        let mut file = timm().export(state_dict(&network(&architecture, 1)), "").unwrap();
        file.retain(|name, _| !name.starts_with("rope_embed"));
        change(&mut file);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        write_safetensors(&path, &file).unwrap();
        let loaded = load(network(&architecture, 2), &path, &architecture);
        (architecture, loaded.map(|network| state_dict(&network)))
    }

    #[test]
    fn wrong_files_are_refused_under_published_names() {
        type Change = fn(&mut StateDict);
        let cases: [(&str, &[&str], Change); 5] = [
            ("dinov3-vit-b16", &["storage_tokens", "missing"], |file| drop(file.remove("storage_tokens"))),
            ("dinov3-vit-h16plus", &["blocks.1.mlp.w2.weight"], |file| drop(file.remove("blocks.1.mlp.w2.weight"))),
            ("dino-vit-b", &["blocks.2.norm1.weight"], |file| {
                drop(file.insert("blocks.2.norm1.weight".into(), tensor(&[8], 1.0)))
            }),
            ("dino-vit-b", &["pos_embed", "[1, 5, 8]", "[1, 197, 8]"], |file| {
                drop(file.insert("pos_embed".into(), tensor(&[1, 5, 8], 1.0)))
            }),
            ("dino-vit-b", &["no known layout", "patch_embed.proj.weight"], |file| {
                file.retain(|name, _| name.starts_with("norm"))
            }),
        ];
        for (preset, words, change) in cases {
            let message = format!("{:#}", written(preset, json!({}), change).1.unwrap_err());
            assert!(words.iter().all(|word| message.contains(word)), "{preset}: {message}");
        }
    }

    #[test]
    fn a_masked_bias_of_keys_is_zero_and_stored_periods_are_taken() {
        let (_, loaded) = written("dinov3-vit-b16", json!({}), |file| {
            for block in 0..2 {
                file.insert(format!("blocks.{block}.attn.qkv.bias"), tensor(&[24], 7.0));
                file.insert(format!("blocks.{block}.attn.qkv.bias_mask"), tensor(&[24], 1.0));
            }
            file.insert("rope_embed.periods".into(), tensor(&[1], 3.5));
            file.insert("local_cls_norm.weight".into(), tensor(&[8], 1.0));
        });
        let loaded = loaded.unwrap();
        assert_eq!(loaded["blocks.1.attn.qkv.bias"].values, [[7.0; 8], [0.0; 8], [7.0; 8]].concat());
        assert_eq!(loaded["rope_embed.periods"].values, [3.5]);
    }

    #[test]
    fn a_table_without_the_class_tokens_row_gets_a_row_of_zeros() {
        let (_, loaded) = written("dinov2reg-vit-b", json!({"position_grid": 3}), |file| {
            file.insert("pos_embed".into(), tensor(&[1, 9, 8], 2.0));
            let registers = file.remove("storage_tokens").unwrap();
            file.insert("reg_token".into(), registers);
        });
        assert_eq!(loaded.unwrap()["pos_embed"].values, [vec![0.0; 8], vec![2.0; 72]].concat());
    }

    #[test]
    fn misspelt_names_of_moco_v3_are_known_and_so_are_the_right_ones() {
        const MISSPELT: [(&str, &str); 4] = [
            ("blocks.13.norm13.", "blocks.13.norm1."),
            ("blocks.13.mlp.fc13.", "blocks.13.mlp.fc1."),
            ("blocks.14.norm14.", "blocks.14.norm2."),
            ("blocks.14.mlp.fc14.", "blocks.14.mlp.fc2."),
        ];
        for is_corrected in [false, true] {
            let (architecture, loaded) = written("mocov3-vit-l", json!({"depth": 15}), |file| {
                for (wrong, right) in MISSPELT {
                    let name = format!("{wrong}weight");
                    let tensor = file.remove(&name).unwrap();
                    file.insert(if is_corrected { format!("{right}weight") } else { name }, tensor);
                }
            });
            assert!(loaded.unwrap() == state_dict(&network(&architecture, 1)));
        }
    }

    #[test]
    fn features_that_are_normalized_in_an_unknown_way_are_refused() {
        let architecture = reduced(Preset::find("cradio-vit-b").unwrap(), json!({}));
        let mut file = radio().export(state_dict(&network(&architecture, 1)), "radio_model.model.").unwrap();
        file.retain(|name, _| !name.contains("input_conditioner"));
        file.insert("radio_model.feature_normalizer.mean".into(), tensor(&[8], 1.0));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        write_safetensors(&path, &file).unwrap();
        let message = load(network(&architecture, 2), &path, &architecture).unwrap_err().to_string();
        assert!(message.contains("feature_normalizer"), "{message}");
    }
}
