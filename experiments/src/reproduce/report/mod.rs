//! The report: the paper's numbers beside ours, as Markdown, CSV and one page of HTML.

mod block;
mod content;
mod correlations;
mod figures;
mod html;
mod numbers;
mod pictures;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use realign::files::write_whole;

use super::entry::Entry;
use super::library::Tables;
use super::orders::{Order, orders};
use super::paper_table::PaperTable;
use super::runner::Failure;
use super::setting::{Scale, Setting};
use super::state::{Ours, ordering_metric};
use super::structure::Structure;
use super::work::{Assessment, Training};

/// Everything that a report speaks of.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Name of the table's file.
    pub name: &'a str,
    /// The table.
    pub table: &'a PaperTable,
    /// What tables share.
    pub tables: &'a Tables,
    /// Where it was run.
    pub scale: &'a Scale<'a>,
    /// Seeds that were asked for.
    pub seeds: u64,
    /// Its cells.
    pub entries: &'a [Entry],
    /// Of each cell, one for each seed; empty for those that are quoted.
    pub settings: &'a [Vec<Setting>],
    /// The runs behind them.
    pub trainings: &'a [Training],
    /// Spatial structure of the encoders, where the table correlates it.
    pub structure: &'a Structure,
    /// Runs that failed.
    pub failures: &'a [Failure],
    /// The command that makes it again.
    pub command: String,
}

/// A subject with its numbers.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    pub subject: &'a Subject<'a>,
    /// Numbers of each entry.
    pub ours: Vec<Ours>,
    /// The file of the first seed's result, which tells evaluations apart.
    pub results: Vec<Option<PathBuf>>,
    /// Entries that are the first of their evaluation: a line of "what was run" each.
    pub distinct: Vec<usize>,
    /// Names of our numbers.
    pub metrics: Vec<String>,
    /// The one that orders runs.
    pub metric: Option<String>,
    /// The paper's orders.
    pub orders: Vec<Order>,
}

impl<'a> Findings<'a> {
    fn new(subject: &'a Subject<'a>) -> Self {
        let ours: Vec<Ours> = subject.settings.iter().map(|settings| Ours::of(settings)).collect();
        let first = |settings: &Vec<Setting>| settings.first().map(|setting| Assessment::of(setting).result);
        let results: Vec<Option<PathBuf>> = subject.settings.iter().map(first).collect();
        let is_first = |at: &usize| results[*at].is_some() && results[..*at].iter().all(|other| *other != results[*at]);
        let distinct = (0..results.len()).filter(is_first).collect();
        let names: BTreeSet<&str> = ours.iter().flat_map(Ours::metrics).collect();
        let paper = subject.table.metrics.first().map_or("fid", String::as_str);
        let metric = ordering_metric(paper, &names.iter().copied().collect::<Vec<_>>());
        let orders = orders(subject.table, subject.entries, &results, &ours, metric.as_deref());
        let metrics = names.into_iter().map(str::to_string).collect();
        Self { subject, ours, results, distinct, metrics, metric, orders }
    }

    /// What tells a run from the others: its method, and its row where several runs have that method.
    pub fn run_name(&self, entry: usize) -> String {
        let entries = self.subject.entries;
        let arm = entries[entry].arm.clone().unwrap_or_default();
        let is_same = |at: &&usize| entries[**at].arm == entries[entry].arm;
        let row = entries[entry].name();
        match self.distinct.iter().filter(is_same).count() > 1 && row != arm {
            true => format!("{arm} · {row}"),
            false => arm,
        }
    }

    /// Number of an entry's evaluation among those that were run, counted from 1.
    pub fn run_number(&self, entry: usize) -> Option<usize> {
        let at = self.distinct.iter().position(|first| self.results[*first] == self.results[entry]);
        at.filter(|_| self.results[entry].is_some()).map(|at| at + 1)
    }
}

/// Writes `report.md`, `results.csv` and `report.html` with their pictures into a folder; returns the page.
///
/// # Errors
/// The disk refuses, or a picture cannot be read.
pub fn write_report(subject: &Subject<'_>, folder: &Path, out: &mut dyn Write) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    let findings = Findings::new(subject);
    let blocks = content::blocks(&findings)?;
    numbers::results(&findings).write_csv(&folder.join("results.csv"))?;
    if !subject.table.correlations.is_empty() {
        numbers::encoders(&findings).write_csv(&folder.join("encoders.csv"))?;
    }
    write_whole(&folder.join("report.md"), block::markdown(&blocks, folder)?.as_bytes())?;
    let page = folder.join("report.html");
    let title = format!("{}: {}", subject.name, subject.table.title);
    write_whole(&page, html::page(&title, &blocks)?.as_bytes())?;
    write!(out, "\n{}", numbers::summary(&findings).to_text())?;
    for order in &findings.orders {
        writeln!(out, "{} better than {}: {}", order.better, order.worse, order.verdict.words())?;
    }
    Ok(page)
}
