//! What a table costs before anything runs: operations, hours, disk, downloads.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use realign::plugin::PatchGrid;
use realign::recipe::{Missing, Plan};
use realign::weights::published_weights;

use super::setting::{Scale, Setting};
use super::speed::Speed;
use super::work::{Training, reached};
use crate::commands::explain::Costs;
use crate::table::{Table, number};

const F32: f64 = 4.0; // bytes

/// What one run takes.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// Operations of the training steps that are left: network, projector, encoder.
    pub train_flops: f64,
    /// Operations of the samples of all evaluations that are left.
    pub sample_flops: f64,
    /// Bytes of checkpoints.
    pub disk_bytes: f64,
    /// Weight files that are not here: name, and bytes where they can be told.
    pub downloads: BTreeMap<String, Option<f64>>,
}

impl Cost {
    /// Counts from shapes; `settings` are all of the table's.
    ///
    /// # Errors
    /// A plugin refuses the sizes.
    pub fn of(training: &Training, settings: &[&Setting]) -> Result<Self> {
        let own: Vec<&&Setting> = settings.iter().filter(|setting| setting.run_dir == training.run_dir).collect();
        let first = own.first().context("a run belongs to no entry")?;
        let plan = &first.plan;
        let costs = Costs::new(plan)?;
        let batch = plan.recipe.train.global_batch_size as f64;
        let steps = training.stages.last().map_or(0, |stage| stage.steps);
        let left = steps.saturating_sub(reached(&training.run_dir).unwrap_or(0)) as f64;
        let train_flops = left * (costs.flops_per_step + batch * encoder_flops(plan));
        let mut sample_flops = 0.0;
        for assessment in training.stages.iter().flat_map(|stage| &stage.assessments).filter(|one| !one.is_done()) {
            let found = own.iter().find(|setting| super::work::Assessment::of(setting) == *assessment);
            sample_flops += found.map_or(0.0, |setting| picture_flops(&setting.plan));
        }
        let missing = first.missing().into_iter();
        let downloads = missing.filter_map(|missing| match missing {
            Missing::Weights(file) => {
                let name = file.path.file_name()?.to_string_lossy().into_owned();
                Some((name.clone(), bytes(&name)))
            }
            Missing::Data(_) => None,
        });
        Ok(Self { train_flops, sample_flops, disk_bytes: costs.disk_bytes, downloads: downloads.collect() })
    }

    fn flops(&self) -> f64 {
        self.train_flops + self.sample_flops
    }
}

/// Operations of the frozen encoders on one picture: two for each parameter and token.
fn encoder_flops(plan: &Plan) -> f64 {
    let specs = plan.encoders.iter().flatten();
    let of = |(grid, files): (PatchGrid, Vec<String>)| {
        files.iter().filter_map(|file| parameters(file)).map(|count| 2.0 * count * grid.tokens() as f64).sum::<f64>()
    };
    let named = specs.map(|spec| {
        let names = spec.weights.iter().filter_map(|file| Some(file.path.file_name()?.to_string_lossy().into_owned()));
        (spec.grid, names.collect())
    });
    named.map(of).sum()
}

/// Operations of one evaluation's samples: passes of the network, twice where guidance acts.
fn picture_flops(plan: &Plan) -> f64 {
    let sample = &plan.recipe.sample;
    let guided = if sample.cfg_scale > 1.0 { sample.guidance_high - sample.guidance_low } else { 0.0 };
    let passes = sample.sampler.build().num_evaluations() as f64 * (1.0 + guided);
    plan.recipe.evaluation.num_samples as f64 * passes * plan.backbone.forward_flops
}

fn parameters(file: &str) -> Option<f64> {
    let all = published_weights();
    all.iter().filter(|known| known.file == file).find_map(|known| known.num_parameters).map(|count| count as f64)
}

fn bytes(file: &str) -> Option<f64> {
    let all = published_weights();
    let known = all.iter().filter(|known| known.file == file).find_map(|known| known.num_bytes);
    known.map(|bytes| bytes as f64).or_else(|| Some(F32 * parameters(file)?))
}

/// Prints the runs with what each takes, the sum, and on what that rests.
///
/// # Errors
/// A plugin refuses the sizes.
pub fn print_costs(
    trainings: &[Training],
    settings: &[&Setting],
    scale: &Scale<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let speed = match trainings.first().zip(settings.first()) {
        Some((training, setting)) if !scale.is_paper => Speed::here(&setting.plan, &training.name),
        _ => Speed::paper(), // also where rows are only quoted, whose time is 0
    };
    let mut table = Table::new(["run", "to step", "done", "train", "samples", "disk GB"]);
    let (mut sum, mut downloads) = (Cost::default(), BTreeMap::new());
    for training in trainings {
        let cost = Cost::of(training, settings)?;
        let steps = training.stages.last().map_or(0, |stage| stage.steps);
        let done = match (training.is_done(), reached(&training.run_dir)) {
            (true, _) => "finished".into(),
            (false, Some(step)) => format!("step {step}"),
            (false, None) => "-".into(),
        };
        let stages: Vec<String> = training.stages.iter().map(|stage| stage.steps.to_string()).collect();
        table.rows.push(vec![
            training.name.clone(),
            if stages.len() > 1 { stages.join(", ") } else { steps.to_string() },
            done,
            speed.time(cost.train_flops),
            speed.time(cost.sample_flops),
            number(cost.disk_bytes / 1e9, 2),
        ]);
        sum.train_flops += cost.train_flops;
        sum.sample_flops += cost.sample_flops;
        sum.disk_bytes += cost.disk_bytes;
        downloads.extend(cost.downloads);
    }
    let evaluations: usize =
        trainings.iter().flat_map(|training| &training.stages).map(|stage| stage.assessments.len()).sum();
    writeln!(out, "profile {}: {} runs, {evaluations} evaluations\n", scale.profile, trainings.len())?;
    write!(out, "{}", table.to_text())?;
    writeln!(
        out,
        "\ntotal  {} ({} of it training), {} operations, {:.1} GB of checkpoints",
        speed.time(sum.flops()),
        speed.time(sum.train_flops),
        scientific(sum.flops()),
        sum.disk_bytes / 1e9
    )?;
    let has_latents = settings
        .iter()
        .any(|setting| setting.plan.latent != [3, setting.plan.recipe.image_size, setting.plan.recipe.image_size]);
    print_downloads(&downloads, scale, has_latents, out)?;
    print_assumptions(&speed, out)
}

fn print_downloads(
    downloads: &BTreeMap<String, Option<f64>>,
    scale: &Scale<'_>,
    has_latents: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let known: f64 = downloads.values().flatten().sum();
    match downloads.len() {
        0 => writeln!(out, "weights to get: none")?,
        count => writeln!(out, "weights to get: {count} files, about {:.1} GB", known / 1e9)?,
    }
    for (file, bytes) in downloads {
        let size = bytes.map_or("size unknown".into(), |bytes| format!("about {:.2} GB", bytes / 1e9));
        writeln!(out, "  {file}  {size}")?;
    }
    let data = match scale.profile {
        "imagenet256" | "imagenet512" if !has_latents => "ImageNet's training set, 138 GB",
        "imagenet256" => "ImageNet's training set, 138 GB; its latents, computed once, 42 GB",
        "imagenet512" => "ImageNet's training set, 138 GB; its latents, computed once, 168 GB",
        "coco" => "MS-COCO 2014, 20 GB with its captions",
        "demo" => "none, the program draws the pictures",
        _ => "as the profile says",
    };
    writeln!(out, "data: {data}")?;
    Ok(())
}

fn print_assumptions(speed: &Speed, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "assumed:")?;
    writeln!(out, "  {}", speed.source)?;
    writeln!(
        out,
        "  a backward pass costs two forward passes; an encoder two operations for each parameter and token"
    )?;
    writeln!(out, "  samples as many as the recipe evaluates; networks that judge them are not counted")?;
    writeln!(out, "  latents are read from a cache (docs/imagenet.md); an autoencoder that trains too is not counted")?;
    Ok(())
}

fn scientific(flops: f64) -> String {
    format!("{flops:.1e}")
}
