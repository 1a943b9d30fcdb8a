//! Generator checkpoints of other projects, into a run and out of one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Device;

use super::{Checkpoint, State, folder, tensors, write_parts};
use crate::recipe::{Layered, Plan};
use crate::train::{Frame, build_model, describe, fresh_moments};
use crate::weights::{
    CheckpointLayout, HostTensor, KeyMap, ParamInfo, StateDict, TensorFile, parameters, state_dict, write_safetensors,
    write_torch,
};

/// Statistics of the latents that a REPA-E network carries, beside a run's recipe.
const LATENTS_STATS: &str = "latents-stats.safetensors";

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The new checkpoint.
    pub path: PathBuf,
    /// What became what, in sentences.
    pub notes: Vec<String>,
}

/// Makes a run folder whose only checkpoint has the weights of `file`, its averages, and a fresh optimizer.
///
/// Projectors that the file does not have keep the values that the recipe's seed gives them; those that the recipe does
/// not have are left out. An average that the file does not have begins as its last one, or as the weights.
///
/// # Errors
/// The file does not fit the recipe, or the folder holds a run already.
pub fn import(
    plan: &Plan,
    layered: &Layered,
    layout: &CheckpointLayout,
    file: &Path,
    run_dir: &Path,
    step: u64,
) -> Result<Imported> {
    layout.check(plan)?;
    if let Some(program) = &plan.recipe.program {
        bail!(
            "recipe `{}` trains more than the network that the file holds, by the program `{}`; choose one without `program`",
            plan.recipe_name,
            (program.info().name)()
        )
    }
    let checkpoints = run_dir.join("checkpoints");
    ensure!(
        folder::checkpoints(&checkpoints).is_empty(),
        "`{}` holds a run already; choose another folder with --run-dir",
        run_dir.display()
    );
    let file = TensorFile::open(file)?;
    let model = build_model(plan, &Device::flex().autodiff())?;
    let source = Source { plan, layout, file: &file, params: parameters(&model) };
    let mut notes = vec![];
    // Drawn only if they are needed: they are the first to make values of the network.
    let draw = || state_dict(&model.projectors).into_iter().map(|(name, value)| (format!("projectors.{name}"), value));
    let mut read = |what: &str, prefixes: &'static [&'static str]| -> Result<StateDict> {
        let (mut dict, note) = source.read(prefixes).with_context(|| format!("layout `{}`", layout.name))?;
        notes.push(format!("{what}: {note}"));
        if dict.len() < source.params.len() {
            dict.extend(draw());
        }
        Ok(dict)
    };
    let weights = source.weights();
    let mut averages = vec![];
    for (i, ema) in plan.recipe.train.ema.iter().enumerate() {
        averages.push((format!("ema-{}", ema.name), source.average(i).unwrap_or(weights)));
    }
    let sampled = averages.first().map_or(weights, |first| first.1);
    let stats = layout.has_latent_norm.then(|| latents_stats(&file, sampled)).transpose()?;
    let state =
        State { step, optimizer_step: 0, recipe_digest: plan.digest()?, version: env!("CARGO_PKG_VERSION").into() };
    let path = write_parts(run_dir, step, |write| {
        write("optimizer", &fresh_moments(&source.params))?;
        write("model", &read("weights", weights)?)?;
        averages.iter().try_for_each(|(name, prefixes)| write(name, &read(name, prefixes)?))?;
        Ok(state)
    })?;
    describe(&Frame::of_diffusion(plan, layered)?, serde_json::Map::new(), run_dir)?;
    if let Some(stats) = stats {
        write_safetensors(&run_dir.join(LATENTS_STATS), &stats)?;
        notes.push(format!("statistics of the latents: {}", run_dir.join(LATENTS_STATS).display()));
    }
    Ok(Imported { path, notes })
}

/// Writes weights and averages of a checkpoint as `layout` has them: `.pt` and `.pth` as PyTorch, `.safetensors` with the
/// sections in the names. An average that the run does not have is its last one, or the weights.
///
/// # Errors
/// The recipe's network is not the layout's, the ending is another one, or the disk refuses.
pub fn export(plan: &Plan, layout: &CheckpointLayout, run_dir: &Path, from: &Checkpoint, out: &Path) -> Result<()> {
    layout.check(plan)?;
    let ending = out.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    ensure!(
        ["pt", "pth", "safetensors"].contains(&ending.as_str()),
        "`{}`: the ending `{ending}` is not known; known are pt, pth, safetensors",
        out.display()
    );
    let map = layout.key_map_for(plan);
    let (section, emas) = (|prefix: &'static str| prefix.trim_end_matches('.'), &plan.recipe.train.ema);
    // Official code asks for all averages; what the run does not have is its last one, or the weights.
    let of_run = |i: usize| emas.get(i).or(emas.last()).map_or("model".to_string(), |ema| format!("ema-{}", ema.name));
    let named = layout.averages.iter().enumerate().map(|(i, prefixes)| (prefixes, of_run(i)));
    let mut sections = vec![];
    for (prefixes, name) in [(&layout.model, "model".to_string())].into_iter().chain(named) {
        let prefix = prefixes.first().copied().context("a layout without a prefix")?;
        // A program that trains the statistics keeps them beside the network.
        let is_norm = |(name, _): &(String, HostTensor)| name.starts_with("bn.");
        let (norm, ours): (StateDict, StateDict) = tensors(from, &name)?.into_iter().partition(is_norm);
        let mut dict = map.export(ours, layout.inside)?;
        if layout.has_latent_norm {
            dict.extend(latent_norm(run_dir, plan.latent[0])?);
            dict.extend(norm);
        }
        sections.push((section(prefix), dict));
    }
    if ending == "safetensors" {
        let full = |(section, dict): (&str, StateDict)| {
            dict.into_iter().map(|(name, tensor)| (format!("{section}.{name}"), tensor)).collect::<Vec<_>>()
        };
        return write_safetensors(out, &sections.into_iter().flat_map(full).collect());
    }
    write_torch(out, &sections)
}

/// A file with the layout and the network that read it.
struct Source<'a> {
    plan: &'a Plan,
    layout: &'a CheckpointLayout,
    file: &'a TensorFile,
    params: Vec<ParamInfo>,
}

impl Source<'_> {
    /// Prefixes of the trained weights: the layout's, or an average's where those are missing; none in a flat file.
    fn weights(&self) -> &'static [&'static str] {
        let all = std::iter::once(&self.layout.model).chain(self.layout.averages);
        all.into_iter().find(|prefixes| self.has(prefixes)).copied().unwrap_or(&[])
    }

    /// Prefixes of average `i`, or of the last one that is there.
    fn average(&self, i: usize) -> Option<&'static [&'static str]> {
        let up_to = self.layout.averages.get(..=i).unwrap_or(self.layout.averages);
        up_to.iter().rev().find(|prefixes| self.has(prefixes)).copied()
    }

    fn has(&self, prefixes: &[&str]) -> bool {
        self.file.tensors().any(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// One set of weights, and a sentence on it.
    fn read(&self, prefixes: &'static [&'static str]) -> Result<(StateDict, String)> {
        let mut map = KeyMap::new();
        if !prefixes.is_empty() {
            map = map.strip(prefixes);
        }
        map = map.then(self.layout.key_map_for(self.plan));
        let is_projector = |name: &str| name.starts_with("projectors.");
        let has_projectors = self.file.tensors().any(|(name, _)| name.contains("projectors."));
        let mut wanted = self.params.clone();
        let mut projectors = "";
        if !wanted.iter().any(|param| is_projector(&param.name)) {
            map = map.ignore(&["projectors.**"]);
            if has_projectors {
                projectors = "; its projectors are left out, because the recipe aligns nothing";
            }
        } else if !has_projectors {
            wanted.retain(|param| !is_projector(&param.name));
            projectors = "; it has no projectors, so they begin as the recipe's seed draws them";
        }
        let dict = map.take(self.file, &wanted)?;
        for (name, tensor) in &dict {
            let is_finite = tensor.values.iter().all(|value| value.is_finite());
            ensure!(is_finite, "parameter `{name}` holds NaN or infinite values in single precision");
        }
        let below = prefixes.first().map_or("the file".to_string(), |prefix| format!("`{prefix}*` of the file"));
        let note = format!("{} tensors from {below}{projectors}", dict.len());
        Ok((dict, note))
    }
}

/// Bias and scale of the latents that the statistics of a REPA-E network stand for.
fn latents_stats(file: &TensorFile, prefixes: &[&str]) -> Result<StateDict> {
    let read = |name: &str| {
        let prefix = prefixes.first().copied().unwrap_or_default();
        let found = file.tensors().find(|(full, _)| full.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(name)));
        match found {
            Some((full, _)) => file.read(full),
            None => bail!("`{prefix}{name}` is missing; is it a file of REPA-E?"),
        }
    };
    let (mean, variance) = (read("bn.running_mean")?, read("bn.running_var")?);
    let shaped = |values: Vec<f32>| HostTensor { shape: vec![1, values.len(), 1, 1], values };
    let scale = variance.values.iter().map(|variance| variance.sqrt().recip()).collect();
    Ok([("latents_bias".to_string(), shaped(mean.values)), ("latents_scale".to_string(), shaped(scale))].into())
}

/// The statistics of a REPA-E network: those that its import left, or those of latents that are normalized.
fn latent_norm(run_dir: &Path, channels: usize) -> Result<StateDict> {
    let path = run_dir.join(LATENTS_STATS);
    let (mean, variance) = if path.exists() {
        let stats = crate::weights::read_safetensors(&path)?;
        let values = |name: &str| {
            let stats = stats.get(name).with_context(|| format!("`{}` has no `{name}`", path.display()))?;
            Ok::<_, anyhow::Error>(stats.values.clone())
        };
        (values("latents_bias")?, values("latents_scale")?.iter().map(|scale| (scale * scale).recip()).collect())
    } else {
        (vec![0.0; channels], vec![1.0; channels])
    };
    let flat = |values: Vec<f32>| HostTensor { shape: vec![values.len()], values };
    let count = HostTensor { shape: vec![], values: vec![0.0] };
    let named = [("running_mean", flat(mean)), ("running_var", flat(variance)), ("num_batches_tracked", count)];
    Ok(named.into_iter().map(|(name, tensor)| (format!("bn.{name}"), tensor)).collect())
}
