//! Finds the line of a dotted key in a YAML text.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Line, counted from 1, of a dotted key or of the deepest section around it.
///
/// Reads the text again with a visitor that fails on purpose at the key: the parser then reports where it
/// stands, which is exact for flow style, quotes, anchors and merge keys alike.
pub(super) fn locate(text: &str, key: &str) -> Option<usize> {
    let segments: Vec<&str> = key.split('.').filter(|segment| !segment.is_empty()).collect();
    (1..=segments.len()).rev().find_map(|depth| {
        // A key written in the section itself hides one that `<<` brings.
        [false, true].into_iter().find_map(|follows_merges| {
            let found = Cell::new(false);
            let walk = Walk { want: segments.get(..depth)?, follows_merges, in_merge: false, found: &found };
            let error = walk.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
            if !found.get() {
                return None;
            }
            error.location().map(|location| location.line())
        })
    })
}

#[derive(Clone, Copy)]
struct Walk<'w> {
    want: &'w [&'w str],
    follows_merges: bool,
    in_merge: bool,
    found: &'w Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The scalars below or beside the key: nothing to find in them.
macro_rules! nothing_in {
    ($($visit:ident: $value:ty),*) => { $(fn $visit<E: de::Error>(self, _: $value) -> Result<Self::Value, E> { Ok(()) })* };
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    nothing_in!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if self.in_merge {
            while items.next_element_seed(Walk { in_merge: false, ..self })?.is_some() {}
            return Ok(());
        }
        let [head, rest @ ..] = self.want else { return Ok(()) };
        let Ok(index) = head.parse::<usize>() else { return Ok(()) };
        for _ in 0..index {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        match rest {
            [] => drop(items.next_element_seed(Here(self.found))?),
            rest => drop(items.next_element_seed(Walk { want: rest, ..self })?),
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let [head, rest @ ..] = self.want else { return Ok(()) };
        let found = rest.is_empty().then_some(self.found);
        while let Some(key) = entries.next_key_seed(KeyIs { want: head, found })? {
            match key {
                Match::Wanted => entries.next_value_seed(Walk { want: rest, in_merge: false, ..self })?,
                Match::Merge if self.follows_merges => entries.next_value_seed(Walk { in_merge: true, ..self })?,
                Match::Merge | Match::Other => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Fails at the list item that was looked for.
struct Here<'w>(&'w Cell<bool>);

impl<'de> DeserializeSeed<'de> for Here<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! stop_at {
    ($($visit:ident: $value:ty),*) => { $(fn $visit<E: de::Error>(self, _: $value) -> Result<Self::Value, E> { Err(stop(self.0)) })* };
}

fn stop<E: de::Error>(found: &Cell<bool>) -> E {
    found.set(true);
    E::custom("found")
}

impl<'de> Visitor<'de> for Here<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    stop_at!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Err(stop(self.0))
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Err(stop(self.0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(stop(self.0))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(stop(self.0))
    }
}

enum Match {
    Wanted,
    Merge,
    Other,
}

/// Compares a key; fails at it when it is the last one of the path.
struct KeyIs<'w> {
    want: &'w str,
    found: Option<&'w Cell<bool>>,
}

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = Match;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Match, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeyIs<'_> {
    type Value = Match;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name as the key")
    }

    fn visit_u64<E: de::Error>(self, key: u64) -> Result<Match, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: de::Error>(self, key: i64) -> Result<Match, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: de::Error>(self, key: f64) -> Result<Match, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Match, E> {
        match self.found {
            Some(found) if key == self.want => Err(stop(found)),
            _ if key == self.want => Ok(Match::Wanted),
            _ if key == "<<" => Ok(Match::Merge),
            _ => Ok(Match::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_exact_in_block_and_flow_style() {
        let text = "# title\nseed: 1\nalignment:\n  - weight: 1\n    'encoder': {type: a,\n      width: 3}\n  -\n    weight: 2\n\nlast: [1,\n  2]\n";
        for (key, line) in [
            ("seed", 2),
            ("alignment", 3),
            ("alignment.0.weight", 4),
            ("alignment.0.encoder.type", 5),
            ("alignment.0.encoder.width", 6),
            ("alignment.1.weight", 8),
            ("last.0", 10),
            ("last.1", 11),
        ] {
            assert_eq!(locate(text, key), Some(line), "{key}");
        }
    }

    #[test]
    fn an_absent_key_is_placed_at_the_section_around_it() {
        let text = "a: 1\nb:\n  c:\n    d: 1\n";
        assert_eq!(locate(text, "b.c.x.y"), Some(3));
        assert_eq!(locate(text, "x"), None);
        assert_eq!(locate("", "x"), None);
    }

    #[test]
    fn a_key_from_an_anchor_is_placed_where_the_anchor_has_it() {
        let text = "x-a: &a\n  w: 1\n  d: 2\nm:\n  <<: *a\n  d: 3\nn:\n  <<: [*a]\n";
        assert_eq!((locate(text, "m.w"), locate(text, "m.d"), locate(text, "n.d")), (Some(2), Some(6), Some(3)));
    }

    #[test]
    fn text_that_looks_like_keys_is_not_taken_for_keys() {
        let text = "note: |\n  seed: 3\n\"quoted: key\": 1\nseed: 5\n";
        assert_eq!(locate(text, "seed"), Some(4));
    }
}
