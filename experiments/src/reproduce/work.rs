//! What is to be done: runs in stages, and evaluations of each stage.

use std::path::{Path, PathBuf};

use anyhow::Result;
use realign::checkpoint::checkpoints;

use super::entry::{Entry, Kind};
use super::setting::{Scale, Setting};
use crate::evaluation::result::{Evaluation, result_path};

/// One run folder and everything that a table wants of it.
#[derive(Debug)]
pub struct Training {
    /// For people: method, what is special, seed.
    pub name: String,
    /// Recipe file.
    pub recipe: PathBuf,
    /// Folder.
    pub run_dir: PathBuf,
    /// Seed.
    pub seed: u64,
    /// How far it is trained, and what is looked at there; steps ascend.
    pub stages: Vec<Stage>,
}

/// A run up to a step.
#[derive(Debug)]
pub struct Stage {
    /// Optimizer steps.
    pub steps: u64,
    /// Overrides of the recipe, with the steps.
    pub sets: Vec<String>,
    /// Evaluations after that step.
    pub assessments: Vec<Assessment>,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// Overrides of the run's recipe.
    pub sets: Vec<String>,
    /// File of the result.
    pub result: PathBuf,
    /// Folder of pictures with the same settings.
    pub pictures: PathBuf,
}

impl Assessment {
    /// The evaluation of a setting.
    pub fn of(setting: &Setting) -> Self {
        let result = result_path(&setting.run_dir, setting.steps, Some(&setting.sampling));
        let pictures = result.with_extension("").with_file_name(format!(
            "pictures-{}",
            result.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
        ));
        Self { sets: setting.sample_sets.clone(), result, pictures }
    }

    /// The numbers, once they are there.
    pub fn read(&self) -> Option<Evaluation> {
        Evaluation::read(&self.result).ok()
    }

    /// Whether the numbers are there.
    pub fn is_done(&self) -> bool {
        self.read().is_some()
    }

    /// Whether all pictures are there: what describes them is written last.
    pub fn has_pictures(&self) -> bool {
        described(&self.pictures).is_file()
    }
}

/// The file that `sample` leaves beside a folder of pictures.
fn described(pictures: &Path) -> PathBuf {
    let mut path = pictures.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

impl Stage {
    /// Whether the run has come so far.
    pub fn is_trained(&self, run_dir: &Path) -> bool {
        reached(run_dir) >= Some(self.steps)
    }

    /// Whether there is a checkpoint of just this step.
    pub fn has_checkpoint(&self, run_dir: &Path) -> bool {
        checkpoints(&run_dir.join("checkpoints")).iter().any(|found| found.step == self.steps)
    }
}

impl Training {
    /// Whether nothing is left to do; pictures are drawn of the first seed alone.
    pub fn is_done(&self) -> bool {
        self.stages.iter().all(|stage| {
            let has_all = |one: &Assessment| one.is_done() && (self.seed > 0 || one.has_pictures());
            stage.is_trained(&self.run_dir) && stage.assessments.iter().all(has_all)
        })
    }
}

/// Step of a run's newest checkpoint.
pub fn reached(run_dir: &Path) -> Option<u64> {
    checkpoints(&run_dir.join("checkpoints")).last().map(|found| found.step)
}

/// The runs behind entries, each once, in the order of the entries; and each entry's place in it.
///
/// # Errors
/// An entry does not resolve.
pub fn trainings(entries: &[Entry], scale: &Scale<'_>, seeds: u64) -> Result<(Vec<Training>, Vec<Vec<Setting>>)> {
    let mut all: Vec<Training> = vec![];
    let mut settings = vec![];
    for entry in entries {
        let mut by_seed = vec![];
        if entry.kind != Kind::Quoted {
            for seed in 0..seeds {
                by_seed.push(scale.setting(entry, seed)?);
            }
        }
        by_seed.iter().zip(0..).for_each(|(setting, seed)| add(&mut all, entry, setting, seed));
        settings.push(by_seed);
    }
    tell_apart(&mut all, entries, &settings);
    // Seed after seed, so that there is something to see of everything early.
    all.sort_by_key(|training| training.seed);
    Ok((all, settings))
}

fn add(all: &mut Vec<Training>, entry: &Entry, setting: &Setting, seed: u64) {
    let at = all.iter().position(|training| training.run_dir == setting.run_dir).unwrap_or_else(|| {
        all.push(Training {
            name: name(entry, setting, seed),
            recipe: setting.recipe.clone(),
            run_dir: setting.run_dir.clone(),
            seed,
            stages: vec![],
        });
        all.len() - 1
    });
    let stages = &mut all[at].stages;
    if !stages.iter().any(|stage| stage.steps == setting.steps) {
        stages.push(Stage { steps: setting.steps, sets: setting.train_args(), assessments: vec![] });
        stages.sort_by_key(|stage| stage.steps);
    }
    let assessment = Assessment::of(setting);
    if let Some(stage) = stages.iter_mut().find(|stage| stage.steps == setting.steps)
        && !stage.assessments.contains(&assessment)
    {
        stage.assessments.push(assessment);
    }
}

/// Adds the first row's label to the names that several runs have.
fn tell_apart(all: &mut [Training], entries: &[Entry], settings: &[Vec<Setting>]) {
    let names: Vec<String> = all.iter().map(|training| training.name.clone()).collect();
    for training in all {
        if names.iter().filter(|name| **name == training.name).count() > 1 {
            let is_own = |settings: &&Vec<Setting>| settings.iter().any(|setting| setting.run_dir == training.run_dir);
            let entry = settings.iter().position(|settings| is_own(&settings)).and_then(|at| entries.get(at));
            training.name += &entry.map(|entry| format!(" · {}", entry.name())).unwrap_or_default();
        }
    }
}

/// What tells a run from its neighbors.
fn name(entry: &Entry, setting: &Setting, seed: u64) -> String {
    let mut parts = vec![entry.arm.clone().unwrap_or_default()];
    for term in setting.plan.recipe.alignment.iter().take(1) {
        let sections = term.encoders.iter().map(|encoder| serde_yaml::to_value(encoder).unwrap_or_default());
        let names: Vec<String> = sections.map(|section| super::setting::encoder_name(&section)).collect();
        parts.push(format!("{}, block {}", names.join(" + "), term.encoder_depth));
    }
    if seed > 0 {
        parts.push(format!("seed {seed}"));
    }
    parts.join(" · ")
}
