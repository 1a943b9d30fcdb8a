//! Parses one YAML text into a value, within limits that no real recipe reaches.
//!
//! The limits hold while parsing, so that a file of nested aliases cannot fill the memory or the stack.

use std::cell::{Cell, RefCell};
use std::fmt;

use figment::value::{Dict, Empty, Tag, Value};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of sections and lists.
pub(super) const MAX_DEPTH: usize = 64;
/// Most values in one file, each use of an alias counted.
pub(super) const MAX_VALUES: usize = 20_000;
/// Most brackets open at once, or `-` in a row, in the plain text: the parser's time grows with their square.
const MAX_OPEN: usize = 256;

/// Why a text is not a usable value.
#[derive(Debug)]
pub(super) struct Fault {
    /// Line, counted from 1, where the parser knows it.
    pub line: Option<usize>,
    /// Dotted key; empty for a fault of the syntax.
    pub key: String,
    /// What was found and what is allowed.
    pub message: String,
}

/// The value of a YAML text; an empty text is an empty value.
///
/// # Errors
/// Syntax, a key given twice, a number that is not finite, a YAML tag, too deep or too many values.
pub(super) fn parse(text: &str) -> Result<Value, Fault> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Empty(Tag::Default, Empty::None));
    }
    if let Some(line) = line_nested_too_deep(text) {
        return Err(Fault { line: Some(line), key: String::new(), message: TOO_DEEP.into() });
    }
    let limits = Limits { left: Cell::new(MAX_VALUES), fault: RefCell::new(None) };
    let node = Node { key: String::new(), depth: 0, limits: &limits };
    node.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let location = error.location();
        let line = location.as_ref().map(serde_yaml::Location::line);
        if let Some((key, message)) = limits.fault.into_inner() {
            return Fault { line, key, message };
        }
        let place = location.map(|at| format!(" at line {} column {}", at.line(), at.column())).unwrap_or_default();
        let mut message = error.to_string().replacen(&place, "", 1);
        if message.contains("more than one document") {
            message = "has several documents; a recipe is one, without a line `---` inside".into();
        }
        let is_tab = |line: usize| text.lines().nth(line.saturating_sub(1)).is_some_and(|line| line.contains('\t'));
        if line.is_some_and(is_tab) {
            message += "\n  this line has a tab; YAML indents with spaces";
        }
        Fault { line, key: String::new(), message }
    })
}

/// What is wrong with a nesting beyond [`MAX_DEPTH`].
pub(super) const TOO_DEEP: &str = "nested more than 64 levels deep";

/// First line at which more than [`MAX_OPEN`] brackets or list marks are open, whatever they mean there.
fn line_nested_too_deep(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let too_deep = |line: &str| {
        let marks = line.split_whitespace().take_while(|word| matches!(*word, "-" | "?" | ":")).count();
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => continue,
            }
            if open > MAX_OPEN {
                return true;
            }
        }
        marks > MAX_OPEN
    };
    text.lines().position(too_deep).map(|index| index + 1)
}

/// `path` and `key` as one dotted key.
pub(super) fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_string(),
        (path, "") => path.to_string(),
        (path, key) => format!("{path}.{key}"),
    }
}

struct Limits {
    left: Cell<usize>,
    fault: RefCell<Option<(String, String)>>,
}

impl Limits {
    /// An error whose line the parser adds, because it is raised where the text is read.
    fn refuse<E: de::Error>(&self, key: &str, message: impl Into<String>) -> E {
        let message = message.into();
        let error = E::custom(&message);
        self.fault.borrow_mut().get_or_insert((key.to_string(), message));
        error
    }
}

struct Node<'l> {
    key: String,
    depth: usize,
    limits: &'l Limits,
}

impl Node<'_> {
    fn refuse<E: de::Error>(&self, message: impl Into<String>) -> E {
        self.limits.refuse(&self.key, message)
    }

    fn below<E: de::Error>(&self, key: &str) -> Result<Node<'_>, E> {
        if self.depth >= MAX_DEPTH {
            return Err(self.refuse(TOO_DEEP));
        }
        Ok(Node { key: join(&self.key, key), depth: self.depth + 1, limits: self.limits })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.limits.left.get().checked_sub(1) {
            Some(left) => self.limits.left.set(left),
            None => {
                return Err(
                    self.refuse(format!("more than {MAX_VALUES} values in one file, each use of an alias counted"))
                );
            }
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(Tag::Default, value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Err(self.refuse(format!("`{value}` does not fit a 64-bit integer")))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Err(self.refuse(format!("`{value}` does not fit a 64-bit integer")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        if !value.is_finite() {
            return Err(self.refuse(format!("`{value}` is not a finite number")));
        }
        Ok(Value::from(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(Tag::Default, value.to_string()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Empty(Tag::Default, Empty::Unit))
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.refuse("a YAML tag (`!name`) has no meaning in a recipe"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = vec![];
        while let Some(item) = items.next_element_seed(self.below(&list.len().to_string())?)? {
            list.push(item);
        }
        Ok(Value::Array(Tag::Default, list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let (mut dict, mut merged) = (Dict::new(), vec![]);
        while let Some(key) = entries.next_key_seed(Key { section: &self, seen: &dict })? {
            let value = entries.next_value_seed(self.below(&key)?)?;
            match (key.as_str(), value) {
                ("<<", Value::Array(_, list)) => merged.extend(list),
                ("<<", value) => merged.push(value),
                (_, value) => drop(dict.insert(key, value)),
            }
        }
        for source in merged {
            let Value::Dict(_, source) = source else {
                return Err(self.refuse("`<<` takes a section or a list of sections"));
            };
            for (key, value) in source {
                dict.entry(key).or_insert(value);
            }
        }
        Ok(Value::Dict(Tag::Default, dict))
    }
}

/// A mapping's key as text; integer keys are allowed.
struct Key<'n, 'l> {
    section: &'n Node<'l>,
    seen: &'n Dict,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_, '_> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name as the key")
    }

    fn visit_u64<E: de::Error>(self, key: u64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: de::Error>(self, key: i64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: de::Error>(self, key: f64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        if self.seen.contains_key(key) {
            let path = join(&self.section.key, key);
            return Err(self.section.limits.refuse(&path, format!("the key `{key}` is given twice; keep one")));
        }
        Ok(key.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> (Option<usize>, String, String) {
        let fault = parse(text).unwrap_err();
        (fault.line, fault.key, fault.message)
    }

    #[test]
    fn a_key_given_twice_is_found_on_its_own_line() {
        let (line, key, message) = fault("a:\n  b: 1\n  c: 2\n  b: 3\n");
        assert_eq!((line, key.as_str()), (Some(4), "a.b"));
        assert!(message.contains("given twice"), "{message}");
    }

    #[test]
    fn merge_keys_fill_in_what_the_section_leaves_out() {
        let Value::Dict(_, root) = parse("x-a: &a {w: 1, d: 2}\nm:\n  <<: *a\n  d: 3\n").unwrap() else { panic!() };
        let section = root["m"].as_dict().unwrap();
        assert_eq!((section["w"].to_u128(), section["d"].to_u128(), section.len()), (Some(1), Some(3), 2));
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_with_key_and_line() {
        for number in [".nan", ".inf", "-.inf"] {
            let (line, key, message) = fault(&format!("a: 1\nb:\n  - 1.5\n  - {number}\n"));
            assert_eq!((line, key.as_str()), (Some(4), "b.1"), "{message}");
            assert!(message.contains("not a finite number"), "{message}");
        }
    }

    #[test]
    fn integers_beyond_64_bits_are_refused() {
        let (line, key, message) = fault("seed: 18446744073709551616\n");
        assert_eq!((line, key.as_str()), (Some(1), "seed"), "{message}");
        assert!(message.contains("64-bit"), "{message}");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused_before_it_grows() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_string();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            text += &format!("a{i}: &a{i} [{}]\n", [alias.as_str(); 9].join(", "));
        }
        assert!(fault(&text).2.contains("20000 values"));
    }

    #[test]
    fn deep_nesting_and_aliases_to_themselves_are_refused() {
        for text in ["[".repeat(100) + &"]".repeat(100), "a: &a [*a]".to_string(), "a: &a {b: *a}".to_string()] {
            let message = fault(&text).2;
            assert!(message.contains("levels deep"), "{message}");
        }
        assert!(parse(&"[".repeat(200_000)).is_err());
        assert!(parse(&"- ".repeat(200_000)).is_err());
        assert!(parse(&"{a: ".repeat(100_000)).is_err());
    }

    #[test]
    fn a_tab_is_named_and_yaml_tags_are_refused() {
        let (line, _, message) = fault("a:\n\tb: 1\n");
        assert_eq!(line, Some(2));
        assert!(message.contains("has a tab"), "{message}");
        assert!(fault("a: !thing 1\n").2.contains("YAML tag"));
    }
}
