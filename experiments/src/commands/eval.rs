//! `realign eval`: how good pictures are, in numbers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use realign::burn::tensor::Device;
use realign::checkpoint::{Checkpoint, TrainedRun, checkpoints, verify};
use realign::ops::{self, DeviceChoice};
use realign::recipe::{Check, EvaluationSection, Plan};
use serde_json::json;

use super::recipe_args::{check_device, settings};
use crate::evaluation::evaluate::{Evaluator, gather};
use crate::evaluation::networks::{Network, read_metric, read_network};
use crate::evaluation::reference::ReferenceSource;
use crate::evaluation::result::{Evaluation, EvaluationSettings, Measured, ReferenceUsed, SCHEMA, result_path};
use crate::evaluation::samples::Drawing;
use crate::evaluation::source::{Stored, check_exists, short_digest};
use crate::table::{Table, number};

const MOST_SEEDS: usize = 10_000;

/// Quality of a run's samples, or of pictures, against a reference
#[derive(Debug, Clone, Args)]
pub struct Eval {
    /// What to evaluate: a run folder, a folder or zip of pictures, or an `.npz` as `sample` writes it
    pub source: PathBuf,
    /// Step of the checkpoint, or `all` of those kept; the newest when left out
    #[arg(long)]
    pub step: Option<String>,
    /// What to compare with: an `.npz` of statistics or pictures, a folder or zip of pictures, or `data`, the run's own
    #[arg(long, value_name = "REFERENCE")]
    pub reference: Option<String>,
    /// Network whose features are compared, as in a recipe: `shapes_net`, `{type: inception}`; may be repeated
    #[arg(long = "features", value_name = "NETWORK")]
    pub features: Vec<String>,
    /// What is measured, of what each network offers: `frechet_distance`, `precision`; may be repeated
    #[arg(long = "metric", value_name = "METRIC")]
    pub metrics: Vec<String>,
    /// Pictures to draw or to take
    #[arg(long)]
    pub num_samples: Option<usize>,
    /// First seed of noise and labels
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Seeds, counted on from `--seed`; mean and spread over several
    #[arg(long, default_value_t = 1)]
    pub seeds: usize,
    /// Draws of the bootstrap behind the intervals; 0 is none
    #[arg(long)]
    pub bootstrap: Option<usize>,
    /// Pictures drawn and looked at together
    #[arg(long)]
    pub batch: Option<usize>,
    /// Folder of published weights; a run's own when left out
    #[arg(long)]
    pub weights_dir: Option<PathBuf>,
    /// Where to compute, for sources that are no runs; a run says it itself
    #[arg(long)]
    pub device: Option<String>,
    /// Override one value of the run's recipe, `sample.cfg_scale=1.5`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// File of the result, instead of one below `eval` in the run folder
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Also write what the pictures are compared with, as a reference for later: an `.npz` as ADM's
    #[arg(long, value_name = "FILE")]
    pub save_reference: Option<PathBuf>,
}

impl Eval {
    /// Evaluates, prints a table and writes the result.
    ///
    /// # Errors
    /// There is nothing to evaluate or to compare with, or a network lacks its weights.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        check_exists("SOURCE", &self.source)?;
        ensure!(
            (1..=MOST_SEEDS).contains(&self.seeds),
            "--seeds: `{}` is out of range; allowed is 1 to {MOST_SEEDS}",
            self.seeds
        );
        let [has_recipe, has_checkpoints] = ["recipe.yaml", "checkpoints"].map(|name| self.source.join(name).exists());
        ensure!(
            has_recipe || !has_checkpoints,
            "`{}` has checkpoints and no `recipe.yaml`, so it is no whole run folder and no folder of pictures",
            self.source.display()
        );
        match has_recipe {
            true => self.evaluate_run(out)?,
            false => self.evaluate_pictures(out)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn evaluate_run(&self, out: &mut dyn Write) -> Result<()> {
        ensure!(self.device.is_none(), "--device: the run says where it computes; override it with --set device=…");
        let trained = TrainedRun::open(&settings()?, &self.source, &self.sets)?;
        check_device(&trained.layered, &trained.plan.recipe.device, trained.plan.recipe.precision)?;
        let recipe = &trained.plan.recipe;
        let section = self.section(&recipe.evaluation)?;
        let seeds = self.seeds();
        let own = TrainedRun::open(&settings()?, &self.source, &[])?.plan;
        // The digest covers data, precision, seed and all else that an override may have changed.
        let request = |section: &EvaluationSection, plan: &Plan, seeds: &[u64]| {
            let recipe = plan.digest()?;
            anyhow::Ok(json!({ "evaluation": section, "recipe": recipe, "seeds": seeds }).to_string())
        };
        let asked = request(&section, &trained.plan, &seeds)?;
        let is_own = asked == request(&own.recipe.evaluation, &own, &[0])?;
        let digest = (!is_own).then(|| short_digest(&asked));
        let checkpoints = self.checkpoints(&trained)?;
        ensure!(
            self.out.is_none() || checkpoints.len() == 1,
            "--out names one file, and there are {} checkpoints; leave it out",
            checkpoints.len()
        );
        let first = Drawing::new(&trained, checkpoints.first().context("no checkpoint")?)?;
        let device = first.assembly.device.clone();
        let picture_size = [recipe.image_size; 2];
        let pictures = match section.reference.as_str() {
            "data" => Stored::Dataset(first.assembly.dataset.clone()),
            path => reference(path, picture_size)?,
        };
        drop(first);
        let weights_dir = self.weights_dir.as_ref().unwrap_or(&recipe.weights_dir);
        let (evaluator, mut used) = self.prepare(&section, pictures, picture_size, weights_dir, &device)?;
        used.recipe = Some(trained.names());
        used.recipe_digest = Some(own.digest()?);
        used.overrides.clone_from(&self.sets);
        used.precision = Some(recipe.precision);
        used.sample = Some(serde_json::to_value(&recipe.sample)?);
        used.autoencoder = Some(serde_json::to_value(&recipe.autoencoder)?);
        used.seeds.clone_from(&seeds);
        for checkpoint in &checkpoints {
            let drawing = Drawing::new(&trained, checkpoint)?;
            let measure = |seed: &u64| {
                evaluator.measure(|take| drawing.each(section.num_samples, section.batch_size, *seed, take))
            };
            let metrics = gather(seeds.iter().map(measure).collect::<Result<_>>()?);
            let step = Some(checkpoint.step);
            let found = self.result(step, metrics, used.clone());
            let path =
                self.out.clone().unwrap_or_else(|| result_path(&self.source, checkpoint.step, digest.as_deref()));
            self.report(&found, Some(&path), out)?;
        }
        Ok(())
    }

    fn evaluate_pictures(&self, out: &mut dyn Write) -> Result<()> {
        let is_of_runs = self.step.is_some() || !self.sets.is_empty() || self.seed != 0 || self.seeds != 1;
        ensure!(
            !is_of_runs,
            "--step, --seed, --seeds and --set are about a run's samples, and `{}` is no run folder",
            self.source.display()
        );
        let stored = Stored::open(&self.source)?;
        let mut section = self.section(&EvaluationSection::default())?;
        section.num_samples = self.num_samples.map_or_else(|| stored.num_pictures(), Ok)?;
        ensure!(
            section.reference != "data",
            "--reference is missing: an `.npz` of statistics or pictures, or a folder or zip of pictures"
        );
        let device = DeviceChoice::parse(self.device.as_deref().unwrap_or("auto")).and_then(ops::open);
        let device = device.context("--device")?;
        let picture_size = stored.picture_size()?;
        let pictures = reference(&section.reference, picture_size)?;
        let weights_dir = self.weights_dir.clone().unwrap_or_else(|| "pretrained_models".into());
        let (evaluator, used) = self.prepare(&section, pictures, picture_size, &weights_dir, &device)?;
        let measured = evaluator.measure(|take| stored.each(section.num_samples, section.batch_size, take))?;
        let found = self.result(None, gather(vec![measured]), used);
        self.report(&found, self.out.as_deref(), out)
    }

    /// The recipe's section with what the command line says.
    fn section(&self, own: &EvaluationSection) -> Result<EvaluationSection> {
        let copied = serde_json::to_value(own).context("cannot write the settings")?;
        let mut section: EvaluationSection = serde_json::from_value(copied).context("evaluation")?;
        if !self.features.is_empty() {
            section.features = self.features.iter().map(|text| read_network(text)).collect::<Result<_>>()?;
        }
        if !self.metrics.is_empty() {
            section.metrics = self.metrics.iter().map(|text| read_metric(text)).collect::<Result<_>>()?;
        }
        if let Some(reference) = &self.reference {
            section.reference.clone_from(reference);
        }
        section.num_samples = self.num_samples.unwrap_or(section.num_samples);
        section.bootstrap = self.bootstrap.unwrap_or(section.bootstrap);
        section.batch_size = self.batch.unwrap_or(section.batch_size);
        ensure!(
            !section.features.is_empty(),
            "name the network whose features are compared: `--features shapes_net`, or `evaluation.features` in the \
             recipe; `realign plugins list feature_network` shows them"
        );
        let problems: Vec<String> = Check::problems(|check| section.validate(check))
            .into_iter()
            .map(|(key, problem)| format!("{}: {problem}", option(&key)))
            .collect();
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(section)
    }

    fn seeds(&self) -> Vec<u64> {
        (self.seed..).take(self.seeds).collect()
    }

    fn checkpoints(&self, trained: &TrainedRun) -> Result<Vec<Checkpoint>> {
        match self.step.as_deref() {
            None => Ok(vec![trained.checkpoint(None)?]),
            Some("all") => {
                let mut all = checkpoints(&self.source.join("checkpoints"));
                all.sort_by_key(|checkpoint| checkpoint.step);
                ensure!(!all.is_empty(), "`{}` holds no checkpoint", self.source.display());
                all.iter().try_for_each(verify)?;
                Ok(all)
            }
            Some(step) => {
                let Ok(step) = step.parse() else { bail!("--step: `{step}` is neither a step nor `all`") };
                Ok(vec![trained.checkpoint(Some(step))?])
            }
        }
    }

    /// Builds networks and references, and writes the reference where that is asked for.
    fn prepare<'a>(
        &self,
        section: &'a EvaluationSection,
        pictures: Stored,
        picture_size: [usize; 2],
        weights_dir: &Path,
        device: &'a Device,
    ) -> Result<(Evaluator<'a>, EvaluationSettings)> {
        let digest = pictures.digest()?;
        let source = ReferenceSource { pictures, count: section.num_reference, batch_size: section.batch_size, device };
        let mut networks = vec![];
        for config in &section.features {
            let metrics = section.metrics_of(&**config);
            let network = Network::new(&**config, metrics, picture_size, weights_dir, device)?;
            let reference = source.read(&network, &network.metrics)?;
            networks.push((network, reference));
        }
        if let Some(path) = &self.save_reference {
            let [(network, _)] = &networks[..] else {
                bail!("--save-reference holds statistics of one network; name one")
            };
            source.save(network, path)?;
        }
        let num_images = networks.iter().map(|(_, reference)| reference.features.len()).max();
        let used = EvaluationSettings {
            recipe: None,
            recipe_digest: None,
            sample: None,
            autoencoder: None,
            overrides: vec![],
            precision: None,
            num_samples: section.num_samples,
            seeds: vec![],
            picture_size,
            features: networks.iter().map(|(network, _)| network.used()).collect::<Result<_>>()?,
            reference: ReferenceUsed {
                source: section.reference.clone(),
                digest,
                num_images: num_images.filter(|count| *count > 0),
            },
            bootstrap: section.bootstrap,
            realign: env!("CARGO_PKG_VERSION").into(),
            libtorch: ops::libtorch_version(device),
            device: ops::describe(device),
        };
        Ok((Evaluator { networks, bootstrap: section.bootstrap, device }, used))
    }

    fn result(
        &self,
        step: Option<u64>,
        metrics: BTreeMap<String, Measured>,
        settings: EvaluationSettings,
    ) -> Evaluation {
        Evaluation { schema: SCHEMA, source: self.source.display().to_string(), step, metrics, settings }
    }

    /// Writes the file, which must not be lost where nobody reads what is printed, and prints the table.
    fn report(&self, found: &Evaluation, path: Option<&Path>, out: &mut dyn Write) -> Result<()> {
        if let Some(path) = path {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make folder `{}`", folder.display()))?;
            }
            found.write(path)?;
        }
        let settings = &found.settings;
        let of_step = found.step.map(|step| format!(" of step {step}")).unwrap_or_default();
        let seeds: Vec<String> = settings.seeds.iter().map(u64::to_string).collect();
        let of_seeds = if seeds.is_empty() { String::new() } else { format!(", seed {}", seeds.join(", ")) };
        writeln!(
            out,
            "{} pictures{of_step}{of_seeds}, compared with {}",
            settings.num_samples, settings.reference.source
        )?;
        let ends = if settings.seeds.len() > 1 { ["lowest", "highest"] } else { ["low", "high"] };
        let mut table = Table::new(["metric", "value", ends[0], ends[1], "spread", "convention"]);
        for (name, measured) in &found.metrics {
            let end = |end: Option<f64>| number(end.unwrap_or(f64::NAN), 4);
            table.rows.push(vec![
                name.clone(),
                number(measured.value, 4),
                end(measured.low),
                end(measured.high),
                end(measured.spread),
                measured.convention.clone(),
            ]);
        }
        write!(out, "{}", table.to_text())?;
        if let Some(path) = path {
            writeln!(out, "result: {}", path.display())?;
        }
        Ok(())
    }
}

/// The option behind a key of the section `evaluation`.
fn option(key: &str) -> String {
    match key.split('.').next().unwrap_or_default() {
        "features" => "--features".into(),
        "metrics" => "--metric".into(),
        "batch_size" => "--batch".into(),
        other => format!("--{}", other.replace('_', "-")),
    }
}

fn reference(path: &str, picture_size: [usize; 2]) -> Result<Stored> {
    check_exists("--reference", Path::new(path))?;
    Stored::of_size(Path::new(path), picture_size).context("--reference")
}
