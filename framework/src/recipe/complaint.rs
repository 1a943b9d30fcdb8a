//! What a recipe error says: what was found, what is allowed, the nearest right spelling.

use std::fmt;

use figment::error::Actual;
use serde::de;

use crate::registry::{names, nearest};

/// Sections whose name is not the kind of plugin they hold.
const KIND_OF_SECTION: [(&str, &str); 5] = [
    ("encoders", "encoder"),
    ("data", "dataset"),
    ("sample", "sampler"),
    ("loss", "alignment_loss"),
    ("features", "feature_network"),
];

/// Kind of plugin that the section at a dotted key holds: its last name that is not a list index.
pub(super) fn kind_of(key: &str) -> &str {
    let is_name = |segment: &&str| segment.parse::<usize>().is_err();
    let section = key.rsplit('.').find(is_name).unwrap_or_default();
    KIND_OF_SECTION.iter().find(|(name, _)| *name == section).map_or(section, |(_, kind)| kind)
}

/// A second line with the nearest spelling and the known words; empty when there are none.
pub(super) fn suggestion<S: AsRef<str>>(found: &str, known: &[S]) -> String {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    if known.is_empty() {
        return String::new();
    }
    let nearest =
        nearest(found, known.iter().copied()).map(|word| format!("did you mean `{word}`? ")).unwrap_or_default();
    format!("\n  {nearest}known: {}", known.join(", "))
}

/// An error of deserialization that keeps what serde would turn into a sentence.
#[derive(Debug)]
pub(super) enum Complaint {
    Message(String),
    Mismatch { found: String, expected: String },
    UnknownKey { found: String, known: &'static [&'static str] },
    UnknownValue { found: String, known: &'static [&'static str] },
    Missing(&'static str),
}

impl Complaint {
    /// The message for a value at this dotted key.
    pub(super) fn explain(&self, key: &str) -> String {
        match self {
            Complaint::UnknownKey { found, known: [] } => format!("unknown key `{found}`; this section takes no keys"),
            Complaint::UnknownKey { found, known } | Complaint::UnknownValue { found, known } => {
                format!("unknown {} `{found}`{}", self.noun(key), suggestion(found, known))
            }
            Complaint::Missing("type") if !names(kind_of(key)).is_empty() => {
                let kind = kind_of(key);
                format!("missing `type`: which {}?{}", spaced(kind), suggestion("", &names(kind)))
            }
            Complaint::Missing(name) => format!("missing required key `{name}`"),
            Complaint::Message(_) | Complaint::Mismatch { .. } => self.to_string(),
        }
    }

    fn noun(&self, key: &str) -> String {
        match (self, key.strip_suffix(".type")) {
            (Complaint::UnknownKey { .. }, _) => "key".into(),
            (_, Some(section)) if !names(kind_of(section)).is_empty() => spaced(kind_of(section)),
            (_, Some(_)) => "type".into(),
            (_, None) => "value".into(),
        }
    }
}

fn spaced(kind: &str) -> String {
    kind.replace('_', " ")
}

impl fmt::Display for Complaint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Complaint::Message(message) => formatter.write_str(message),
            Complaint::Mismatch { found, expected } => write!(formatter, "expected {expected}, found {found}"),
            Complaint::UnknownKey { found, .. } => write!(formatter, "unknown key `{found}`"),
            Complaint::UnknownValue { found, .. } => write!(formatter, "unknown value `{found}`"),
            Complaint::Missing(name) => write!(formatter, "missing required key `{name}`"),
        }
    }
}

impl std::error::Error for Complaint {}

impl de::Error for Complaint {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Complaint::Message(message.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Complaint::Mismatch { found: plain_found(found), expected: plain_expected(&expected.to_string()) }
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(count: usize, expected: &dyn de::Expected) -> Self {
        Complaint::Mismatch { found: count.to_string(), expected: plain_expected(&expected.to_string()) }
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Complaint::UnknownValue { found: found.into(), known }
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Complaint::UnknownKey { found: found.into(), known }
    }

    fn missing_field(name: &'static str) -> Self {
        Complaint::Missing(name)
    }
}

/// A reader of recipes thinks in sections and numbers, not in Rust's types.
fn plain_found(found: de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Str(text) => format!("the text `{text}`"),
        de::Unexpected::Bool(value) => format!("`{value}`"),
        de::Unexpected::Signed(value) => format!("`{value}`"),
        de::Unexpected::Unsigned(value) => format!("`{value}`"),
        de::Unexpected::Float(value) => format!("`{value:?}`"),
        de::Unexpected::Map => "a section".into(),
        de::Unexpected::Seq => "a list".into(),
        de::Unexpected::Unit | de::Unexpected::Option => "nothing (`null`)".into(),
        other => other.to_string(),
    }
}

/// [`plain_found`] of figment's words.
pub(super) fn plain_actual(found: Actual) -> String {
    match found {
        Actual::Bool(value) => format!("`{value}`"),
        Actual::Unsigned(value) => format!("`{value}`"),
        Actual::Signed(value) => format!("`{value}`"),
        Actual::Float(value) => format!("`{value:?}`"),
        Actual::Map => "a section".into(),
        Actual::Seq => "a list".into(),
        Actual::Unit | Actual::Option => "nothing (`null`)".into(),
        other => other.to_string(),
    }
}

fn plain_expected(expected: &str) -> String {
    if let Some(length) = expected.strip_prefix("an array of length ") {
        return format!("a list of {length} items");
    }
    let plain = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a string" => "text",
        "path string" => "a path",
        "a sequence" => "a list",
        "a map" => "a section",
        _ if expected.starts_with("struct ") => "a section",
        _ if expected.starts_with("dyn ") || expected.starts_with("internally tagged enum ") => {
            "a section with a `type`"
        }
        other => other,
    };
    plain.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_the_last_name_that_is_no_index() {
        for (key, kind) in [
            ("alignment.0.projector", "projector"),
            ("normalizers.2", "normalizers"),
            ("train.data", "dataset"),
            ("sampler", "sampler"),
            ("alignment.1.loss", "alignment_loss"),
            ("", ""),
        ] {
            assert_eq!(kind_of(key), kind);
        }
    }

    #[test]
    fn suggestions_list_everything_and_name_the_nearest() {
        assert_eq!(suggestion("cnov", &["conv", "mlp"]), "\n  did you mean `conv`? known: conv, mlp");
        assert_eq!(suggestion("zzzzzz", &["conv", "mlp"]), "\n  known: conv, mlp");
        assert_eq!(suggestion::<&str>("x", &[]), "");
    }
}
