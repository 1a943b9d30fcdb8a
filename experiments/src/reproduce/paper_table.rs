//! A table or figure of the paper as a file of `experiments/tables`.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};
use realign::registry::nearest;
use serde::Deserialize;
use serde_yaml::{Mapping, Value};

/// A table or figure: rows times columns of runs, and what the paper prints of each.
///
/// What stands beside `rows` and `columns` holds for all of them; a column's values win over it, a row's over both.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperTable {
    /// What it shows.
    pub title: String,
    /// Where it is printed: `table 2`.
    pub source: String,
    /// The profile of the paper's setting.
    #[serde(default = "imagenet256")]
    pub profile: String,
    /// Names of the numbers of a cell, in their order; the first one orders rows.
    pub metrics: Vec<String>,
    /// Methods: name and file in `recipes`.
    pub arms: BTreeMap<String, String>,
    /// Encoder, see [`Part::encoder`].
    pub encoder: Option<Value>,
    /// Size of the backbone, see [`Part::size`].
    pub size: Option<String>,
    /// Optimizer steps, see [`Part::steps`].
    pub steps: Option<u64>,
    /// Block that is aligned, see [`Part::depth`].
    pub depth: Option<Share>,
    /// Values of the recipe for training, in every profile.
    #[serde(default)]
    pub set: Mapping,
    /// Values of the recipe's section `sample` for evaluation, in every profile.
    #[serde(default)]
    pub sample: Mapping,
    /// The same in the paper's profile alone.
    #[serde(default)]
    pub full: Mapping,
    /// Values of the recipe's section `evaluation`, in the paper's profile alone.
    #[serde(default)]
    pub evaluation: Mapping,
    /// Pictures of each run in the report.
    #[serde(default = "sixteen")]
    pub pictures: usize,
    /// Names in `differences.yaml`: where paper and released code differ.
    #[serde(default)]
    pub differences: Vec<String>,
    /// Blocks side by side.
    #[serde(default)]
    pub columns: Vec<Part>,
    /// Lines.
    pub rows: Vec<Part>,
    /// Orders that the paper states without numbers.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// Correlations over the rows.
    #[serde(default)]
    pub correlations: Vec<Correlated>,
}

/// A row or a column.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Part {
    /// As it is printed.
    pub label: String,
    /// Method, a name of [`PaperTable::arms`].
    pub arm: Option<String>,
    /// Encoder of the paper: a preset of `vit` or a section as in a recipe. Only in the paper's profile.
    pub encoder: Option<Value>,
    /// `all`: one row for each encoder of `compared.yaml`.
    pub encoders: Option<All>,
    /// Encoders of `all` that are left out.
    pub without: Vec<String>,
    /// Whether the encoder needs no published file, and is used in every profile.
    pub everywhere: bool,
    /// Published size of the backbone. Only in the paper's profile.
    pub size: Option<String>,
    /// Optimizer steps. Only in the paper's profile.
    pub steps: Option<u64>,
    /// Block that is aligned and number of blocks; other depths take the nearest share.
    pub depth: Option<Share>,
    /// Values of the recipe for training, in every profile.
    pub set: Mapping,
    /// Values of the section `sample` for evaluation, in every profile.
    pub sample: Mapping,
    /// Whether the paper quotes the numbers from other work: nothing is run.
    pub quoted: bool,
    /// Whether the row is ours: it is run and no row of the paper.
    pub extra: bool,
    /// The printed numbers, one text for each column, a `-` where there is none.
    pub paper: Option<Cells>,
    /// What else is to be said.
    pub note: Option<String>,
}

/// The word `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum All {
    /// Every encoder that the paper compares.
    All,
}

/// One text, or one for each column.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Cells {
    /// Of a table without columns.
    One(String),
    /// In the columns' order.
    Many(Vec<String>),
}

/// A block and the number of blocks: `4/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Share {
    /// The block, counted from 1.
    pub block: usize,
    /// All blocks.
    pub of: usize,
}

impl PaperTable {
    /// # Errors
    /// There are no rows or numbers, or a claim names what is not there.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.rows.is_empty(), "rows: the list is empty");
        ensure!(!self.metrics.is_empty(), "metrics: the list is empty; the first one orders rows, `[fid]`");
        let labels: Vec<&str> = self.rows.iter().map(|row| row.label.as_str()).collect();
        let is_known = |name: &&str| {
            // A row for every encoder has their labels, which depend on the scale.
            self.arms.contains_key(*name) || labels.contains(name) || self.rows.iter().any(|row| row.encoders.is_some())
        };
        let mut names = self.claims.iter().flat_map(|claim| [&claim.better, &claim.worse]).flat_map(Names::all);
        if let Some(unknown) = names.find(|name| !is_known(name)) {
            let known: Vec<&str> = self.arms.keys().map(String::as_str).chain(labels).collect();
            let hint = nearest(unknown, known.iter().copied()).map(|near| format!("did you mean `{near}`? "));
            bail!(
                "claims: `{unknown}` is neither a method nor a row\n  {}known: {}",
                hint.unwrap_or_default(),
                known.join(", ")
            );
        }
        Ok(())
    }

    /// Whether a property of encoders is correlated with the numbers of the runs.
    pub fn correlates(&self, property: &str) -> bool {
        self.correlations.iter().any(|known| known.x == property)
    }
}

impl Share {
    /// The block at the nearest share of another depth.
    pub fn scaled(self, depth: usize) -> usize {
        let share = self.block as f64 * depth as f64 / self.of as f64;
        (share.round() as usize).clamp(1, depth.max(1)) // a share of a depth is no large number
    }
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(block, of)| Some((block.parse().ok()?, of.parse().ok()?)));
        let (block, of) = parts.with_context(|| format!("`{text}` is no share of blocks such as 4/12"))?;
        ensure!(1 <= block && block <= of, "`{text}`: there is no such block");
        Ok(Self { block, of })
    }
}

impl TryFrom<String> for Share {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// An order that the paper states.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// In the paper's words.
    pub text: String,
    /// Arms or rows that are better.
    pub better: Names,
    /// Arms or rows that are worse.
    pub worse: Names,
}

/// Names of arms or rows.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Names {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Names {
    /// All of them.
    fn all(&self) -> Vec<&str> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many.iter().map(String::as_str).collect(),
        }
    }

    /// Whether one of them is this.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(many) => many.iter().any(|one| one == name),
        }
    }
}

/// A correlation over the rows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correlated {
    /// Property of the encoder.
    pub x: String,
    /// Number of the run.
    pub y: String,
    /// The column; every one where it is left out.
    pub column: Option<String>,
    /// As the paper prints it.
    pub paper: String,
}

fn imagenet256() -> String {
    "imagenet256".into()
}

fn sixteen() -> usize {
    16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_another_depth_is_the_nearest_share() {
        let share: Share = "4/12".parse().unwrap();
        assert_eq!([6, 8, 28, 1].map(|depth| share.scaled(depth)), [2, 3, 9, 1]);
        assert_eq!("12/12".parse::<Share>().unwrap().scaled(12), 12);
        for wrong in ["4", "0/12", "13/12", "a/b", "4/0"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
