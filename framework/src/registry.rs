//! What is linked into this program: every plugin's kind, name, documentation, defaults and schema.
//!
//! A plugin registers itself with one line, [`register!`](crate::register); nothing else lists it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

#[doc(hidden)]
pub use inventory;

/// A plugin config that the registry knows.
///
/// Implemented only by [`register!`](crate::register) and a supertrait of every config trait, so that a
/// plugin which recipes can name and `plugins list` cannot show is a compile error.
pub trait Described {
    /// The registry's entry for this config.
    fn info(&self) -> &'static PluginInfo;
}

/// One registered plugin.
pub struct PluginInfo {
    /// Kind of plugin, in snake case: `projector`.
    pub kind: &'static str,
    /// Name that a recipe gives after `type:`.
    pub name: fn() -> &'static str,
    /// Crate that brings the plugin.
    pub krate: &'static str,
    /// JSON schema of the config: documentation, types and ranges of its keys.
    pub schema: fn() -> serde_json::Value,
    /// The config's defaults as YAML.
    pub defaults: fn() -> Option<serde_yaml::Value>,
    /// Source location, `file:line`.
    pub file: &'static str,
}

/// Wraps the entry so that `inventory` and [`Described`] share one static.
#[doc(hidden)]
pub struct Entry(pub &'static PluginInfo);
inventory::collect!(Entry);

/// A table that belongs to a plugin's documentation, such as its published sizes.
pub struct PluginTable {
    /// Kind of the plugin.
    pub kind: &'static str,
    /// Name of the plugin.
    pub name: &'static str,
    /// The table as Markdown.
    pub markdown: fn() -> String,
}
inventory::collect!(PluginTable);

impl PluginInfo {
    /// Tables that the plugin submits.
    pub fn tables(&self) -> impl Iterator<Item = String> + use<> {
        let (kind, name) = (self.kind, (self.name)());
        let own =
            inventory::iter::<PluginTable>.into_iter().filter(move |table| (table.kind, table.name) == (kind, name));
        own.map(|table| (table.markdown)())
    }
}

/// All plugins, sorted by kind and name.
///
/// ```
/// assert!(realign::registry::plugins().windows(2).all(|w| w[0].kind <= w[1].kind));
/// ```
pub fn plugins() -> Vec<&'static PluginInfo> {
    let mut plugins: Vec<_> = inventory::iter::<Entry>.into_iter().map(|entry| entry.0).collect();
    plugins.sort_by_key(|plugin| (plugin.kind, (plugin.name)()));
    plugins
}

/// Names of all plugins of one kind.
///
/// ```
/// assert!(realign::registry::names("no_such_kind").is_empty());
/// ```
pub fn names(kind: &str) -> Vec<&'static str> {
    plugins().into_iter().filter(|plugin| plugin.kind == kind).map(|plugin| (plugin.name)()).collect()
}

/// Refuses a program in which two plugins of one kind share a name.
///
/// ```
/// realign::registry::check_names().unwrap();
/// ```
///
/// # Errors
/// Names both plugins and their crates.
pub fn check_names() -> Result<()> {
    duplicate_names(&plugins())
}

fn duplicate_names(plugins: &[&PluginInfo]) -> Result<()> {
    let mut seen: BTreeMap<(&str, &str), &PluginInfo> = BTreeMap::new();
    for plugin in plugins {
        if let Some(first) = seen.insert((plugin.kind, (plugin.name)()), plugin) {
            bail!(
                "two plugins are called {} `{}`: {} in crate {} and {} in crate {}; rename one",
                plugin.kind,
                (plugin.name)(),
                first.file,
                first.krate,
                plugin.file,
                plugin.krate
            );
        }
    }
    Ok(())
}

/// The known word closest to `found`, when one is close enough to be meant.
///
/// ```
/// assert_eq!(realign::registry::nearest("cnov", ["conv", "linear"]), Some("conv"));
/// assert_eq!(realign::registry::nearest("zzz", ["conv", "linear"]), None);
/// ```
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |word: &str| strsim::damerau_levenshtein(&found.to_lowercase(), &word.to_lowercase());
    known
        .into_iter()
        .map(|word| (distance(word), word))
        .filter(|(distance, word)| *distance <= 1 + word.len().max(found.len()) / 3 && *distance < word.len().max(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Registers a plugin config under its typetag name:
/// `realign::register!(ProjectorConfig as "projector": ConvConfig);`
///
/// The config needs `Default`, `Serialize` and `JsonSchema`.
#[macro_export]
macro_rules! register {
    ($config_trait:path as $kind:literal : $config:ty) => {
        const _: () = {
            static INFO: $crate::registry::PluginInfo = $crate::registry::PluginInfo {
                kind: $kind,
                name: || <$config as $config_trait>::typetag_name(&<$config as ::core::default::Default>::default()),
                krate: env!("CARGO_PKG_NAME"),
                schema: || $crate::schemars::schema_for!($config).to_value(),
                defaults: || $crate::serde_yaml::to_value(<$config as ::core::default::Default>::default()).ok(),
                file: concat!(file!(), ":", line!()),
            };
            impl $crate::registry::Described for $config {
                fn info(&self) -> &'static $crate::registry::PluginInfo {
                    &INFO
                }
            }
            $crate::registry::inventory::submit! { $crate::registry::Entry(&INFO) }
        };
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(file: &'static str) -> PluginInfo {
        PluginInfo {
            kind: "projector",
            name: || "conv",
            krate: "a",
            schema: || serde_json::Value::Null,
            defaults: || None,
            file,
        }
    }

    #[test]
    fn a_name_registered_twice_is_an_error_that_names_both_places() {
        let (first, second) = (plugin("one.rs:1"), plugin("two.rs:2"));
        let message = duplicate_names(&[&first, &second]).unwrap_err().to_string();
        assert!(
            message.contains("one.rs:1") && message.contains("two.rs:2") && message.contains("`conv`"),
            "{message}"
        );
    }
}
