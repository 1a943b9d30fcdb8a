//! An entry of a table at a scale: the recipe it overlays, and what takes the place of what.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use realign::plugin::FeatureContext;
use realign::recipe::{Layered, Missing, Plan, Settings};
use serde_yaml::{Mapping, Value};

use super::entry::Entry;
use super::library::Difference;
use crate::evaluation::source::short_digest;

/// Most steps of a run at the scale of the demo, so that four of them take less than 25 minutes on two slow cores.
const DEMO_STEPS: u64 = 1000;

/// Where a table is run.
#[derive(Debug)]
pub struct Scale<'a> {
    /// The user's own settings.
    pub settings: &'a Settings,
    /// Folder of the recipes.
    pub recipes: &'a Path,
    /// Folder of the runs.
    pub runs: &'a Path,
    /// Profile.
    pub profile: &'a str,
    /// Whether that is the paper's own.
    pub is_paper: bool,
    /// The user's `--set`.
    pub sets: &'a [String],
    /// Other readings that were asked for.
    pub other: Vec<&'a Difference>,
}

/// An entry with everything that decides its numbers.
#[derive(Debug)]
pub struct Setting {
    /// Recipe file.
    pub recipe: PathBuf,
    /// Overrides for training, without the number of steps.
    pub train_sets: Vec<String>,
    /// Overrides for evaluation.
    pub sample_sets: Vec<String>,
    /// Optimizer steps.
    pub steps: u64,
    /// Folder of the run; entries that differ in steps at a constant rate or in sampling share it.
    pub run_dir: PathBuf,
    /// Digest of the sections `sample` and `evaluation`.
    pub sampling: String,
    /// What stands in for what the paper has, one phrase each.
    pub instead: Vec<String>,
    /// The recipe as it is sampled from.
    pub plan: Plan,
}

impl Scale<'_> {
    /// Name of the folder of a table's report: of its own for each set of overrides and other readings.
    pub fn report_name(&self, table: &str) -> String {
        let others = self.other.iter().map(|other| &other.about);
        let asked: String = self.sets.iter().chain(others).map(|line| format!("{line}\n")).collect();
        let name = format!("{table}-{}", self.profile);
        if asked.is_empty() { name } else { format!("{name}-{}", short_digest(&asked)) }
    }

    /// Resolves an entry without making a value.
    ///
    /// # Errors
    /// The entry is quoted, or its recipe does not fit together.
    pub fn setting(&self, entry: &Entry, seed: u64) -> Result<Setting> {
        let file = entry.recipe.as_ref().with_context(|| format!("`{}` is quoted and not run", entry.name()))?;
        let recipe = self.recipes.join(file);
        let user = self.overrides(&recipe).with_context(|| format!("`{}`", entry.name()))?;
        let own = self.load(&recipe, &user).with_context(|| format!("`{}`", entry.name()))?;
        let mut instead = vec![];
        let mut train_sets = self.overlay(entry, &own, &mut instead);
        train_sets.extend(user.into_iter().filter(|set| !set.starts_with("train.steps=")));
        if seed > 0 {
            train_sets.push(format!("seed={seed}"));
        }
        let asked = self.sets.iter().rev().find_map(|set| set.strip_prefix("train.steps="));
        let steps = match (asked, entry.steps.filter(|_| self.is_paper)) {
            (Some(text), _) => text.parse().with_context(|| format!("--set train.steps={text}"))?,
            (None, Some(steps)) => steps,
            (None, None) if self.profile == "demo" => own.recipe.train.steps.min(DEMO_STEPS),
            (None, None) => own.recipe.train.steps,
        };
        let sample_sets = self.sampling(entry);
        let (layered, plan) = self.at(&recipe, &[&train_sets[..], &[format!("train.steps={steps}")]].concat())?;
        let mut run_dir = plan.run_dir(self.runs)?;
        if plan.recipe.log.spatial.is_some() {
            // The digest leaves out what is logged, and a run that did not measure this cannot stand for one that did.
            run_dir.as_mut_os_string().push("-spatial");
        }
        drop(layered);
        let all = [&train_sets[..], &[format!("train.steps={steps}")], &sample_sets].concat();
        let (layered, plan) = self.at(&recipe, &all).with_context(|| format!("`{}`", entry.name()))?;
        if let Some(paper) = entry.steps.filter(|paper| *paper != steps) {
            instead.push(format!("{steps} steps for {paper}"));
        }
        Ok(Setting { recipe, train_sets, sample_sets, steps, run_dir, sampling: sampling(&layered), instead, plan })
    }

    /// The user's overrides for a recipe: those of an alignment only where it aligns.
    fn overrides(&self, recipe: &Path) -> Result<Vec<String>> {
        let (of_alignment, others): (Vec<String>, Vec<String>) =
            self.sets.iter().cloned().partition(|set| set.starts_with("alignment"));
        let is_aligned = of_alignment.is_empty() || !self.load(recipe, &others)?.recipe.alignment.is_empty();
        Ok(if is_aligned { self.sets.to_vec() } else { others })
    }

    fn load(&self, recipe: &Path, sets: &[String]) -> Result<Plan> {
        self.at(recipe, sets).map(|(_, plan)| plan)
    }

    fn at(&self, recipe: &Path, sets: &[String]) -> Result<(Layered, Plan)> {
        let layered = Layered::load_over(self.settings, recipe, Some(self.profile), sets)?;
        let plan = Plan::new(&layered)?;
        Ok((layered, plan))
    }

    /// What the entry changes in its recipe for training.
    fn overlay(&self, entry: &Entry, own: &Plan, instead: &mut Vec<String>) -> Vec<String> {
        let mut sets = vec![];
        let aligned = own.recipe.alignment.first();
        if let (Some(term), Some(encoder)) = (aligned, &entry.encoder) {
            if self.is_paper || entry.everywhere {
                sets.push(set("alignment.0.encoders", &Value::Sequence(vec![encoder.clone()])));
            } else {
                let here: Vec<String> = term.encoders.iter().map(|encoder| (encoder.info().name)().into()).collect();
                instead.push(format!("{} for {}", here.join(", "), encoder_name(encoder)));
            }
        }
        match &entry.size {
            Some(size) if self.is_paper => sets.push(format!("backbone.size={size}")),
            Some(size) => {
                let [width, depth] = [own.backbone.hidden_size, own.backbone.depth];
                instead.push(format!("{depth} blocks of width {width} for {size}"));
            }
            None => {}
        }
        if let (Some(_), Some(share)) = (aligned, entry.depth) {
            let block = if self.is_paper { share.block } else { share.scaled(own.backbone.depth) };
            sets.push(format!("alignment.0.encoder_depth={block}"));
            if !self.is_paper {
                instead.push(format!("block {block} of {} for {} of {}", own.backbone.depth, share.block, share.of));
            }
        }
        sets.extend(lines("", &entry.set));
        let concerned = self.other.iter().filter(|other| other.concerns(entry));
        sets.extend(concerned.flat_map(|other| lines("", &other.set)));
        sets
    }

    /// What the entry changes for evaluation; the user's own values win.
    fn sampling(&self, entry: &Entry) -> Vec<String> {
        let mut sets = lines("sample.", &entry.sample);
        if self.is_paper {
            sets.extend(lines("sample.", &entry.full));
            sets.extend(lines("evaluation.", &entry.evaluation));
        }
        let concerned = self.other.iter().filter(|other| other.concerns(entry));
        sets.extend(concerned.flat_map(|other| lines("sample.", &other.sample)));
        let own = |set: &&String| set.starts_with("sample.") || set.starts_with("evaluation.");
        sets.extend(self.sets.iter().filter(own).cloned());
        sets
    }
}

impl Setting {
    /// `train.steps` and the other overrides, as the program takes them.
    pub fn train_args(&self) -> Vec<String> {
        self.train_sets.iter().cloned().chain([format!("train.steps={}", self.steps)]).collect()
    }

    /// Fails where something is missing that the run needs.
    ///
    /// # Errors
    /// Names the first few, and the command that gets each.
    pub fn is_ready(&self) -> Result<()> {
        let missing: Vec<String> = self.missing().iter().map(ToString::to_string).collect();
        ensure!(missing.is_empty(), "{} needs what is not here:\n  {}", self.recipe.display(), missing.join("\n  "));
        Ok(())
    }

    /// Files that training or evaluation needs and that are not there.
    pub fn missing(&self) -> Vec<Missing> {
        let recipe = &self.plan.recipe;
        let picture_size = [recipe.image_size; 2];
        let context = FeatureContext { picture_size, weights_dir: recipe.weights_dir.clone() };
        let networks = recipe.evaluation.features.iter().flat_map(|network| network.weights(&context));
        let absent = networks.filter(|file| !file.path.exists()).map(Missing::Weights);
        let reference = Path::new(&recipe.evaluation.reference);
        let no_reference = (recipe.evaluation.reference != "data" && !reference.exists())
            .then(|| Missing::Data(format!("evaluation.reference: `{}` does not exist", reference.display())));
        self.plan.missing.iter().cloned().chain(absent).chain(no_reference).collect()
    }
}

fn lines(prefix: &str, section: &Mapping) -> Vec<String> {
    section.iter().filter_map(|(key, value)| Some(set(&format!("{prefix}{}", key.as_str()?), value))).collect()
}

/// `key=value` as YAML on one line, which JSON is.
fn set(key: &str, value: &Value) -> String {
    format!("{key}={}", serde_json::to_string(value).unwrap_or_default()) // keys of tables are texts
}

/// What a section of an encoder is called.
pub(super) fn encoder_name(section: &Value) -> String {
    let word = |key: &str| section.get(key).and_then(Value::as_str);
    match (word("preset"), word("type"), word("size")) {
        (Some(preset), ..) => preset.into(),
        (None, Some(kind), Some(size)) => format!("{kind}-{size}"),
        (None, kind, _) => kind.unwrap_or("encoder").into(),
    }
}

fn sampling(layered: &Layered) -> String {
    let is_meant = |key: &str| key.starts_with("sample.") || key.starts_with("evaluation.");
    let leaves = layered.leaves().into_iter().filter(|(key, ..)| is_meant(key));
    let text: String = leaves.map(|(key, value, _)| format!("{key}={value}\n")).collect();
    short_digest(&text)
}
