//! What keeps published weights from fitting, in words.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, bail};

use crate::registry::nearest;

const SHOWN: usize = 8; // of each kind; the whole list of a wrong file would fill the screen

/// All misfits of a file, by published name.
pub(super) struct Misfit<'a> {
    prefix: &'a str,
    missing: BTreeMap<String, Option<Vec<usize>>>,
    unexpected: BTreeMap<String, Vec<usize>>,
    shapes: BTreeMap<String, String>,
}

impl<'a> Misfit<'a> {
    pub(super) fn new(prefix: &'a str) -> Self {
        Self { prefix, missing: BTreeMap::new(), unexpected: BTreeMap::new(), shapes: BTreeMap::new() }
    }

    pub(super) fn missing(&mut self, name: &str, expected: Option<Vec<usize>>) {
        self.missing.insert(self.full(name), expected);
    }

    pub(super) fn unexpected(&mut self, name: &str, shape: &[usize]) {
        self.unexpected.insert(self.full(name), shape.to_vec());
    }

    /// Notes a shape that is not the expected one.
    pub(super) fn check(&mut self, name: &str, found: &[usize], expected: &[usize]) -> Option<()> {
        if found == expected {
            return Some(());
        }
        let name = self.full(name);
        let sentence = format!("`{name}` is {found:?}, expected {expected:?}");
        self.shapes.insert(name, sentence);
        None
    }

    /// Notes tensors whose rows do not add up.
    pub(super) fn rows(&mut self, names: &[String], found: usize, expected: usize) {
        let names: Vec<String> = names.iter().map(|name| format!("`{}`", self.full(name))).collect();
        let sentence = format!("{} have {found} rows together, expected {expected}", names.join(", "));
        self.shapes.insert(names.join(","), sentence);
    }

    /// # Errors
    /// There is any misfit.
    pub(super) fn into_result(self, is_any_used: bool) -> Result<()> {
        let counts = [self.missing.len(), self.unexpected.len(), self.shapes.len()];
        if counts == [0, 0, 0] {
            return Ok(());
        }
        let shown = |names: &mut dyn Iterator<Item = &String>| {
            names.take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        };
        if !is_any_used {
            bail!(
                "weights do not fit: none of its names is of this layout\n  found names like {}\n  expected names like {}",
                shown(&mut self.unexpected.keys()),
                shown(&mut self.missing.keys())
            );
        }
        let kinds = ["missing", "not expected", "of another shape"];
        let counts = counts.iter().zip(kinds).filter(|(count, _)| **count > 0);
        let counts: Vec<String> = counts.map(|(count, kind)| format!("{count} {kind}")).collect();
        let mut message = format!("weights do not fit: {}", counts.join(", "));
        let missing = self.missing.iter().map(|(name, shape)| {
            let shape = shape.as_ref().map(|shape| format!(" {shape:?}")).unwrap_or_default();
            let hint = nearest(name, self.unexpected.keys().map(String::as_str)).map_or(String::new(), |near| {
                format!("; did you mean `{near}` {:?}, which is there?", self.unexpected[near])
            });
            format!("missing `{name}`{shape}{hint}")
        });
        list(&mut message, missing, self.missing.len());
        let unexpected = self.unexpected.iter().map(|(name, shape)| format!("not expected `{name}` {shape:?}"));
        list(&mut message, unexpected, self.unexpected.len());
        list(&mut message, self.shapes.values().cloned(), self.shapes.len());
        bail!("{message}")
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

fn list(message: &mut String, sentences: impl Iterator<Item = String>, count: usize) {
    for sentence in sentences.take(SHOWN) {
        let _ = write!(message, "\n  {sentence}"); // writing to a text cannot fail
    }
    if count > SHOWN {
        let _ = write!(message, "\n  … and {} more", count - SHOWN);
    }
}
