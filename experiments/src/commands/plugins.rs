//! `realign plugins`: what is linked into this program.

mod keys;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use realign::registry::{self, PluginInfo};
use serde_json::{Value, json};

use keys::{Key, keys};

/// Arguments of `plugins`.
#[derive(Debug, Args)]
pub struct Plugins {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One line per plugin, by kind
    List {
        /// Only this kind, such as `projector`
        #[arg(long)]
        kind: Option<String>,
        /// Everything that is known, as one JSON list
        #[arg(long)]
        json: bool,
    },
    /// What a plugin does, its keys and an example
    Show {
        /// Name of the plugin, or `kind.name` where two kinds share a name
        name: String,
        /// Everything that is known, as one JSON list
        #[arg(long)]
        json: bool,
    },
}

impl Plugins {
    /// Runs the command.
    ///
    /// # Errors
    /// An unknown kind or name, with the nearest one.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitCode> {
        let all = registry::plugins();
        match self.what {
            What::List { kind, json } => {
                let wanted = of_kind(&all, kind.as_deref())?;
                if json { write_json(&wanted, out)? } else { write_list(&wanted, out)? }
            }
            What::Show { name, json } => {
                let found = named(&all, &name)?;
                if json { write_json(&found, out)? } else { found.iter().try_for_each(|plugin| show(plugin, out))? }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn of_kind(all: &[&'static PluginInfo], kind: Option<&str>) -> Result<Vec<&'static PluginInfo>> {
    let Some(kind) = kind else { return Ok(all.to_vec()) };
    let wanted: Vec<_> = all.iter().copied().filter(|plugin| plugin.kind == kind).collect();
    if wanted.is_empty() {
        let mut kinds: Vec<&str> = all.iter().map(|plugin| plugin.kind).collect();
        kinds.dedup();
        bail!("--kind: unknown kind `{kind}`\n  {}", suggestion(kind, &kinds));
    }
    Ok(wanted)
}

fn named(all: &[&'static PluginInfo], asked: &str) -> Result<Vec<&'static PluginInfo>> {
    let (kind, name) = asked.split_once('.').map_or((None, asked), |(kind, name)| (Some(kind), name));
    let candidates = of_kind(all, kind).with_context(|| format!("plugins show {asked}"))?;
    let found: Vec<_> = candidates.iter().copied().filter(|plugin| (plugin.name)() == name).collect();
    if found.is_empty() {
        let mut names: Vec<&str> = candidates.iter().map(|plugin| (plugin.name)()).collect();
        names.sort_unstable();
        names.dedup();
        let kind = kind.map_or("plugin".to_string(), |kind| kind.replace('_', " "));
        bail!("plugins show: unknown {kind} `{name}`\n  {}", suggestion(name, &names));
    }
    Ok(found)
}

/// `did you mean ...? known: ...`
pub(super) fn suggestion(found: &str, known: &[&str]) -> String {
    let nearest = registry::nearest(found, known.iter().copied());
    let nearest = nearest.map(|word| format!("did you mean `{word}`? ")).unwrap_or_default();
    format!("{nearest}known: {}", known.join(", "))
}

fn write_json(plugins: &[&PluginInfo], out: &mut dyn Write) -> Result<()> {
    let list: Vec<Value> = plugins.iter().map(|plugin| describe(plugin)).collect();
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?)
}

fn describe(plugin: &PluginInfo) -> Value {
    json!({
        "kind": plugin.kind,
        "name": (plugin.name)(),
        "crate": plugin.krate,
        "file": plugin.file,
        "defaults": (plugin.defaults)(),
        "schema": (plugin.schema)(),
    })
}

fn write_list(plugins: &[&PluginInfo], out: &mut dyn Write) -> Result<()> {
    let width = plugins.iter().map(|plugin| (plugin.name)().len()).max().unwrap_or_default();
    let mut kind = "";
    for plugin in plugins {
        if plugin.kind != kind {
            let gap = if kind.is_empty() { "" } else { "\n" };
            writeln!(out, "{gap}{}", plugin.kind)?;
            kind = plugin.kind;
        }
        let line = format!("  {:width$}  {}", (plugin.name)(), first_sentence(&documentation(plugin)));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn documentation(plugin: &PluginInfo) -> String {
    (plugin.schema)().get("description").and_then(Value::as_str).unwrap_or_default().to_string()
}

/// The first sentence of a doc comment, on one line; a leading `` `name`: `` would repeat what stands before it.
fn first_sentence(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let end = paragraph.find(". ").map_or(paragraph.len(), |end| end + 1);
    let sentence = &paragraph[..end];
    let is_named = sentence.starts_with('`');
    let sentence = sentence.split_once("`: ").filter(|_| is_named).map_or(sentence, |(_, rest)| rest);
    sentence.trim_end_matches('.').to_string()
}

fn show(plugin: &PluginInfo, out: &mut dyn Write) -> Result<()> {
    let name = (plugin.name)();
    writeln!(out, "{} `{name}`, crate {}, {}\n", plugin.kind.replace('_', " "), plugin.krate, plugin.file)?;
    let documentation = documentation(plugin);
    if !documentation.is_empty() {
        writeln!(out, "{documentation}\n")?;
    }
    let keys = keys(&(plugin.schema)(), (plugin.defaults)().as_ref());
    if keys.is_empty() {
        writeln!(out, "It takes no keys.\n")?;
    } else {
        writeln!(out, "Keys:")?;
        keys.iter().try_for_each(|key| write_key(key, out))?;
        writeln!(out)?;
    }
    writeln!(out, "In a recipe, with the default of every key:\n\n{}", example(plugin)?)?;
    plugin.tables().try_for_each(|table| writeln!(out, "\n{table}"))?;
    Ok(())
}

fn write_key(key: &Key, out: &mut dyn Write) -> Result<()> {
    let default = key.default.as_ref().map_or("required".to_string(), |default| format!("default {default}"));
    writeln!(out, "  {}: {}, {default}", key.name, key.allowed)?;
    for line in key.description.lines().filter(|line| !line.is_empty()) {
        writeln!(out, "      {line}")?;
    }
    Ok(())
}

/// The place of a kind in a recipe, around the plugin's section: lines before it, indented below one another.
fn place(kind: &str) -> (&'static [&'static str], &str) {
    match kind {
        "dataset" => (&[], "data:"),
        "sampler" => (&["sample:"], "  sampler:"),
        "projector" => (&["alignment:"], "  - projector:"),
        "normalizer" => (&["alignment:"], "  - normalizer:"),
        "alignment_loss" => (&["alignment:"], "  - loss:"),
        "encoder" => (&["alignment:", "  - encoders:"], "    -"),
        "feature_network" => (&["evaluation:", "  features:"], "    -"),
        kind => (&[], kind),
    }
}

fn example(plugin: &PluginInfo) -> Result<String> {
    let (before, own) = place(plugin.kind);
    let own = if own == plugin.kind { format!("{own}:") } else { own.to_string() };
    let depth = own.len() - own.trim_start().len() + if own.contains("- ") { 4 } else { 2 };
    let mut lines = vec![format!("type: {}", (plugin.name)())];
    if let Some(serde_yaml::Value::Mapping(defaults)) = (plugin.defaults)()
        && !defaults.is_empty()
    {
        lines.extend(serde_yaml::to_string(&defaults)?.lines().map(str::to_string));
    }
    let mut text: Vec<String> = before.iter().map(|line| line.to_string()).collect();
    if own.ends_with('-') {
        text.push(format!("{own} {}", lines.remove(0)));
    } else {
        text.push(own);
    }
    text.extend(lines.iter().map(|line| format!("{:depth$}{line}", "")));
    Ok(text.iter().map(|line| format!("  {line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(what: What) -> Result<String> {
        let mut out = vec![];
        Plugins { what }.run(&mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn the_list_groups_by_kind_and_says_what_each_does() {
        let text = answer(What::List { kind: Some("dataset".into()), json: false }).unwrap();
        assert!(text.starts_with("dataset\n"), "{text}");
        let line = text.lines().find(|line| line.trim_start().starts_with("shapes ")).unwrap();
        assert!(line.contains("  circle, square, triangle and ring"), "{text}");
    }

    #[test]
    fn show_lists_keys_with_defaults_and_an_example_that_loads() {
        let text = answer(What::Show { name: "shapes".into(), json: false }).unwrap();
        assert!(text.contains("num_examples: whole number, 1 to 1073741824, default 50000"), "{text}");
        let yaml = text.split("every key:\n").nth(1).unwrap();
        let value: serde_yaml::Value = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(value["data"]["type"], "shapes");
        let config: Box<dyn realign::plugin::DatasetConfig> = serde_yaml::from_value(value["data"].clone()).unwrap();
        assert_eq!(config.num_classes_hint(), Some(16));
    }

    #[test]
    fn every_registered_plugin_can_be_shown_and_its_example_is_yaml() {
        for plugin in registry::plugins() {
            let yaml = example(plugin).unwrap();
            let value: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
            assert!(value.is_mapping(), "{yaml}");
            show(plugin, &mut vec![]).unwrap();
        }
    }

    #[test]
    fn unknown_names_and_kinds_get_the_nearest_one() {
        let error = answer(What::Show { name: "shaeps".into(), json: false }).unwrap_err();
        assert!(format!("{error:#}").contains("did you mean `shapes`?"), "{error:#}");
        let error = answer(What::List { kind: Some("datset".into()), json: false }).unwrap_err();
        assert!(format!("{error:#}").contains("did you mean `dataset`?"), "{error:#}");
    }

    #[test]
    fn a_name_may_carry_its_kind() {
        assert!(answer(What::Show { name: "dataset.shapes".into(), json: true }).unwrap().contains("\"shapes\""));
        assert!(answer(What::Show { name: "dataset.conv".into(), json: false }).is_err());
    }

    #[test]
    fn the_first_sentence_leaves_out_the_name_before_it() {
        assert_eq!(first_sentence("`conv`: a convolution\nover tokens. Second.\n\nThird"), "a convolution over tokens");
        assert_eq!(first_sentence("One"), "One");
    }
}
