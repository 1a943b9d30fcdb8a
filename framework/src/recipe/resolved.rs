//! The resolved recipe: what `explain` prints and what a run folder keeps.

use anyhow::{Context, Result};
use figment::value::{Num, Value};
use serde_yaml::{Mapping, Value as Yaml};

use super::layers::Layered;
use super::yaml::join;

impl Layered {
    /// Every given value as dotted key, value in YAML and origin, sections in alphabetical order with `type`
    /// first. A list of plain values is one entry.
    pub fn leaves(&self) -> Vec<(String, String, String)> {
        let mut leaves = vec![];
        self.collect(&self.root, "", &mut leaves);
        leaves
    }

    /// The merged recipe as a YAML text that loads to the same values.
    ///
    /// # Errors
    /// A value that YAML cannot hold, which loading already refuses.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(&yaml(&self.root)).context("cannot write the resolved recipe")
    }

    fn collect(&self, value: &Value, key: &str, leaves: &mut Vec<(String, String, String)>) {
        match value {
            Value::Dict(_, section) if !section.is_empty() || key.is_empty() => {
                let (types, others): (Vec<_>, Vec<_>) = section.iter().partition(|(name, _)| *name == "type");
                for (name, value) in types.into_iter().chain(others) {
                    self.collect(value, &join(key, name), leaves);
                }
            }
            Value::Array(tag, items) if items.iter().any(|item| !is_plain(item) || item.tag() != *tag) => {
                for (index, item) in items.iter().enumerate() {
                    self.collect(item, &join(key, &index.to_string()), leaves);
                }
            }
            value => leaves.push((key.to_string(), one_line(value), self.place(value.tag(), key))),
        }
    }
}

fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Dict(..) | Value::Array(..))
}

fn yaml(value: &Value) -> Yaml {
    match value {
        Value::String(_, text) => Yaml::from(text.as_str()),
        Value::Char(_, letter) => Yaml::from(letter.to_string()),
        Value::Bool(_, value) => Yaml::from(*value),
        Value::Num(_, Num::F32(value)) => Yaml::from(*value),
        Value::Num(_, Num::F64(value)) => Yaml::from(*value),
        Value::Num(_, number) => match (number.to_u128().map(u64::try_from), number.to_i128().map(i64::try_from)) {
            (Some(Ok(value)), _) => Yaml::from(value),
            (_, Some(Ok(value))) => Yaml::from(value),
            _ => Yaml::Null,
        },
        Value::Empty(..) => Yaml::Null,
        Value::Array(_, items) => Yaml::Sequence(items.iter().map(yaml).collect()),
        Value::Dict(_, section) => {
            let (types, others): (Vec<_>, Vec<_>) = section.iter().partition(|(name, _)| *name == "type");
            let entries = types.into_iter().chain(others).map(|(key, value)| (Yaml::from(key.as_str()), yaml(value)));
            Yaml::Mapping(entries.collect::<Mapping>())
        }
    }
}

/// A value in flow style on one line.
fn one_line(value: &Value) -> String {
    match value {
        Value::Array(_, items) => format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        Value::Dict(..) => "{}".into(),
        value => {
            let text = serde_yaml::to_string(&yaml(value)).unwrap_or_default();
            match (text.trim_end(), value) {
                (text, Value::String(_, raw)) if text.contains('\n') => {
                    serde_json::Value::from(raw.as_str()).to_string()
                }
                (text, _) => text.to_string(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, sets: &[&str]) -> (tempfile::TempDir, Layered) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let layered = Layered::load(&path, None, &sets).unwrap();
        (folder, layered)
    }

    #[test]
    fn leaves_are_single_lines_with_their_origin() {
        let text =
            "note: |\n  two\n  lines\nbetas: [0.9, 0.999]\nterms:\n  - width: 3\n    type: conv\nempty: {}\nnone: ~\n";
        let (_folder, layered) = load(text, &["train.lr=1e-4"]);
        let leaves = layered.leaves();
        let found: Vec<_> = leaves
            .iter()
            .map(|(key, value, origin)| {
                (key.as_str(), value.as_str(), origin.rsplit(['/', ' ']).next().unwrap_or_default())
            })
            .collect();
        let expected = [
            ("betas", "[0.9, 0.999]", "a.yaml:4"),
            ("empty", "{}", "a.yaml:8"),
            ("none", "null", "a.yaml:9"),
            ("note", "\"two\\nlines\\n\"", "a.yaml:1"),
            ("terms.0.type", "conv", "a.yaml:7"),
            ("terms.0.width", "3", "a.yaml:6"),
            ("train.lr", "0.0001", "train.lr=1e-4"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_list_of_which_one_item_was_set_is_shown_item_by_item() {
        let (_folder, layered) = load("betas: [0.9, 0.999]\n", &["betas.1=0.95"]);
        let leaves = layered.leaves();
        assert_eq!(leaves[1], ("betas.1".into(), "0.95".into(), "--set betas.1=0.95".into()));
        assert_eq!(leaves.len(), 2);
    }

    #[test]
    fn the_resolved_recipe_loads_to_the_same_values() {
        let (_folder, layered) =
            load("b: 'yes: no'\na: [{type: x, aa: -3, m: {0: 1.5, 7: null}}]\nbig: 18446744073709551615\n", &[]);
        let text = layered.to_yaml().unwrap();
        assert!(text.contains("- type: x\n  aa: -3"), "{text}");
        let (_folder, again) = load(&text, &[]);
        let values =
            |layered: &Layered| layered.leaves().into_iter().map(|(key, value, _)| (key, value)).collect::<Vec<_>>();
        assert_eq!(values(&again), values(&layered));
    }
}
