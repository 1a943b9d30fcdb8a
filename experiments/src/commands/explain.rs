//! `realign explain`: the resolved recipe, where each value came from, and what a run costs.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use realign::burn::tensor::Device;
use realign::ops::{self, Precision, Recorder};
use realign::plugin::ProjectorContext;
use realign::recipe::{Job, Layered, Plan};
use realign::train::{CacheChoice, MicroBatch, build_model};
use realign::weights::parameters;
use serde::Serialize;
use serde_yaml::Value;

use super::recipe_args::RecipeArgs;
use crate::measuring::{Trial, device_of, micro_batch_of};

/// The resolved recipe, where each value came from, sizes and costs
#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Do one step, and print the most memory that its tensors take
    #[arg(long)]
    measure_memory: bool,
}

impl Explain {
    /// Prints everything that is known before a run.
    ///
    /// # Errors
    /// The recipe does not fit together.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let (layered, job) = self.recipe.job()?;
        let missing = match &job {
            Job::Diffusion(plan) => {
                values(&layered, &plan.recipe, out)?;
                Costs::new(plan)?.print(plan, out)?;
                encoders(plan, out)?;
                &plan.missing
            }
            Job::Program(plan) => {
                values(&layered, &plan.recipe, out)?;
                &plan.missing
            }
        };
        if self.measure_memory {
            let micro_batch = micro_batch_of(&job)?;
            let [kept, peak] = measured_memory(&job, micro_batch.as_ref())?.map(|bytes| ops::gigabytes(bytes as f64));
            writeln!(out, "\nmeasured in one step")?;
            if let Some(note) = micro_batch.and_then(|chosen| chosen.note) {
                writeln!(out, "  {note}")?;
            }
            writeln!(out, "  peak memory             {peak} of tensors, {kept} of them kept between steps")?;
        }
        if !missing.is_empty() {
            writeln!(out, "\nmissing")?;
            for missing in missing {
                writeln!(out, "  {missing}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Bytes of tensors that stay after a step, and the most that lived during one.
fn measured_memory(job: &Job, micro_batch: Option<&MicroBatch>) -> Result<[u64; 2]> {
    let recorder = Recorder::open(&device_of(job)?)?;
    let mut trial = Trial::new(job, micro_batch)?;
    trial.step()?.read()?; // makes the values of parameters, which a step does once
    recorder.restart()?;
    trial.step()?.read()?;
    recorder.memory()
}

fn values(layered: &Layered, recipe: &impl Serialize, out: &mut dyn Write) -> Result<()> {
    let value = serde_yaml::to_value(recipe).context("cannot write the recipe")?;
    let mut leaves = vec![];
    flatten(&value, String::new(), &mut leaves);
    let width = |column: fn(&(String, String)) -> usize| leaves.iter().map(column).max().unwrap_or(0).min(48);
    let (keys, texts) = (width(|leaf| leaf.0.len()), width(|leaf| leaf.1.len()));
    for (key, text) in &leaves {
        writeln!(out, "{key:keys$}  {text:texts$}  {}", layered.origin_of(key))?;
    }
    Ok(())
}

fn encoders(plan: &Plan, out: &mut dyn Write) -> Result<()> {
    for (i, (term, specs)) in plan.recipe.alignment.iter().zip(&plan.encoders).enumerate() {
        for (k, (encoder, spec)) in term.encoders.iter().zip(specs).enumerate() {
            let name = (encoder.info().name)();
            writeln!(out, "alignment.{i}.encoders.{k}: `{name}`, grid {}, {} channels", spec.grid, spec.channels)?;
            for note in encoder.notes(&plan.encoder_context())? {
                writeln!(out, "  {note}")?;
            }
        }
    }
    Ok(())
}

/// Every value as dotted key and text, in the recipe's order; a list of plain values is one entry.
fn flatten(value: &Value, key: String, leaves: &mut Vec<(String, String)>) {
    let join = |name: &str| if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
    match value {
        Value::Mapping(section) if !section.is_empty() => {
            for (name, value) in section {
                flatten(value, join(name.as_str().unwrap_or("?")), leaves);
            }
        }
        Value::Sequence(items) if items.iter().any(|item| item.is_mapping() || item.is_sequence()) => {
            for (i, item) in items.iter().enumerate() {
                flatten(item, join(&i.to_string()), leaves);
            }
        }
        Value::Sequence(items) => {
            let texts: Vec<String> = items.iter().map(one_line).collect();
            leaves.push((key, format!("[{}]", texts.join(", "))));
        }
        plain => leaves.push((key, one_line(plain))),
    }
}

fn one_line(value: &Value) -> String {
    serde_yaml::to_string(value).unwrap_or_default().trim_end().to_string()
}

/// What a run needs, counted from shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// Parameters of the backbone: all, trainable.
    pub backbone_params: [usize; 2],
    /// Parameters of the projectors.
    pub projector_params: usize,
    /// Parameters of a conditioner that trains.
    pub conditioner_params: usize,
    /// Floating-point operations of one optimizer step.
    pub flops_per_step: f64,
    /// Peak memory of a step, in bytes, without encoders and autoencoder; on a CPU resident.
    pub memory_bytes: f64,
    /// Disk that checkpoints take, in bytes.
    pub disk_bytes: f64,
}

const BYTES: f64 = 4.0; // f32
/// Program, libtorch and its thread pools before a tensor exists; measured on Linux x86-64.
const RESIDENT_BASE: f64 = 160e6;

impl Costs {
    /// Counts without making any value.
    ///
    /// # Errors
    /// A plugin refuses the sizes.
    pub fn new(plan: &Plan) -> Result<Self> {
        let model = build_model(plan, &Device::flex().autodiff())?;
        let mut costs = Self {
            backbone_params: [0, 0],
            projector_params: 0,
            conditioner_params: 0,
            flops_per_step: 0.0,
            memory_bytes: 0.0,
            disk_bytes: 0.0,
        };
        for param in parameters(&model) {
            let count = param.shape.iter().product::<usize>();
            if param.name.starts_with("projectors.") {
                costs.projector_params += count;
            } else if param.name.starts_with("conditioner.") {
                costs.conditioner_params += count;
            } else {
                costs.backbone_params[0] += count;
                costs.backbone_params[1] += if param.is_trainable { count } else { 0 };
            }
        }
        let (recipe, train) = (&plan.recipe, &plan.recipe.train);
        let (mut projector_flops, mut projected) = (0.0, 0.0);
        for (term, encoders) in recipe.alignment.iter().zip(&plan.encoders) {
            for encoder in encoders {
                let hidden_size = plan.backbone.hidden_size;
                let context = ProjectorContext { hidden_size, target_channels: encoder.channels, grid: encoder.grid };
                projector_flops += term.projector.forward_flops(&context);
                projected += (2 * encoder.grid.tokens() * encoder.channels) as f64;
            }
        }
        // The backward pass computes two products for each of the forward pass, whose blocks it may compute again.
        let backbone_passes = if train.activation_checkpointing { 4.0 } else { 3.0 };
        let backbone_flops = recipe.objective.forward_passes() * plan.backbone.forward_flops;
        costs.flops_per_step =
            (backbone_passes * backbone_flops + 3.0 * projector_flops) * train.global_batch_size as f64;
        let beside = costs.projector_params + costs.conditioner_params;
        let [all, trained] = costs.backbone_params.map(|count| (count + beside) as f64);
        let averages = train.ema.len() as f64;
        // Gradients of a pass live beside their sum over the passes before.
        let gradients = if train.micro_batch() < train.global_batch_size { 2.0 } else { 1.0 };
        // Weights, averages, two moments, gradients.
        let weights = BYTES * (all * (1.0 + averages) + (2.0 + gradients) * trained);
        // The pass that MeanFlow's derivative is taken in stays in f32.
        let precision = if recipe.objective.has_interval() { Precision::F32 } else { recipe.precision };
        let saved = (plan.backbone.saved_bytes(precision) + BYTES * projected) * train.micro_batch() as f64;
        costs.memory_bytes = RESIDENT_BASE + weights + saved;
        let checkpoint = BYTES * (all * (1.0 + averages) + 2.0 * trained);
        let kept = train.steps.checked_div(recipe.log.keep_every).unwrap_or(0);
        costs.disk_bytes = checkpoint * (recipe.log.keep_checkpoints + 1 + kept as usize) as f64;
        Ok(costs)
    }

    fn print(&self, plan: &Plan, out: &mut dyn Write) -> Result<()> {
        let [all, trainable] = self.backbone_params;
        let train = &plan.recipe.train;
        writeln!(out, "\nsizes")?;
        writeln!(out, "  clean sample            {:?}, token grid {}", plan.latent, plan.backbone.grid)?;
        writeln!(out, "  backbone parameters     {} ({} trainable)", grouped(all), grouped(trainable))?;
        writeln!(out, "  projector parameters    {}", grouped(self.projector_params))?;
        if self.conditioner_params > 0 {
            writeln!(out, "  conditioner parameters  {}", grouped(self.conditioner_params))?;
        }
        writeln!(out, "costs")?;
        writeln!(out, "  operations per step     {:.3} TFLOP", self.flops_per_step / 1e12)?;
        writeln!(
            out,
            "  operations of the run   {:.3} PFLOP in {} steps",
            self.flops_per_step * train.steps as f64 / 1e15,
            train.steps
        )?;
        let memory = ops::gigabytes(self.memory_bytes);
        writeln!(out, "  peak memory             {memory} ({})", estimate_without(plan))?;
        writeln!(out, "  checkpoints on disk     {} at most", ops::gigabytes(self.disk_bytes))?;
        if let Ok(dataset) = plan.recipe.data.open(&plan.dataset_context()) {
            writeln!(out, "  encoder features        {}", CacheChoice::new(plan, &*dataset))?;
        }
        Ok(())
    }
}

/// What the estimate leaves out.
fn estimate_without(plan: &Plan) -> &'static str {
    let is_pixels = plan.latent == [3, plan.recipe.image_size, plan.recipe.image_size];
    match (plan.encoders.iter().all(Vec::is_empty), is_pixels) {
        (true, true) => "estimate",
        (true, false) => "estimate, without the autoencoder",
        (false, true) => "estimate, without encoders",
        (false, false) => "estimate, without encoders and autoencoder",
    }
}

/// Digits in groups of three: `32,957,200`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use realign::recipe::Layered;

    use super::*;

    /// GB of tensors measured on an H200 in bf16 at batch 256, docs/benchmarks.md; its projector's targets are drawn once.
    #[test]
    fn estimates_are_close_to_what_a_gpu_took() {
        for (size, recomputes, measured) in [("B/2", false, 28.8), ("XL/2", false, 100.7), ("B/2", true, 8.5)] {
            let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/sit-irepa.yaml");
            let sets = [
                format!("backbone.size={size}"),
                format!("train.activation_checkpointing={recomputes}"),
                "train.micro_batch_size=256".into(),
            ];
            let layered = Layered::load(&recipe, Some("imagenet256"), &sets).unwrap();
            let estimate = Costs::new(&Plan::new(&layered).unwrap()).unwrap().memory_bytes / 1e9;
            assert!((estimate / measured - 1.0).abs() < 0.04, "{size}: {estimate} GB for {measured} GB");
        }
    }

    #[test]
    fn digits_are_grouped_in_threes() {
        assert_eq!([7, 1234, 32_957_200].map(grouped), ["7", "1,234", "32,957,200"]);
    }
}
