//! Samples per forward pass, as a number or as much as fits.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const AUTO: &str = "auto";

/// Samples per forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MicroBatchSize {
    /// So many.
    Samples(usize),
    /// As many as fit into `train.memory_limit`; a run measures it once.
    Auto,
}

impl From<usize> for MicroBatchSize {
    fn from(samples: usize) -> Self {
        Self::Samples(samples)
    }
}

impl Display for MicroBatchSize {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Samples(samples) => samples.fmt(f),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

impl Serialize for MicroBatchSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Samples(samples) => serializer.serialize_u64(*samples as u64),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrAuto;
        impl Visitor<'_> for NumberOrAuto {
            type Value = MicroBatchSize;
            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or `auto`")
            }
            fn visit_u64<E: de::Error>(self, samples: u64) -> Result<MicroBatchSize, E> {
                usize::try_from(samples).map(MicroBatchSize::Samples).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<MicroBatchSize, E> {
                if word == AUTO {
                    Ok(MicroBatchSize::Auto)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(word), &self))
                }
            }
        }
        deserializer.deserialize_any(NumberOrAuto)
    }
}

impl JsonSchema for MicroBatchSize {
    fn schema_name() -> Cow<'static, str> {
        "MicroBatchSize".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": AUTO }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_auto_survives_a_round_trip_and_other_words_are_refused() {
        for (text, size) in [("7", MicroBatchSize::Samples(7)), ("auto", MicroBatchSize::Auto)] {
            assert_eq!(serde_yaml::from_str::<MicroBatchSize>(text).unwrap(), size);
            assert_eq!(serde_yaml::to_string(&size).unwrap().trim(), text);
        }
        for text in ["-3", "many", "2.5", "[1]"] {
            let message = serde_yaml::from_str::<MicroBatchSize>(text).unwrap_err().to_string();
            assert!(message.contains("a whole number or `auto`"), "{message}");
        }
    }
}
