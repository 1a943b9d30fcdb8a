//! The keys of a plugin, read from the JSON schema of its config.

use serde_json::Value;

/// One key of a config.
#[derive(Debug, PartialEq)]
pub(super) struct Key {
    /// Name in a recipe.
    pub name: String,
    /// Type and range in words.
    pub allowed: String,
    /// Default in YAML; nothing for a required key.
    pub default: Option<String>,
    /// What it means.
    pub description: String,
}

/// The keys of a schema, in the order of the config's fields. Defaults come from `defaults` where it has them.
pub(super) fn keys(schema: &Value, defaults: Option<&serde_yaml::Value>) -> Vec<Key> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return vec![] };
    let key = |(name, property): (&String, &Value)| Key {
        name: name.clone(),
        allowed: allowed(property, schema),
        default: default(name, property, defaults).or_else(|| (!is_required(name, schema)).then(|| "null".into())),
        description: property.get("description").and_then(Value::as_str).unwrap_or_default().to_string(),
    };
    properties.iter().map(key).collect()
}

fn is_required(name: &str, schema: &Value) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|names| names.iter().any(|required| required == name))
}

fn default(name: &str, property: &Value, defaults: Option<&serde_yaml::Value>) -> Option<String> {
    let from_config = defaults.and_then(|defaults| defaults.get(name)).cloned();
    let value = from_config.or_else(|| serde_yaml::to_value(property.get("default")?).ok())?;
    // JSON's flow style is YAML on one line, except for plain text, which needs no quotes here.
    match &value {
        serde_yaml::Value::String(text) if text.is_empty() => Some("\"\"".into()),
        serde_yaml::Value::String(text) => Some(text.clone()),
        other => serde_json::to_string(other).ok(),
    }
}

/// Type and range in words: `whole number, 1 to 7`.
fn allowed(property: &Value, root: &Value) -> String {
    let property = resolve(property, root);
    let words = choices(property);
    if !words.is_empty() {
        return words.join(" | ");
    }
    if let Some(options) = ["anyOf", "oneOf"].iter().find_map(|key| property.get(key)).and_then(Value::as_array) {
        return options.iter().map(|option| allowed(option, root)).collect::<Vec<_>>().join(" or ");
    }
    let names = type_names(property);
    let mut words: Vec<String> = names.iter().map(|name| in_words(name, property, root)).collect();
    let range = range(property);
    if let Some(range) = range {
        words.insert(1.min(words.len()), range);
        let null = words.len() > 2 && words.last().is_some_and(|word| word == "null");
        let tail = if null { words.pop().map(|word| format!(", or {word}")) } else { None };
        return words.join(", ") + &tail.unwrap_or_default();
    }
    if words.is_empty() { "any value".into() } else { words.join(" or ") }
}

fn resolve<'s>(property: &'s Value, root: &'s Value) -> &'s Value {
    let target = property.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    target.and_then(|pointer| root.pointer(pointer)).unwrap_or(property)
}

/// The words of an enumeration; empty for anything else.
fn choices(property: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().map(str::to_string);
    if let Some(list) = property.get("enum").and_then(Value::as_array) {
        return list.iter().filter_map(word).collect();
    }
    let Some(options) = property.get("oneOf").and_then(Value::as_array) else { return vec![] };
    let each = options.iter().map(|option| match option.get("const") {
        Some(value) => word(value).map(|word| vec![word]),
        None => Some(choices(option)).filter(|words| !words.is_empty()),
    });
    each.collect::<Option<Vec<_>>>().unwrap_or_default().concat()
}

fn type_names(property: &Value) -> Vec<&str> {
    match property.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

fn in_words(name: &str, property: &Value, root: &Value) -> String {
    match name {
        "integer" => "whole number".into(),
        "boolean" => "true | false".into(),
        "string" => "text".into(),
        "object" => "section".into(),
        "array" => match property.get("items") {
            Some(items) => format!("list of: {}", allowed(items, root)),
            None => "list".into(),
        },
        other => other.to_string(),
    }
}

fn range(property: &Value) -> Option<String> {
    let bound = |key: &str| property.get(key).and_then(Value::as_f64);
    let low = bound("minimum").map(|low| (low, false)).or_else(|| bound("exclusiveMinimum").map(|low| (low, true)));
    let high =
        bound("maximum").map(|high| (high, false)).or_else(|| bound("exclusiveMaximum").map(|high| (high, true)));
    match (low, high) {
        (Some((low, false)), Some((high, false))) => Some(format!("{low} to {high}")),
        (Some((low, above)), Some((high, below))) => Some(format!(
            "{} {low} and {} {high}",
            if above { "above" } else { "from" },
            if below { "below" } else { "up to" }
        )),
        (Some((low, true)), None) => Some(format!("above {low}")),
        (Some((low, false)), None) => Some(format!("{low} or more")),
        (None, Some((high, true))) => Some(format!("below {high}")),
        (None, Some((high, false))) => Some(format!("at most {high}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "required": ["split"],
            "properties": {
                "kernel_size": {"type": "integer", "minimum": 1, "maximum": 7, "description": "Odd."},
                "gamma": {"type": "number", "exclusiveMinimum": 0.0},
                "split": {"type": ["string", "null"]},
                "cap": {"type": ["integer", "null"], "minimum": 1},
                "method": {"$ref": "#/$defs/Method"},
                "size": {"anyOf": [{"$ref": "#/$defs/Method"}, {"type": "null"}]},
                "betas": {"type": "array", "items": {"type": "number"}, "default": [0.9, 0.95]},
                "path": {"type": "string", "default": ""},
            },
            "$defs": {"Method": {"oneOf": [{"const": "euler", "description": "a"}, {"enum": ["heun"]}]}},
        })
    }

    fn lines() -> Vec<String> {
        let defaults = serde_yaml::from_str("{kernel_size: 3, gamma: 0.6, method: euler}").unwrap();
        let keys = keys(&schema(), Some(&defaults));
        keys.iter()
            .map(|key| format!("{}: {} = {}", key.name, key.allowed, key.default.as_deref().unwrap_or("?")))
            .collect()
    }

    #[test]
    fn types_ranges_and_defaults_read_as_words() {
        assert_eq!(
            lines(),
            [
                "kernel_size: whole number, 1 to 7 = 3",
                "gamma: number, above 0 = 0.6",
                "split: text or null = ?",
                "cap: whole number, 1 or more, or null = null",
                "method: euler | heun = euler",
                "size: euler | heun or null = null",
                "betas: list of: number = [0.9,0.95]",
                "path: text = \"\"",
            ]
        );
    }

    #[test]
    fn a_schema_without_properties_has_no_keys() {
        assert_eq!(keys(&json!({"type": "object"}), None), []);
    }
}
