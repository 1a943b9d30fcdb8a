//! `encoder: X` in an alignment term, another spelling of `encoders: [X]`.

use figment::value::Value;

use super::merge::Clash;
use super::yaml::join;

const SECTION: &str = "alignment";
const ONE: &str = "encoder";
const LIST: &str = "encoders";

/// Spells out the lists of one in a layer, or in a part of it that lies at `key`.
///
/// # Errors
/// A term with both spellings.
pub(super) fn spell_out(value: &mut Value, key: &str) -> Result<(), Clash> {
    let depth = if key.is_empty() { 0 } else { key.split('.').count() };
    match (depth, value) {
        (0, Value::Dict(_, root)) => root.get_mut(SECTION).map_or(Ok(()), |terms| spell_out(terms, SECTION)),
        (1, Value::Array(_, terms)) if key == SECTION => {
            terms.iter_mut().enumerate().try_for_each(|(i, term)| spell_out(term, &join(key, &i.to_string())))
        }
        (1, Value::Dict(_, terms)) if key == SECTION => {
            terms.iter_mut().try_for_each(|(i, term)| spell_out(term, &join(key, i)))
        }
        (2, Value::Dict(_, term)) if key.starts_with("alignment.") => {
            let Some(one) = term.remove(ONE) else { return Ok(()) };
            if term.contains_key(LIST) {
                let message = format!("`{ONE}` is another spelling of `{LIST}` with one item; give one of both");
                return Err(Clash { key: join(key, ONE), tag: one.tag(), message });
            }
            term.insert(LIST.into(), Value::Array(one.tag(), vec![one]));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Key and value of a `--set`, spelled out.
///
/// # Errors
/// As [`spell_out`].
pub(super) fn spelled_out(key: &str, mut value: Value) -> Result<(String, Value), Clash> {
    let segments: Vec<&str> = key.split('.').collect();
    match segments[..] {
        [SECTION, term, ONE] => Ok((format!("{SECTION}.{term}.{LIST}"), Value::Array(value.tag(), vec![value]))),
        [SECTION, term, ONE, ref rest @ ..] => Ok((format!("{SECTION}.{term}.{LIST}.0.{}", rest.join(".")), value)),
        _ => spell_out(&mut value, key).map(|()| (key.to_string(), value)),
    }
}

/// The key as a file with the short spelling has it.
pub(super) fn short(key: &str) -> String {
    key.replacen(&format!(".{LIST}.0"), &format!(".{ONE}"), 1)
}
