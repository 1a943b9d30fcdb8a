//! The tables that travel with the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use realign::registry::nearest;
use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::entry::Entry;
use super::paper_table::PaperTable;

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../tables/", $name, ".yaml")))),+]
    };
}

/// Name and text of every table and figure.
pub const TABLES: [(&str, &str); 31] = files![
    "table1a",
    "table1b",
    "table1c",
    "table2",
    "table3a",
    "table3b",
    "table4",
    "table5",
    "table6",
    "table7",
    "table8",
    "table9",
    "table10",
    "fig2",
    "fig3a",
    "fig3b",
    "fig3c",
    "fig4",
    "fig5",
    "fig8",
    "fig12",
    "fig13",
    "fig17",
    "fig18",
    "fig25",
    "fig26",
    "fig27",
    "fig28",
    "fig29",
    "fig31",
    "classical",
];

/// What tables share.
#[derive(Debug)]
pub struct Tables {
    /// Encoders that figures compare.
    pub compared: Compared,
    /// Where paper and released code differ, by name.
    pub differences: BTreeMap<String, Difference>,
}

/// Encoders that figures compare.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// The paper's.
    pub paper: Vec<Named>,
    /// Those that need no file.
    pub small: Vec<Named>,
}

/// An encoder with its label.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// As figures print it.
    pub label: String,
    /// A preset of `vit`, or a section as in a recipe.
    pub encoder: Value,
}

/// Two readings of a setting.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The setting.
    pub about: String,
    /// The reading that tables use.
    pub used: String,
    /// The other.
    pub other: String,
    /// Arms that it concerns; all when empty.
    #[serde(default)]
    pub arms: Vec<String>,
    /// Size of the backbone that it concerns; every one when absent.
    pub sized: Option<String>,
    /// Values of the other reading for training.
    #[serde(default)]
    pub set: Mapping,
    /// Values of `sample` of the other reading for evaluation.
    #[serde(default)]
    pub sample: Mapping,
}

impl Difference {
    /// Whether it concerns an entry; one of guidance concerns entries with guidance.
    pub fn concerns(&self, entry: &Entry) -> bool {
        let is_arm = self.arms.is_empty() || entry.arm.as_ref().is_some_and(|arm| self.arms.contains(arm));
        let is_sized = self.sized.is_none() || self.sized == entry.size;
        let is_guided = !self.sample.contains_key("guidance_high") || entry.sample.contains_key("guidance_high");
        is_arm && is_sized && is_guided
    }
}

impl Tables {
    /// Reads what tables share.
    ///
    /// # Errors
    /// A file of this build is damaged.
    pub fn read() -> Result<Self> {
        let compared = serde_yaml::from_str(include_str!("../../tables/compared.yaml"));
        let differences = serde_yaml::from_str(include_str!("../../tables/differences.yaml"));
        Ok(Self {
            compared: compared.context("compared.yaml of this build cannot be read")?,
            differences: differences.context("differences.yaml of this build cannot be read")?,
        })
    }

    /// A table of the paper by its name, or one of the user's own by its path; and its name.
    ///
    /// # Errors
    /// There is none, with the nearest name; or the file is wrong.
    pub fn table(&self, name: &str) -> Result<(String, PaperTable)> {
        let path = Path::new(name);
        let (name, text) = if path.extension().is_some_and(|ending| ending == "yaml") {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            (stem.unwrap_or_default(), text)
        } else if let Some((known, text)) = TABLES.iter().find(|(known, _)| *known == name) {
            (known.to_string(), text.to_string())
        } else {
            let known = || TABLES.iter().map(|(known, _)| *known);
            let hint = nearest(name, known()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            bail!("unknown table `{name}`\n  {hint}known: {}", known().collect::<Vec<_>>().join(", "));
        };
        let table: PaperTable = serde_yaml::from_str(&text).with_context(|| format!("table `{name}`"))?;
        table.check().with_context(|| format!("table `{name}`"))?;
        for difference in &table.differences {
            ensure!(
                self.differences.contains_key(difference),
                "table `{name}`: differences: `{difference}` is not in differences.yaml"
            );
        }
        Ok((name, table))
    }

    /// The readings that `--other` asks for.
    ///
    /// # Errors
    /// The table has no such difference, with those that it has.
    pub fn chosen(&self, table: &PaperTable, names: &[String]) -> Result<Vec<&Difference>> {
        let find = |name: &String| {
            let found = table.differences.contains(name).then(|| self.differences.get(name)).flatten();
            found.with_context(|| {
                let known = table.differences.iter().map(String::as_str);
                let hint = nearest(name, known.clone()).map(|near| format!("did you mean `{near}`? "));
                let known = known.collect::<Vec<_>>().join(", ");
                format!(
                    "--other {name}: {} has no such difference\n  {}known: {known}",
                    table.source,
                    hint.unwrap_or_default()
                )
            })
        };
        names.iter().map(find).collect()
    }
}
