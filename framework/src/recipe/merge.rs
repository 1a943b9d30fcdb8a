//! How a later layer changes an earlier one.

use figment::value::{Dict, Empty, Tag, Value};

use super::yaml::{MAX_DEPTH, TOO_DEEP, join};

/// Which part of the description of a run a layer belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    /// The method: a list patch needs its list.
    Recipe,
    /// The scale: a list patch without a list is dropped, since the method does not have that part.
    Profile,
}

/// A layer that cannot be applied.
#[derive(Debug)]
pub(super) struct Clash {
    /// Dotted key.
    pub key: String,
    /// Tag of the value that could not be put there.
    pub tag: Tag,
    /// What was found and what is allowed.
    pub message: String,
}

/// Lays `over` on `base`.
///
/// # Errors
/// A list patch with an index beyond the end of its list.
pub(super) fn merge(base: &mut Value, over: Value, key: &str, part: Part) -> Result<(), Clash> {
    match (base, over) {
        (Value::Array(_, items), Value::Dict(_, patch)) if is_list_patch(&patch) => {
            if items.is_empty() && part == Part::Profile {
                return Ok(());
            }
            patch.into_iter().try_for_each(|(index, value)| {
                merge(item(items, &index, key, value.tag())?, value, &join(key, &index), part)
            })
        }
        (Value::Dict(tag, base), Value::Dict(over_tag, over)) => {
            if changes_type(base, over.get("type")) {
                base.clear();
            }
            if base.is_empty() {
                *tag = over_tag;
            }
            over.into_iter().try_for_each(|(name, value)| merge_entry(base, name, value, key, part))
        }
        (base, over) => {
            if let Some(value) = without_list_patches(over, part) {
                *base = value;
            }
            Ok(())
        }
    }
}

fn merge_entry(base: &mut Dict, name: String, value: Value, key: &str, part: Part) -> Result<(), Clash> {
    if let Some(slot) = base.get_mut(&name) {
        return merge(slot, value, &join(key, &name), part);
    }
    if let Some(value) = without_list_patches(value, part) {
        base.insert(name, value);
    }
    Ok(())
}

/// Puts the value of one `--set` at its key and makes the sections on the way.
///
/// # Errors
/// A key that leads through a plain value, or to a list item that does not exist.
pub(super) fn set(root: &mut Value, key: &str, value: Value) -> Result<(), Clash> {
    let segments: Vec<&str> = key.split('.').collect();
    let clash = |message: String| Clash { key: key.to_string(), tag: value.tag(), message };
    if segments.iter().any(|segment| segment.trim().is_empty()) {
        return Err(clash("a part of the key is empty; expected `section.key=value`".into()));
    }
    if segments.len() > MAX_DEPTH {
        return Err(clash(TOO_DEEP.into()));
    }
    set_below(root, "", &segments, value)
}

fn set_below(at: &mut Value, path: &str, segments: &[&str], value: Value) -> Result<(), Clash> {
    let [head, rest @ ..] = segments else { return merge(at, value, path, Part::Recipe) };
    let (key, tag) = (join(path, head), value.tag());
    if let Value::Array(_, items) = at {
        return set_below(item(items, head, path, tag)?, &key, rest, value);
    }
    if let Value::Empty(..) = at {
        if is_index(head) {
            let message =
                format!("`{}` has no list to take item {head} of", if path.is_empty() { "the recipe" } else { path });
            return Err(Clash { key, tag, message });
        }
        *at = Value::Dict(tag, Dict::new());
    }
    let Value::Dict(_, section) = at else {
        return Err(Clash { message: format!("`{path}` is a plain value, not a section with keys"), key, tag });
    };
    if rest.is_empty() && *head == "type" && changes_type(section, Some(&value)) {
        section.clear();
    }
    let slot = section.entry(head.to_string()).or_insert(Value::Empty(tag, Empty::None));
    set_below(slot, &key, rest, value)
}

fn item<'v>(items: &'v mut [Value], index: &str, path: &str, tag: Tag) -> Result<&'v mut Value, Clash> {
    let count = items.len();
    let found = index.parse::<usize>().ok().and_then(|index| items.get_mut(index));
    found.ok_or_else(|| {
        let allowed = match count {
            0 => "the list is empty".to_string(),
            1 => "the list has 1 item, number 0".to_string(),
            _ => format!("the list has {count} items, 0 to {}", count - 1),
        };
        Clash { key: join(path, index), tag, message: format!("`{path}` has no item `{index}`; {allowed}") }
    })
}

fn changes_type(section: &Dict, new: Option<&Value>) -> bool {
    match (section.get("type").and_then(Value::as_str), new.and_then(Value::as_str)) {
        (Some(old), Some(new)) => old != new,
        _ => false,
    }
}

fn is_index(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_list_patch(section: &Dict) -> bool {
    !section.is_empty() && section.keys().all(|key| is_index(key))
}

/// A new value; from a profile, without the patches of lists that the recipe does not have.
fn without_list_patches(value: Value, part: Part) -> Option<Value> {
    match value {
        Value::Dict(_, section) if part == Part::Profile && is_list_patch(&section) => None,
        Value::Dict(tag, section) if part == Part::Profile => {
            let kept = section.into_iter().filter_map(|(key, value)| Some((key, without_list_patches(value, part)?)));
            Some(Value::Dict(tag, kept.collect()))
        }
        value => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::*;

    fn merged(base: &str, over: &str, part: Part) -> Result<Value, Clash> {
        let mut base = parse(base).unwrap();
        merge(&mut base, parse(over).unwrap(), "", part)?;
        Ok(base)
    }

    #[test]
    fn sections_merge_and_lists_are_replaced() {
        let value = merged("{a: {b: 1, c: 2}, l: [1, 2]}", "{a: {c: 3}, l: [4]}", Part::Recipe).unwrap();
        assert_eq!(value, parse("{a: {b: 1, c: 3}, l: [4]}").unwrap());
    }

    #[test]
    fn a_section_whose_type_changes_is_replaced() {
        let value = merged("{p: {type: conv, kernel: 3}}", "{p: {type: mlp, width: 5}}", Part::Recipe).unwrap();
        assert_eq!(value, parse("{p: {type: mlp, width: 5}}").unwrap());
        let value = merged("{p: {type: conv, kernel: 3}}", "{p: {type: conv, width: 5}}", Part::Recipe).unwrap();
        assert_eq!(value, parse("{p: {type: conv, kernel: 3, width: 5}}").unwrap());
    }

    #[test]
    fn integer_keys_patch_single_items_of_a_list() {
        let value = merged("{l: [{a: 1}, {a: 2, b: 3}]}", "{l: {1: {a: 5}}}", Part::Profile).unwrap();
        assert_eq!(value, parse("{l: [{a: 1}, {a: 5, b: 3}]}").unwrap());
    }

    #[test]
    fn a_patch_beyond_the_end_of_a_list_names_the_item() {
        let clash = merged("{l: [{a: 1}]}", "{l: {1: {a: 5}}}", Part::Profile).unwrap_err();
        assert_eq!(clash.key, "l.1");
        assert!(clash.message.contains("has 1 item"), "{}", clash.message);
    }

    #[test]
    fn a_profile_patch_without_a_list_is_dropped() {
        for base in ["{b: 1}", "{b: 1, l: []}", "{b: 1, l: ~}"] {
            let value = merged(base, "{l: {0: {a: 5}}, s: {l: {0: {a: 1}}}}", Part::Profile).unwrap();
            assert!(value.find_ref("l").is_none_or(|list| list.as_dict().is_none()), "{base}");
            assert_eq!(value.find("s"), parse("{}").ok(), "{base}");
        }
    }

    #[test]
    fn set_makes_sections_but_not_list_items() {
        let mut root = parse("{l: [{a: 1}], s: 3}").unwrap();
        set(&mut root, "new.section.key", parse("5").unwrap()).unwrap();
        set(&mut root, "l.0.a", parse("7").unwrap()).unwrap();
        assert_eq!(root, parse("{l: [{a: 7}], s: 3, new: {section: {key: 5}}}").unwrap());
        for key in ["l.1.a", "m.0.a", "s.x", "", "a..b", "l.x"] {
            assert!(set(&mut root, key, parse("1").unwrap()).is_err(), "{key}");
        }
        assert!(set(&mut root, &["a"; 100].join("."), parse("1").unwrap()).is_err());
    }

    #[test]
    fn setting_another_type_drops_the_keys_of_the_old_one() {
        let mut root = parse("{p: {type: conv, kernel: 3}}").unwrap();
        set(&mut root, "p.type", parse("mlp").unwrap()).unwrap();
        assert_eq!(root, parse("{p: {type: mlp}}").unwrap());
    }
}
