//! Cells of a table, one by one.

use anyhow::{Context, Result, ensure};
use serde_yaml::{Mapping, Value};

use super::library::Tables;
use super::paper_table::{Cells, PaperTable, Part, Share};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A run of the paper.
    Run,
    /// A run of ours beside the paper's.
    Extra,
    /// Numbers that the paper quotes.
    Quoted,
}

/// One row in one column.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Row of the file, counted from 1.
    pub row: usize,
    /// Label of the row, as printed.
    pub label: String,
    /// Label of the column, where there are columns.
    pub column: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// Method.
    pub arm: Option<String>,
    /// Recipe file.
    pub recipe: Option<String>,
    /// The paper's encoder, as a recipe's section.
    pub encoder: Option<Value>,
    /// Whether that is used in every profile.
    pub everywhere: bool,
    /// Size of the backbone in the paper.
    pub size: Option<String>,
    /// Optimizer steps in the paper.
    pub steps: Option<u64>,
    /// Block that is aligned.
    pub depth: Option<Share>,
    /// Values for training.
    pub set: Mapping,
    /// Values of `sample` for evaluation.
    pub sample: Mapping,
    /// The same in the paper's profile alone.
    pub full: Mapping,
    /// Values of `evaluation` in the paper's profile alone.
    pub evaluation: Mapping,
    /// What the paper prints, in the order of the table's metrics.
    pub paper: Vec<Option<String>>,
    /// What else is to be said.
    pub note: Option<String>,
}

impl PaperTable {
    /// Every row in every column; `is_paper` says whether the paper's encoders are meant.
    ///
    /// # Errors
    /// The file contradicts itself; says where.
    pub fn entries(&self, tables: &Tables, is_paper: bool) -> Result<Vec<Entry>> {
        let mut entries = vec![];
        for (row, number) in self.rows.iter().zip(1..) {
            for part in self.spread(row, tables, is_paper) {
                let columns: Vec<Option<&Part>> = match self.columns.is_empty() || part.quoted {
                    true => vec![None],
                    false => self.columns.iter().map(Some).collect(),
                };
                for (at, column) in columns.iter().enumerate() {
                    let entry = self.entry(number, &part, *column, at);
                    entries.push(entry.with_context(|| format!("{}: row {number} `{}`", self.source, part.label))?);
                }
            }
        }
        Ok(entries)
    }

    /// The row, or one for each encoder that it stands for.
    fn spread(&self, row: &Part, tables: &Tables, is_paper: bool) -> Vec<Part> {
        if row.encoders.is_none() {
            return vec![row.clone()];
        }
        let compared = if is_paper { &tables.compared.paper } else { &tables.compared.small };
        let kept = compared.iter().filter(|encoder| !row.without.contains(&encoder.label));
        let several = self.rows.len() > 1;
        let named = kept.map(|encoder| Part {
            label: match (&row.arm, several) {
                (Some(arm), true) => format!("{} {arm}", encoder.label),
                _ => encoder.label.clone(),
            },
            encoder: Some(encoder.encoder.clone()),
            everywhere: !is_paper,
            ..row.clone()
        });
        named.collect()
    }

    fn entry(&self, row: usize, part: &Part, column: Option<&Part>, at: usize) -> Result<Entry> {
        let arm = part.arm.clone().or_else(|| column.and_then(|column| column.arm.clone()));
        let kind = match (part.quoted, part.extra) {
            (true, _) => Kind::Quoted,
            (_, true) => Kind::Extra,
            _ => Kind::Run,
        };
        ensure!(arm.is_some() || kind == Kind::Quoted, "`arm` is missing");
        let recipe = match &arm {
            Some(arm) => Some(self.arms.get(arm).with_context(|| format!("`{arm}` is none of the table's arms"))?),
            None => None,
        };
        let merged = |of: fn(&Part) -> &Mapping, table: &Mapping| {
            let layers = [Some(table), column.map(of), Some(of(part))];
            layers.into_iter().flatten().flat_map(Mapping::clone).collect::<Mapping>()
        };
        let encoder = part.encoder.clone().or_else(|| column?.encoder.clone()).or_else(|| self.encoder.clone());
        Ok(Entry {
            row,
            label: part.label.clone(),
            column: column.map(|column| column.label.clone()),
            kind,
            recipe: recipe.cloned(),
            arm,
            encoder: encoder.map(section),
            everywhere: part.everywhere,
            size: part.size.clone().or_else(|| column?.size.clone()).or_else(|| self.size.clone()),
            steps: part.steps.or_else(|| column?.steps).or(self.steps),
            depth: part.depth.or_else(|| column?.depth).or(self.depth),
            set: merged(|part| &part.set, &self.set),
            sample: merged(|part| &part.sample, &self.sample),
            full: self.full.clone(),
            evaluation: self.evaluation.clone(),
            paper: self.printed(part, at)?,
            note: part.note.clone(),
        })
    }

    fn printed(&self, part: &Part, at: usize) -> Result<Vec<Option<String>>> {
        let text = match &part.paper {
            None => return Ok(vec![None; self.metrics.len()]),
            Some(Cells::One(text)) => {
                ensure!(self.columns.is_empty() || part.quoted, "`paper` needs one text for each column");
                text
            }
            Some(Cells::Many(texts)) => {
                ensure!(texts.len() == self.columns.len(), "`paper` has {} texts for the columns", texts.len());
                &texts[at]
            }
        };
        let words: Vec<Option<String>> =
            text.split_whitespace().map(|word| (word != "-").then(|| word.to_string())).collect();
        ensure!(words.len() == self.metrics.len(), "`{text}` is not one number for each of {:?}", self.metrics);
        let is_number = |word: &String| word.parse::<f64>().is_ok();
        ensure!(words.iter().flatten().all(is_number), "`{text}` has what is no number");
        Ok(words)
    }
}

impl Entry {
    /// Row and column, for people.
    pub fn name(&self) -> String {
        match &self.column {
            Some(column) => format!("{} | {column}", self.label),
            None => self.label.clone(),
        }
    }

    /// The paper's number of a metric, by its place among the table's.
    pub fn number(&self, metric: usize) -> Option<f64> {
        self.paper.get(metric)?.as_ref()?.parse().ok()
    }

    /// Whether two entries differ in their method alone.
    pub fn differs_in_arm_alone(&self, other: &Self) -> bool {
        let same = |entry: &Self| {
            (
                entry.column.clone(),
                entry.encoder.clone(),
                entry.size.clone(),
                entry.steps,
                entry.depth,
                entry.set.clone(),
            )
        };
        self.arm != other.arm && same(self) == same(other)
    }
}

/// A preset's name as the section of an encoder.
pub(super) fn section(encoder: Value) -> Value {
    match encoder {
        Value::String(preset) => {
            let vit = [("type", "vit".to_string()), ("preset", preset)];
            Value::Mapping(vit.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
        }
        section => section,
    }
}
