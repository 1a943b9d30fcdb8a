//! Which of two runs is better: what the paper says, and what ours say.

use std::path::PathBuf;

use super::entry::{Entry, Kind};
use super::paper_table::{Names, PaperTable};
use super::state::{Ours, Outcome, less_is_better};

/// One statement of the paper, beside ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The better one.
    pub better: String,
    /// The worse one.
    pub worse: String,
    /// Where the paper says so: place and numbers, or words.
    pub basis: Vec<String>,
    /// Our numbers of both, the better one first.
    pub ours: Option<[Outcome; 2]>,
    /// What ours say.
    pub verdict: Verdict,
}

/// What our runs say of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same order, by more than noise.
    Holds,
    /// The other order, by more than noise.
    Reversed,
    /// The difference is smaller than what seeds or samples make.
    WithinNoise,
    /// The same order, and nothing is known of noise.
    HoldsOnce,
    /// The other order, and nothing is known of noise.
    ReversedOnce,
    /// A number is missing.
    NotRun,
    /// Both are the same run at this scale.
    SameRun,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Reversed => "does not hold",
            Self::WithinNoise => "within noise",
            Self::HoldsOnce => "same order, noise unknown",
            Self::ReversedOnce => "other order, noise unknown",
            Self::NotRun => "not run",
            Self::SameRun => "not tested: one run stands for both",
        }
    }
}

/// A pair of entries with what the paper says, better one first.
struct Pair {
    indices: [usize; 2],
    basis: String,
}

/// Every statement of the table, those on the same two runs together.
///
/// `runs` names the evaluation behind each entry, `ours` its numbers, and `metric` the number that orders them.
pub fn orders(
    table: &PaperTable,
    entries: &[Entry],
    runs: &[Option<PathBuf>],
    ours: &[Ours],
    metric: Option<&str>,
) -> Vec<Order> {
    let mut found: Vec<([Option<PathBuf>; 2], Order)> = vec![];
    for pair in printed(table, entries).into_iter().chain(claimed(table, entries)) {
        let [better, worse] = pair.indices;
        let key = [runs[better].clone(), runs[worse].clone()];
        let names = names(&entries[better], &entries[worse]);
        if let Some((_, known)) = found
            .iter_mut()
            .find(|(other, known)| *other == key && [&known.better, &known.worse] == [&names[0], &names[1]])
        {
            known.basis.push(pair.basis);
            continue;
        }
        let numbers = metric.and_then(|metric| ours[better].outcome(metric).zip(ours[worse].outcome(metric)));
        let verdict = match (&key, numbers, metric) {
            ([Some(one), Some(other)], ..) if one == other => Verdict::SameRun,
            (_, Some((better, worse)), Some(metric)) => verdict(better, worse, less_is_better(metric)),
            _ => Verdict::NotRun,
        };
        let [better, worse] = names;
        let ours = numbers.map(|(better, worse)| [better, worse]);
        found.push((key, Order { better, worse, basis: vec![pair.basis], ours, verdict }));
    }
    found.into_iter().map(|(_, order)| order).collect()
}

/// Compares the one that the paper has as better with the other.
pub fn verdict(better: Outcome, worse: Outcome, less_is_better: bool) -> Verdict {
    let gain = if less_is_better { worse.mean - better.mean } else { better.mean - worse.mean };
    let noise = better.noise().zip(worse.noise()).map(|(one, other)| one.hypot(other));
    match noise {
        Some(noise) if gain.abs() <= noise => Verdict::WithinNoise,
        Some(_) if gain > 0.0 => Verdict::Holds,
        Some(_) => Verdict::Reversed,
        None if gain > 0.0 => Verdict::HoldsOnce,
        None => Verdict::ReversedOnce,
    }
}

/// Arms where only these differ, else labels.
fn names(better: &Entry, worse: &Entry) -> [String; 2] {
    let by_arm = better.differs_in_arm_alone(worse);
    [better, worse].map(|entry| match (&entry.arm, by_arm) {
        (Some(arm), true) => arm.clone(),
        _ => entry.name(),
    })
}

/// Orders by the first number of the table: methods against each other, or rows where there is one method.
fn printed(table: &PaperTable, entries: &[Entry]) -> Vec<Pair> {
    let is_less = table.metrics.first().is_some_and(|metric| less_is_better(metric));
    let by_rows = table.arms.len() == 1;
    let mut pairs = vec![];
    for (i, one) in entries.iter().enumerate() {
        for (k, other) in entries.iter().enumerate().skip(i + 1) {
            let is_meant = if by_rows { one.column == other.column } else { one.differs_in_arm_alone(other) };
            let Some((a, b)) = one.number(0).zip(other.number(0)).filter(|(a, b)| is_meant && a != b) else { continue };
            let (better, worse) = if (a < b) == is_less { (i, k) } else { (k, i) };
            let place = match (&one.column, one.label == other.label || by_rows) {
                (Some(column), _)
                    if entries.iter().filter(|entry| entry.arm == one.arm && entry.column == one.column).count()
                        == 1 =>
                {
                    format!("{column}: ")
                }
                (_, true) => String::new(),
                _ => format!("{}: ", one.name()),
            };
            let text = |at: usize| entries[at].paper[0].clone().unwrap_or_default();
            let sign = if is_less { "<" } else { ">" };
            let basis = format!("{place}{} {sign} {}", text(better), text(worse));
            pairs.push(Pair { indices: [better, worse], basis });
        }
    }
    pairs
}

fn claimed(table: &PaperTable, entries: &[Entry]) -> Vec<Pair> {
    let mut pairs = vec![];
    for claim in &table.claims {
        let is_named = |entry: &Entry, names: &Names| {
            entry.kind != Kind::Quoted
                && (names.has(&entry.label) || entry.arm.as_ref().is_some_and(|arm| names.has(arm)))
        };
        for (i, better) in entries.iter().enumerate().filter(|(_, entry)| is_named(entry, &claim.better)) {
            for (k, worse) in entries.iter().enumerate().filter(|(_, entry)| is_named(entry, &claim.worse)) {
                let is_named_row = claim.worse.has(&worse.label) && better.column == worse.column;
                if i != k && (is_named_row || better.differs_in_arm_alone(worse)) {
                    pairs.push(Pair { indices: [i, k], basis: claim.text.clone() });
                }
            }
        }
    }
    pairs
}
