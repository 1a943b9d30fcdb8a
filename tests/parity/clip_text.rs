//! CLIP's text encoder with its tokenizer, from files in both published layouts of the tokenizer.

use super::case::Case;
use super::compare::Comparison;
use anyhow::{Context, Result, ensure};
use realign::burn::tensor::Device;
use realign::nn::ParamBuilder;
use realign::plugin::{Condition, ConditionerConfig, ConditionerContext};
use realign::weights::{to_host, write_safetensors};
use serde_json::{Value, json};
use std::fs;

pub fn clip_text(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let config = &case.config;
    let texts = |key: &str| config.list(key).iter().map(|text| Some(text.as_str()?.to_string())).collect::<Vec<_>>();
    let merges: Option<Vec<String>> = texts("merges").into_iter().collect();
    let merges = format!("#version: 0.2\n{}\n", merges.context("config.merges is no list of texts")?.join("\n"));
    let write = |value: &Value| serde_json::to_vec(value).context("cannot write the file");
    let one_file = vec![("tokenizer.json", write(&config.0["tokenizer_json"])?)];
    let two_files = vec![("vocab.json", write(&config.0["vocab"])?), ("merges.txt", merges.into_bytes())];
    let [_, tokens, channels] = case.shape::<3>("out.features")?;
    for files in [one_file, two_files] {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("config.json"), write(&config.0["config_json"])?)?;
        write_safetensors(&folder.path().join("model.safetensors"), &case.params("param."))?;
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes)?;
        }
        let settings = json!({ "type": "clip_text", "path": folder.path(), "tokens": tokens, "channels": channels });
        let conditioner: Box<dyn ConditionerConfig> = serde_json::from_value(settings)?;
        let context = ConditionerContext { num_classes: 1, weights_dir: "absent".into() };
        let conditioner = conditioner.build(&context, &ParamBuilder::new(device, 0))?;
        let captions = texts("captions");
        let condition = conditioner.condition(&vec![0; captions.len()], &captions, device)?;
        let Condition::Text(features) = condition else { unreachable!("a text encoder gives text") };
        if let (Some(empty), Condition::Text(null)) =
            (captions.iter().position(|caption| caption.as_deref() == Some("")), conditioner.null(1, device))
        {
            let gap = (features.clone().narrow(0, empty, 1) - null).abs().max();
            ensure!(to_host(gap)[0] < 1e-5, "the null condition is not the empty caption");
        }
        found.forward(case, "out.features", features)?;
    }
    Ok(())
}
