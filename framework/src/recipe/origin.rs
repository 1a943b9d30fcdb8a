//! Where a value was written: `file:line` of a dotted key, or the words of the command line that gave it.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::locate::locate;
use super::singular::short;
use super::yaml::join;

/// What a layer was read from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A file, or the section `within` of it.
    File { shown: String, text: Arc<str>, within: String },
    /// Something given on the command line, as typed: `--set train.steps=3`.
    Typed(String),
}

impl Source {
    /// `file:line` of the key or of the deepest section around it that the file has.
    pub(super) fn place(&self, key: &str) -> String {
        match self {
            Source::Typed(typed) => typed.clone(),
            Source::File { shown, text, within } => {
                let line = |key: &str| locate(text, &join(within, key));
                match line(key).max(line(&short(key))) {
                    Some(line) => format!("{shown}:{line}"), // of the spelling that the file has: it goes deeper
                    None => shown.clone(),
                }
            }
        }
    }
}

/// One source and the tag that figment gave to its values.
#[derive(Debug)]
pub(super) struct Layer {
    pub tag: Tag,
    pub source: Source,
}

impl Layer {
    /// Tags every value, so that it can be traced to its source through any merge.
    pub(super) fn new(value: Value, source: Source) -> Result<(Self, Value)> {
        let metadata = match &source {
            Source::File { shown, .. } => Metadata::from("recipe layer", std::path::Path::new(shown)),
            Source::Typed(typed) => Metadata::named(typed.clone()),
        };
        let figment = Figment::from(OneValue(metadata, value));
        let value = figment.find_value(OneValue::KEY).map_err(|error| anyhow!("{}: {error}", source.place("")))?;
        Ok((Layer { tag: value.tag(), source }, value))
    }
}

struct OneValue(Metadata, Value);

impl OneValue {
    const KEY: &str = "value";
}

impl Provider for OneValue {
    fn metadata(&self) -> Metadata {
        self.0.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(Dict::from([(Self::KEY.to_string(), self.1.clone())])))
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    #[test]
    fn a_part_of_a_file_keeps_the_lines_of_the_file() {
        let text = "seed: 1\nprofiles:\n  demo:\n    seed: 2\n";
        let source = |within: &str| Source::File { shown: "a.yaml".into(), text: text.into(), within: within.into() };
        assert_eq!(source("").place("seed"), "a.yaml:1");
        assert_eq!(source("profiles.demo").place("seed"), "a.yaml:4");
        assert_eq!(source("").place("absent"), "a.yaml");
    }

    #[test]
    fn two_layers_have_different_tags() {
        let layer = |typed: &str| Layer::new(parse("{a: 1}").unwrap(), Source::Typed(typed.into())).unwrap();
        let (first, value) = layer("a=1");
        let (second, _) = layer("a=1");
        assert_ne!(first.tag, second.tag);
        assert_eq!(value.find_ref("a").map(Value::tag), Some(first.tag));
    }
}
