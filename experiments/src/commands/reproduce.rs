//! `realign reproduce`: a table of the paper, run again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use realign::ops::{self, DeviceChoice};
use realign::registry::nearest;

use super::recipe_args::settings;
use super::run::stop_flag;
use crate::reproduce::{
    Entry, Kind, PaperTable, Runner, Scale, Setting, Structure, Subject, TABLES, Tables, print_costs, trainings,
    write_report,
};

/// Runs of small networks at the same time on a CPU of many cores: their memory must fit.
const MOST: u64 = 1000; // seeds or jobs
const MOST_JOBS: usize = 4;

/// Run a table or figure of the paper again, and write a report beside its numbers
#[derive(Debug, Args)]
pub struct Reproduce {
    /// Table or figure, `table2`, `fig3c`, `classical`, or a file of your own that ends in `.yaml`; without one, all are
    /// listed
    table: Option<String>,
    /// Scale of the runs: a profile; `demo` when left out
    #[arg(long)]
    profile: Option<String>,
    /// Rows of the table: numbers, ranges, labels or methods, separated by commas
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Runs of each row, with seeds 0, 1, 2
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Runs at the same time, each with its share of the cores; when left out 1, and one for each core, 4 at most, of
    /// small profiles on a CPU
    #[arg(long)]
    jobs: Option<usize>,
    /// Print what it costs, and run nothing but a few steps for the speed of this machine; without --profile also at the paper's scale
    #[arg(long)]
    plan: bool,
    /// Write the report of what is there, and run nothing
    #[arg(long, conflicts_with = "plan")]
    report: bool,
    /// Take the other reading where paper and released code differ; a report names them; may be repeated
    #[arg(long = "other", value_name = "NAME")]
    other: Vec<String>,
    /// Override one value of every recipe, `train.steps=100`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Folder that holds the runs' folders and the reports; `runs/reproduce` when left out
    #[arg(long)]
    runs: Option<PathBuf>,
}

impl Reproduce {
    /// Runs what is missing and writes the report.
    ///
    /// # Errors
    /// The table, a row or a recipe is wrong. A run that fails is told, and the report still written.
    pub fn run(&self, out: &mut dyn Write) -> Result<ExitCode> {
        let tables = Tables::read()?;
        let Some(name) = &self.table else { return list(&tables, out) };
        for (option, value) in [("--seeds", Some(self.seeds)), ("--jobs", self.jobs.map(|jobs| jobs as u64))] {
            let Some(value) = value.filter(|value| !(1..=MOST).contains(value)) else { continue };
            bail!("{option}: `{value}` is out of range; allowed is 1 to {MOST}");
        }
        let (name, table) = tables.table(name)?;
        if self.plan && self.profile.is_none() {
            self.at(&name, &table, &tables, &table.profile, out)?;
            writeln!(out)?;
        }
        self.at(&name, &table, &tables, self.profile.as_deref().unwrap_or("demo"), out)
    }

    fn at(
        &self,
        name: &str,
        table: &PaperTable,
        tables: &Tables,
        profile: &str,
        out: &mut dyn Write,
    ) -> Result<ExitCode> {
        let is_paper = profile == table.profile;
        let is_large = profile.starts_with("imagenet") || profile == "coco";
        ensure!(
            is_paper || !is_large,
            "--profile {profile}: the paper's {} is at `{}`; small profiles are `demo` and `tiny-imagenet`",
            table.source,
            table.profile
        );
        let settings = settings()?;
        let runs = self
            .runs
            .clone()
            .unwrap_or_else(|| settings.runs.clone().unwrap_or_else(|| PathBuf::from("runs")).join("reproduce"));
        let other = tables.chosen(table, &self.other)?;
        let recipes = Path::new("recipes");
        let scale = Scale { settings: &settings, recipes, runs: &runs, profile, is_paper, sets: &self.sets, other };
        let entries = self.entries(table, tables, is_paper)?;
        let (trainings, settings) = trainings(&entries, &scale, self.seeds)?;
        if self.plan {
            let all: Vec<&Setting> = settings.iter().flatten().collect();
            writeln!(out, "{}: {} ({})", name, table.title, table.source)?;
            print_costs(&trainings, &all, &scale, out)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut failures = vec![];
        let stop = stop_flag()?;
        if !self.report {
            settings.iter().flatten().try_for_each(Setting::is_ready)?;
            let finished = trainings.iter().filter(|training| training.is_done()).count();
            writeln!(out, "{name} at {profile}: {} runs, {finished} of them finished before", trainings.len())?;
            let jobs = self.jobs.map_or_else(|| jobs(settings.iter().flatten().next(), is_paper), Ok)?;
            let jobs = jobs.clamp(1, (trainings.len() - finished).max(1)); // the fewer, the more cores has each
            let labels = labels(settings.iter().flatten().next(), table.pictures);
            let runner = Runner { profile, num_pictures: table.pictures, labels, jobs, stop: &stop };
            failures = runner.run(&trainings, out)?;
        }
        if stop.load(Ordering::Relaxed) {
            writeln!(out, "stopped; training is saved, an evaluation begins again: the same command goes on")?;
        }
        let folder = runs.join(scale.report_name(name));
        let structure_file = folder.join("structure.json");
        let structure = match self.report || stop.load(Ordering::Relaxed) {
            true => Structure::read(&structure_file),
            false => Structure::complete(table, &entries, &settings, &structure_file)?,
        };
        let subject = Subject {
            name,
            table,
            tables,
            scale: &scale,
            seeds: self.seeds,
            entries: &entries,
            settings: &settings,
            trainings: &trainings,
            structure: &structure,
            failures: &failures,
            command: self.command(name, profile),
        };
        let page = write_report(&subject, &folder, out)?;
        writeln!(out, "report: {}", page.display())?;
        Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The entries of the rows that were asked for; at the paper's scale rows of ours only by name.
    fn entries(&self, table: &PaperTable, tables: &Tables, is_paper: bool) -> Result<Vec<Entry>> {
        let all = table.entries(tables, is_paper)?;
        for word in &self.rows {
            if all.iter().any(|entry| is_asked(entry, word)) {
                continue;
            }
            let mut known: Vec<&str> = all.iter().map(|entry| entry.label.as_str()).collect();
            known.extend(table.arms.keys().map(String::as_str));
            let mut seen = vec![];
            known.retain(|word| {
                !seen.contains(word) && {
                    seen.push(*word);
                    true
                }
            });
            let hint = nearest(word, known.iter().copied()).map(|near| format!("did you mean `{near}`? "));
            let last = all.iter().map(|entry| entry.row).max().unwrap_or(0);
            let hint = hint.unwrap_or_default();
            bail!("--rows {word}: no such row\n  {hint}known: 1 to {last}, {}", known.join(", "));
        }
        let is_kept = |entry: &Entry| match self.rows.is_empty() {
            true => !(is_paper && entry.kind == Kind::Extra),
            false => self.rows.iter().any(|word| is_asked(entry, word)),
        };
        Ok(all.into_iter().filter(is_kept).collect())
    }

    /// The command that makes the report again.
    fn command(&self, name: &str, profile: &str) -> String {
        let mut words =
            vec![format!("cargo xtask reproduce {} --profile {profile}", self.table.as_deref().unwrap_or(name))];
        if let Some(runs) = &self.runs {
            words.push(format!("--runs '{}'", runs.display()));
        }
        if !self.rows.is_empty() {
            words.push(format!("--rows '{}'", self.rows.join(",")));
        }
        if self.seeds != 1 {
            words.push(format!("--seeds {}", self.seeds));
        }
        words.extend(self.other.iter().map(|other| format!("--other {other}")));
        words.extend(self.sets.iter().map(|set| match set.contains([' ', '{', '[', '*']) {
            true => format!("--set '{set}'"),
            false => format!("--set {set}"),
        }));
        words.join(" ")
    }
}

/// Whether a word of `--rows` means this entry: its row, a range, its label or its method.
fn is_asked(entry: &Entry, word: &str) -> bool {
    let word = word.trim();
    let range = word.split_once('-').and_then(|(from, to)| Some(from.parse::<usize>().ok()?..=to.parse().ok()?));
    let is_name = |name: &str| name.eq_ignore_ascii_case(word);
    word.parse() == Ok(entry.row)
        || range.is_some_and(|range| range.contains(&entry.row))
        || is_name(&entry.label)
        || entry.arm.as_deref().is_some_and(is_name)
}

/// One picture of each class in turn where there are few, else the recipe's way.
fn labels(setting: Option<&Setting>, num_pictures: usize) -> Vec<i64> {
    let classes = setting.map_or(0, |setting| setting.plan.num_classes);
    let is_text =
        setting.is_some_and(|setting| matches!(setting.plan.condition, realign::plugin::ConditionSpec::Text { .. }));
    if is_text || classes == 0 || classes > num_pictures { vec![] } else { (0..classes).map(|i| i as i64).collect() }
}

/// Every table with its title.
fn list(tables: &Tables, out: &mut dyn Write) -> Result<ExitCode> {
    for (name, _) in TABLES {
        let (_, table) = tables.table(name)?;
        writeln!(out, "{name:10}  {} ({})", table.title, table.source)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs at the same time where the user leaves it open: a core does more for a small network of its own than for a part
/// of one.
fn jobs(first: Option<&Setting>, is_paper: bool) -> Result<usize> {
    let Some(setting) = first.filter(|_| !is_paper) else { return Ok(1) };
    let device = DeviceChoice::parse(&setting.plan.recipe.device).and_then(ops::open).context("device")?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Ok(if ops::is_cuda(&device) { 1 } else { cores.min(MOST_JOBS) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_asked_for_by_number_range_label_and_method() {
        let tables = Tables::read().unwrap();
        let (_, table) = tables.table("table2").unwrap();
        let rows = |words: &str| {
            let command = Reproduce {
                table: None,
                profile: None,
                rows: words.split(',').filter(|word| !word.is_empty()).map(str::to_string).collect(),
                seeds: 1,
                jobs: None,
                plan: false,
                report: false,
                other: vec![],
                sets: vec![],
                runs: None,
            };
            let entries = command.entries(&table, &tables, true);
            entries.map(|entries| entries.into_iter().map(|entry| entry.row).collect::<Vec<_>>())
        };
        assert_eq!(rows("").unwrap().len(), 16);
        assert_eq!(rows("1,3-4").unwrap(), [1, 1, 1, 1, 3, 3, 3, 3, 4, 4, 4, 4]);
        assert_eq!(rows("irepa").unwrap(), [4; 4]);
        assert_eq!(rows("Baseline REPA").unwrap(), [1; 4]);
        let refused = rows("iREPAA").unwrap_err().to_string();
        assert!(refused.contains("did you mean `iREPA`?") && refused.contains("known: 1 to 4"), "{refused}");
        assert!(rows("7").is_err());
    }
}
