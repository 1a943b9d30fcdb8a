//! Reads the keys of sections and the plain words of enums.

use figment::value::Tag;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::complaint::Complaint;
use super::deserialize::Notes;

/// Reads a section's key. It notes its error inside `deserialize`: one frame further out the list of known
/// keys may be gone.
pub(super) struct KeyReader<'a> {
    pub name: &'a str,
    pub path: String,
    pub tag: Tag,
    pub notes: &'a Notes,
}

impl KeyReader<'_> {
    fn done<T>(&self, result: Result<T, Complaint>) -> Result<T, Complaint> {
        result.inspect_err(|error| self.notes.note(&self.path, self.tag, error))
    }
}

/// An enum's variant given as a plain word: `mode: nearest`.
pub(super) struct Word<'a>(pub KeyReader<'a>);

impl<'de, 'a: 'de> de::EnumAccess<'de> for Word<'a> {
    type Error = Complaint;
    type Variant = NeedsValues;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, NeedsValues), Complaint> {
        let needs_values = NeedsValues(self.0.name.to_string());
        Ok((seed.deserialize(self.0)?, needs_values))
    }
}

/// Refuses a plain word for a variant that holds values.
pub(super) struct NeedsValues(String);

impl NeedsValues {
    fn refuse<T>(self) -> Result<T, Complaint> {
        let name = self.0;
        Err(Complaint::Message(format!("`{name}` needs values; write them as a section: `{name}: ...`")))
    }
}

impl<'de> de::VariantAccess<'de> for NeedsValues {
    type Error = Complaint;

    fn unit_variant(self) -> Result<(), Complaint> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, Complaint> {
        self.refuse()
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Complaint> {
        self.refuse()
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Complaint> {
        self.refuse()
    }
}

/// Sections keyed by number: `{100: 1e-4}`.
macro_rules! number_keys {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
            let result = match (self.name.parse::<u64>(), self.name.parse::<i64>()) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => visitor.visit_borrowed_str(self.name),
            };
            self.done(result)
        }
    )* };
}

impl<'de, 'a: 'de> Deserializer<'de> for KeyReader<'a> {
    type Error = Complaint;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        let result = visitor.visit_borrowed_str(self.name);
        self.done(result)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Complaint> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        let result = visitor.visit_enum(self.name.into_deserializer());
        self.done(result)
    }

    number_keys!(deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);
    number_keys!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64);

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any option
    }
}
