//! Turns a merged value into a recipe struct and keeps the place of the first error.
//!
//! figment's own deserializer does not serve below typetag: its dictionaries are sorted, so keys before `type`
//! are buffered and lose their origin, and erased-serde flattens errors at every `dyn` boundary. This one
//! yields `type` first and notes each error beside the call, where key, tag and known words are still there.

use std::cell::RefCell;

use figment::value::{Num, Tag, Value};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::complaint::{Complaint, plain_actual};
use super::keys::{KeyReader, Word};
use super::yaml::join;

/// The innermost error, with the dotted key and the origin tag of the value that caused it.
#[derive(Debug)]
pub(super) struct Misfit {
    pub key: String,
    pub tag: Tag,
    pub message: String,
}

/// Reads a `T` out of a value.
///
/// # Errors
/// The first key that does not fit `T`.
pub(super) fn deserialize<T: DeserializeOwned>(root: &Value) -> Result<T, Misfit> {
    let notes = Notes::default();
    T::deserialize(Reader { value: root, key: String::new(), notes: &notes }).map_err(|error| {
        let first = notes.0.into_inner();
        first.unwrap_or_else(|| Misfit { key: String::new(), tag: root.tag(), message: error.explain("") })
    })
}

/// The side channel: the first error that was seen, which is the innermost.
#[derive(Default)]
pub(super) struct Notes(RefCell<Option<Misfit>>);

impl Notes {
    pub(super) fn note(&self, key: &str, tag: Tag, error: &Complaint) {
        let misfit = || Misfit { key: key.into(), tag, message: error.explain(key) };
        self.0.borrow_mut().get_or_insert_with(misfit);
    }

    /// Drops a note from below a value that was read after all (an alternative that did fit).
    fn forget(&self, key: &str) {
        let below = |noted: &str| match noted.strip_prefix(key) {
            Some(rest) => key.is_empty() || rest.is_empty() || rest.starts_with('.'),
            None => false,
        };
        self.0.borrow_mut().take_if(|misfit| below(&misfit.key));
    }
}

struct Reader<'a> {
    value: &'a Value,
    key: String,
    notes: &'a Notes,
}

impl<'a> Reader<'a> {
    fn done<T>(&self, result: Result<T, Complaint>) -> Result<T, Complaint> {
        match &result {
            Ok(_) => self.notes.forget(&self.key),
            Err(error) => self.notes.note(&self.key, self.value.tag(), error),
        }
        result
    }

    /// Keys and values of a section, `type` first.
    fn entries(&self) -> Entries<'a, '_> {
        let section = self.value.as_dict();
        let named_type = section.and_then(|section| section.get_key_value("type"));
        let others = section.into_iter().flatten().filter(|(key, _)| *key != "type");
        let entries: Vec<_> = named_type.into_iter().chain(others).collect();
        Entries { entries: entries.into_iter(), current: None, path: &self.key, notes: self.notes }
    }
}

fn visit_number<'de, V: Visitor<'de>>(number: &Num, visitor: V) -> Result<V::Value, Complaint> {
    // Neither typetag's nor serde's buffers take 128-bit integers.
    match (number, number.to_u128(), number.to_i128()) {
        (Num::F32(value), ..) => visitor.visit_f64(f64::from(*value)),
        (Num::F64(value), ..) => visitor.visit_f64(*value),
        (_, Some(value), _) if let Ok(value) = u64::try_from(value) => visitor.visit_u64(value),
        (_, _, Some(value)) if let Ok(value) = i64::try_from(value) => visitor.visit_i64(value),
        _ => Err(Complaint::Message("the number does not fit a 64-bit integer".into())),
    }
}

impl<'de, 'a: 'de> Deserializer<'de> for Reader<'a> {
    type Error = Complaint;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        let result = match self.value {
            Value::String(_, text) => visitor.visit_borrowed_str(text),
            Value::Char(_, letter) => visitor.visit_char(*letter),
            Value::Bool(_, value) => visitor.visit_bool(*value),
            Value::Num(_, number) => visit_number(number, visitor),
            Value::Empty(..) => visitor.visit_unit(),
            Value::Array(_, list) => {
                let mut items = Items { items: list.iter().enumerate(), path: &self.key, notes: self.notes };
                visitor.visit_seq(&mut items).and_then(|value| match items.items.len() {
                    0 => Ok(value),
                    left => {
                        Err(Complaint::Message(format!("expected {} items, found {}", list.len() - left, list.len())))
                    }
                })
            }
            Value::Dict(..) => visitor.visit_map(self.entries()),
        };
        self.done(result)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        match self.value {
            Value::Num(_, Num::F64(value)) if value.abs() > f64::from(f32::MAX) => {
                self.done(Err(Complaint::Message(format!("`{value:e}` does not fit a 32-bit number"))))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Complaint> {
        match self.value {
            Value::Empty(..) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Complaint> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        let result = match self.value {
            Value::String(_, name) => visitor.visit_enum(Word(KeyReader {
                name,
                path: self.key.clone(),
                tag: self.value.tag(),
                notes: self.notes,
            })),
            Value::Dict(_, section) if section.len() == 1 => {
                visitor.visit_enum(MapAccessDeserializer::new(self.entries()))
            }
            other => {
                let expected = format!("one of {}", known.join(", "));
                Err(Complaint::Mismatch { found: plain_actual(other.to_actual()), expected })
            }
        };
        self.done(result)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Complaint> {
        match self.value {
            // serde would take a list's items for the keys in their order.
            Value::Array(..) => {
                self.done(Err(Complaint::Mismatch { found: "a list".into(), expected: "a section with keys".into() }))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// Reads a value; also notes an error that serde raises after it has buffered the whole value.
fn read_below<'de, 'a: 'de, S: DeserializeSeed<'de>>(
    seed: S,
    value: &'a Value,
    key: String,
    notes: &'a Notes,
) -> Result<S::Value, Complaint> {
    let result = seed.deserialize(Reader { value, key: key.clone(), notes });
    result.inspect_err(|error| notes.note(&key, value.tag(), error))
}

struct Items<'a, 'p> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
    path: &'p str,
    notes: &'a Notes,
}

impl<'de, 'a: 'de> de::SeqAccess<'de> for &mut Items<'a, '_> {
    type Error = Complaint;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Complaint> {
        let Some((index, value)) = self.items.next() else { return Ok(None) };
        let key = join(self.path, &index.to_string());
        read_below(seed, value, key, self.notes).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'a, 'p> {
    entries: std::vec::IntoIter<(&'a String, &'a Value)>,
    current: Option<(&'a String, &'a Value)>,
    path: &'p str,
    notes: &'a Notes,
}

impl<'de, 'a: 'de> de::MapAccess<'de> for Entries<'a, '_> {
    type Error = Complaint;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Complaint> {
        self.current = self.entries.next();
        let Some((name, value)) = self.current else { return Ok(None) };
        seed.deserialize(KeyReader { name, path: join(self.path, name), tag: value.tag(), notes: self.notes }).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Complaint> {
        let Some((name, value)) = self.current.take() else {
            return Err(Complaint::Message("a value was asked for before its key".into()));
        };
        read_below(seed, value, join(self.path, name), self.notes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::super::yaml::parse;
    use super::*;
    use crate::registry::Described;

    #[typetag::serde(tag = "type")]
    trait GizmoConfig: Described + std::fmt::Debug {}

    /// A test plugin.
    #[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    struct Conv {
        kernel_size: usize,
        scale: f32,
        inner: Option<Inner>,
    }

    #[typetag::serde(name = "conv")]
    impl GizmoConfig for Conv {}
    crate::register!(GizmoConfig as "gizmo": Conv);

    /// A test plugin that needs a key.
    #[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Mlp {
        width: usize,
    }

    #[typetag::serde(name = "mlp")]
    impl GizmoConfig for Mlp {}
    crate::register!(GizmoConfig as "gizmo": Mlp);

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        mode: Mode,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Nearest,
        Bilinear,
        Crop {
            size: u8,
        },
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Recipe {
        #[serde(default)]
        terms: Vec<Term>,
        #[serde(default)]
        rates: BTreeMap<usize, f64>,
        #[serde(default)]
        betas: Option<[f64; 2]>,
        #[serde(default)]
        seed: u64,
        #[serde(default)]
        mode: Option<Mode>,
        #[serde(default)]
        is_on: bool,
        #[serde(default)]
        solver: Option<Solver>,
        #[serde(default)]
        odd: Option<Odd>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
    #[allow(dead_code)]
    enum Solver {
        Euler { steps: u64 },
    }

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "u64")]
    struct Odd;

    impl TryFrom<u64> for Odd {
        type Error = String;

        fn try_from(value: u64) -> Result<Self, String> {
            if value % 2 == 1 { Ok(Odd) } else { Err(format!("`{value}` is even")) }
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Term {
        gizmo: Box<dyn GizmoConfig>,
    }

    fn read(text: &str) -> Recipe {
        deserialize(&parse(text).unwrap()).unwrap_or_else(|misfit| panic!("{misfit:?}"))
    }

    fn misfit(text: &str) -> (String, String) {
        let misfit = deserialize::<Recipe>(&parse(text).unwrap()).unwrap_err();
        (misfit.key, misfit.message)
    }

    #[test]
    fn plugins_are_read_wherever_their_type_stands() {
        let recipe = read("terms: [{gizmo: {kernel_size: 3, type: conv, inner: {mode: {crop: {size: 7}}}}}]");
        let text = format!("{:?}", recipe.terms);
        assert!(text.contains("kernel_size: 3") && text.contains("Crop { size: 7 }"), "{text}");
    }

    #[test]
    fn an_unknown_plugin_lists_its_kind() {
        let (key, message) = misfit("terms: [{gizmo: {kernel_size: 3, type: cnov}}]");
        assert_eq!(key, "terms.0.gizmo.type");
        assert_eq!(message, "unknown gizmo `cnov`\n  did you mean `conv`? known: conv, mlp");
    }

    #[test]
    fn a_missing_type_says_which_plugins_there_are() {
        let (key, message) = misfit("terms: [{gizmo: {kernel_size: 3}}]");
        assert_eq!(
            (key.as_str(), message.as_str()),
            ("terms.0.gizmo", "missing `type`: which gizmo?\n  known: conv, mlp")
        );
        let (key, message) = misfit("terms: [{gizmo: conv}]");
        assert_eq!(key, "terms.0.gizmo");
        assert!(message.contains("found the text `conv`"), "{message}");
    }

    #[test]
    fn an_unknown_key_inside_a_plugin_keeps_its_path_and_the_known_keys() {
        let (key, message) = misfit("terms: [{gizmo: {type: conv, kernal_size: 3}}]");
        assert_eq!(key, "terms.0.gizmo.kernal_size");
        assert!(message.contains("did you mean `kernel_size`? known: kernel_size, scale, inner"), "{message}");
    }

    #[test]
    fn wrong_values_inside_a_plugin_keep_their_path() {
        for (value, key, words) in [
            ("kernel_size: two", "kernel_size", "expected a whole number of 0 or more, found the text `two`"),
            ("kernel_size: -1", "kernel_size", "expected a whole number of 0 or more, found `-1`"),
            ("kernel_size: 1e3", "kernel_size", "found `1000.0`"),
            ("scale: 1e300", "scale", "does not fit a 32-bit number"),
            ("inner: {mode: bilinaer}", "inner.mode", "did you mean `bilinear`? known: nearest, bilinear, crop"),
            ("inner: {mode: {crop: {size: 300}}}", "inner.mode.crop.size", "from 0 to 255, found `300`"),
            ("inner: {mode: crop}", "inner.mode", "`crop` needs values"),
            (
                "inner: {mode: {crp: {size: 3}}}",
                "inner.mode.crp",
                "did you mean `crop`? known: nearest, bilinear, crop",
            ),
            ("inner: {mode: 3}", "inner.mode", "expected one of nearest, bilinear, crop, found `3`"),
            ("inner: {}", "inner", "missing required key `mode`"),
            ("inner: 3", "inner", "expected a section, found `3`"),
            ("inner: [nearest]", "inner", "expected a section with keys, found a list"),
        ] {
            let (found, message) = misfit(&format!("terms: [{{gizmo: {{type: conv, {value}}}}}]"));
            assert_eq!(found, format!("terms.0.gizmo.{key}"), "{message}");
            assert!(message.contains(words), "{value}: {message}");
        }
    }

    #[test]
    fn a_missing_key_of_a_plugin_is_placed_at_its_section() {
        let (key, message) = misfit("terms: [{gizmo: {type: mlp}}]");
        assert_eq!((key.as_str(), message.as_str()), ("terms.0.gizmo", "missing required key `width`"));
    }

    #[test]
    fn sections_keyed_by_number_are_read() {
        let recipe = read("{rates: {0: 1e-4, 100: 3}, betas: [0.5, 1], seed: 5, mode: nearest, is_on: true}");
        assert_eq!(recipe.rates, BTreeMap::from([(0, 1e-4), (100, 3.0)]));
        assert_eq!(
            (recipe.betas, recipe.seed, recipe.mode, recipe.is_on),
            (Some([0.5, 1.0]), 5, Some(Mode::Nearest), true)
        );
        assert_eq!(misfit("rates: {a: 1}").0, "rates.a");
    }

    #[test]
    fn lists_of_the_wrong_length_and_words_for_booleans_are_explained() {
        assert_eq!(misfit("betas: [1, 2, 3]"), ("betas".into(), "expected 2 items, found 3".into()));
        assert_eq!(misfit("betas: [1]"), ("betas".into(), "expected a list of 2 items, found 1".into()));
        assert!(misfit("is_on: yes").1.contains("expected `true` or `false`, found the text `yes`"));
        assert!(misfit("terms: {gizmo: 1}").1.contains("found a section"));
    }

    #[test]
    fn a_list_is_not_taken_for_a_section() {
        for (text, expected_key, expected) in [
            ("terms: [[{type: conv}]]", "terms.0", "expected a section with keys, found a list"),
            ("terms: [{gizmo: [conv]}]", "terms.0.gizmo", "expected a section with a `type`, found a list"),
            ("[3]", "", "expected a section with keys, found a list"),
        ] {
            assert_eq!(misfit(text), (expected_key.into(), expected.into()), "{text}");
        }
    }

    #[test]
    fn errors_after_serde_buffered_a_section_still_have_its_key() {
        for (text, expected_key, words) in [
            ("solver: {type: euler, steps: two}", "solver", "found the text `two`"),
            ("solver: {type: euler}", "solver", "missing required key `steps`"),
            ("solver: {type: eluer}", "solver.type", "unknown type `eluer`"),
            ("solver: {steps: 3}", "solver", "missing required key `type`"),
            ("solver: euler", "solver", "expected a section with a `type`"),
            ("odd: 4", "odd", "`4` is even"),
        ] {
            let (key, message) = misfit(text);
            assert_eq!(key, expected_key, "{message}");
            assert!(message.contains(words), "{message}");
        }
        let recipe = read("{odd: 3, solver: {type: euler, steps: 3}}");
        assert!(recipe.odd.is_some() && recipe.solver.is_some());
    }
}
