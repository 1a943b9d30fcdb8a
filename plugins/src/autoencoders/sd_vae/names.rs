//! Parameter names of the two layouts in which these weights are published.

use anyhow::{Result, ensure};
use realign::weights::StateDict;

/// The tensors under their names in the first code (CompVis, REPA-E), from either layout.
///
/// diffusers counts decoder levels from the coarsest and keeps the attention's maps as matrices; its older files call
/// them `query`, `key`, `value` and `proj_attn`. A checkpoint's `state_dict.` is cut off, and what belongs to its training
/// loss (`loss.`) is left out.
///
/// # Errors
/// Two tensors would get the same name.
pub fn first_names(dict: StateDict, num_levels: usize) -> Result<StateDict> {
    let mut renamed = StateDict::new();
    for (name, mut tensor) in dict {
        let new = first_name(name.strip_prefix("state_dict.").unwrap_or(&name), num_levels);
        if new.starts_with("loss.") {
            continue;
        }
        let is_map = [".q.weight", ".k.weight", ".v.weight", ".proj_out.weight"].iter().any(|end| new.ends_with(end));
        if is_map && tensor.shape.len() == 2 {
            tensor.shape.extend([1, 1]);
        }
        let is_second = renamed.insert(new.clone(), tensor).is_some();
        ensure!(!is_second, "`{name}` and another tensor both stand for `{new}`");
    }
    Ok(renamed)
}

fn first_name(name: &str, num_levels: usize) -> String {
    let mut parts = vec![];
    let mut words = name.split('.').peekable();
    while let Some(word) = words.next() {
        let mut number = || words.peek().and_then(|next| next.parse::<usize>().ok());
        match (word, number()) {
            ("down_blocks", Some(level)) => parts.extend(["down".to_string(), level.to_string()]),
            ("up_blocks", Some(level)) if level < num_levels => {
                parts.extend(["up".to_string(), (num_levels - 1 - level).to_string()]);
            }
            ("resnets", Some(n)) if parts.last().is_some_and(|last| last == "mid") => {
                parts.push(format!("block_{}", n + 1))
            }
            ("attentions", Some(n)) if parts.last().is_some_and(|last| last == "mid") => {
                parts.push(format!("attn_{}", n + 1))
            }
            ("resnets", Some(n)) => parts.extend(["block".to_string(), n.to_string()]),
            ("attentions", Some(n)) => parts.extend(["attn".to_string(), n.to_string()]),
            ("downsamplers", Some(0)) => parts.push("downsample".into()),
            ("upsamplers", Some(0)) => parts.push("upsample".into()),
            ("to_out", Some(0)) => parts.push("proj_out".into()),
            _ => {
                parts.push(plain(word).to_string());
                continue;
            }
        }
        words.next(); // the number
    }
    parts.join(".")
}

fn plain(word: &str) -> &str {
    match word {
        "mid_block" => "mid",
        "conv_shortcut" => "nin_shortcut",
        "conv_norm_out" => "norm_out",
        "group_norm" => "norm",
        "to_q" | "query" => "q",
        "to_k" | "key" => "k",
        "to_v" | "value" => "v",
        "proj_attn" => "proj_out",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::weights::HostTensor;

    #[test]
    fn names_of_diffusers_become_those_of_the_first_code() {
        for (diffusers, first) in [
            ("encoder.conv_in.bias", "encoder.conv_in.bias"),
            ("encoder.down_blocks.2.resnets.0.conv_shortcut.weight", "encoder.down.2.block.0.nin_shortcut.weight"),
            ("encoder.down_blocks.1.downsamplers.0.conv.bias", "encoder.down.1.downsample.conv.bias"),
            ("encoder.down_blocks.3.attentions.1.to_q.bias", "encoder.down.3.attn.1.q.bias"),
            ("decoder.up_blocks.0.resnets.2.norm1.weight", "decoder.up.3.block.2.norm1.weight"),
            ("decoder.up_blocks.2.upsamplers.0.conv.weight", "decoder.up.1.upsample.conv.weight"),
            ("decoder.mid_block.resnets.1.conv2.bias", "decoder.mid.block_2.conv2.bias"),
            ("encoder.mid_block.attentions.0.group_norm.weight", "encoder.mid.attn_1.norm.weight"),
            ("encoder.mid_block.attentions.0.to_out.0.bias", "encoder.mid.attn_1.proj_out.bias"),
            ("encoder.mid_block.attentions.0.proj_attn.bias", "encoder.mid.attn_1.proj_out.bias"),
            ("encoder.mid_block.attentions.0.query.bias", "encoder.mid.attn_1.q.bias"),
            ("encoder.conv_norm_out.bias", "encoder.norm_out.bias"),
        ] {
            assert_eq!(first_name(diffusers, 4), first);
            assert_eq!(first_name(first, 4), first);
        }
    }

    #[test]
    fn matrices_become_kernels_and_two_of_a_name_are_refused() {
        let tensor = || HostTensor { shape: vec![2, 2], values: vec![0.0; 4] };
        let name = |map: &str| format!("encoder.mid_block.attentions.0.{map}.weight");
        let mut dict = StateDict::from([(name("to_q"), tensor()), ("loss.logvar".to_string(), tensor())]);
        let renamed = first_names(dict.clone(), 4).unwrap();
        assert_eq!(renamed.len(), 1);
        assert_eq!(renamed["encoder.mid.attn_1.q.weight"].shape, [2, 2, 1, 1]);
        dict.insert(name("query"), tensor());
        assert!(first_names(dict, 4).unwrap_err().to_string().contains("encoder.mid.attn_1.q.weight"));
    }
}
