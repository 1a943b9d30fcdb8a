//! `realign new`: a plugin file or a plugin crate with a passing test.

mod kinds;
mod module_list;
mod plugin_crate;
mod workspace;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use realign::registry;

use super::plugins::suggestion;
use kinds::{KINDS, Kind};
use module_list::{add_module, write_new};
use workspace::Workspace;

const CRATE: &str = "crate"; // the word that asks for a crate instead of a file

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct New {
    /// Kind of plugin, such as `projector`; or `crate` for a plugin crate of your own
    kind: String,
    /// Its name in recipes, in snake case: `my_idea`
    name: String,
    /// Folder of a new crate [default: NAME in the current folder]
    #[arg(long)]
    path: Option<PathBuf>,
}

impl New {
    /// Runs the command.
    ///
    /// # Errors
    /// An unknown kind, a name that is taken or cannot be a module's name, a folder outside of the workspace, a disk
    /// that cannot be written. Nothing is left behind then.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitCode> {
        check_name(&self.name)?;
        let workspace = Workspace::around(&std::env::current_dir().context("the current folder is gone")?)?;
        if self.kind == CRATE {
            let folder = self.path.unwrap_or_else(|| PathBuf::from(&self.name));
            plugin_crate::write(&workspace, &self.name, &folder, out)?;
            return Ok(ExitCode::SUCCESS);
        }
        let kind = kind(&self.kind)?;
        if self.path.is_some() {
            bail!("--path: has no effect for a {}; its file goes to plugins/src/{}", kind.words(), kind.folder);
        }
        write_plugin(&workspace, kind, &self.name, out)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn kind(asked: &str) -> Result<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == asked).with_context(|| {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).chain([CRATE]).collect();
        format!("new: unknown kind `{asked}`\n  {}", suggestion(asked, &known))
    })
}

fn write_plugin(workspace: &Workspace, kind: &Kind, name: &str, out: &mut dyn Write) -> Result<()> {
    check_free(kind, name)?;
    let sources = workspace.root.join("plugins/src");
    let folder = sources.join(kind.folder);
    if folder.join(name).exists() {
        bail!("new: `{}` exists already; choose another name", workspace.shown(&folder.join(name)));
    }
    let file = folder.join(format!("{name}.rs"));
    let list = folder.join("mod.rs");
    let is_first = !list.exists();
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", workspace.shown(&folder)))?;
    write_new(&file, &filled(kind.template, name)).with_context(|| workspace.shown(&file))?;
    let listed = add_module(&list, name, kind.heading).and_then(|()| match is_first {
        true => add_module(&sources.join("lib.rs"), kind.folder, ""),
        false => Ok(()),
    });
    if let Err(error) = listed {
        // The file alone would be in the way of the next try.
        let _ = fs::remove_file(&file);
        return Err(error);
    }
    writeln!(out, "wrote {}", workspace.shown(&file))?;
    writeln!(out, "added `pub mod {name};` to {}", workspace.shown(&list))?;
    writeln!(out, "next:\n  cargo xtask test {name}")?;
    writeln!(out, "  cargo xtask run recipes/sit-irepa.yaml --set {}={name}", kind.key)?;
    Ok(())
}

/// Refuses the name of a plugin that is there, and one whose types the template has for something else.
fn check_free(kind: &Kind, name: &str) -> Result<()> {
    if let Some(taken) = registry::plugins().iter().find(|plugin| plugin.kind == kind.name && (plugin.name)() == name) {
        bail!("new: there is a {} `{name}` already, in {}; choose another name", kind.words(), taken.file);
    }
    let own = pascal(name);
    let mut words =
        kind.template.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.contains("MyIdea"));
    let is_own = |word: &&str| *word == own || word.strip_suffix("Config") == Some(&own);
    if let Some(word) = words.find(is_own) {
        bail!("new: `{name}` would define `{word}`, which the template uses; choose another name, such as `my_{name}`");
    }
    Ok(())
}

/// A template with its names replaced.
fn filled(template: &str, name: &str) -> String {
    template.replace("my_idea", name).replace("MyIdea", &pascal(name))
}

fn pascal(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    name.split('_').map(word).collect()
}

/// Words that no module can be called.
const RESERVED: [&str; 55] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "union", "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "tests",
    "core", "std",
];

fn check_name(name: &str) -> Result<()> {
    let is_snake = name.starts_with(|letter: char| letter.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
        && !name.ends_with('_')
        && !name.contains("__");
    if !is_snake || name.len() > 40 {
        let fixed = snake(name);
        let hint = if fixed.is_empty() { String::new() } else { format!("\n  did you mean `{fixed}`?") };
        bail!("new: `{name}` cannot be a name; use lower-case letters, digits and single _, at most 40{hint}");
    }
    if RESERVED.contains(&name) {
        bail!("new: `{name}` is a word of Rust's own; choose another name, such as `my_{name}`");
    }
    Ok(())
}

/// The nearest snake-case name; empty when nothing of it is left.
fn snake(name: &str) -> String {
    let mut words = String::new();
    let mut was_lower = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && was_lower {
            words.push(' ');
        }
        was_lower = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        words.push(if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { ' ' });
    }
    let name = words.split_whitespace().collect::<Vec<_>>().join("_");
    let name = name.trim_start_matches(|letter: char| !letter.is_ascii_lowercase());
    name.chars().take(40).collect::<String>().trim_end_matches('_').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("experiments/Cargo.toml", "[package]\n"),
            ("plugins/src/lib.rs", "//! Plugins.\n\npub mod datasets;\npub mod projectors;\n"),
            ("plugins/src/datasets/mod.rs", "//! Data sets.\n\npub mod shapes;\n"),
            ("plugins/src/projectors/mod.rs", "//! Projectors.\n\npub mod conv;\npub mod mlp;\n"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn write_into(folder: &tempfile::TempDir, kind_name: &str, name: &str) -> Result<String> {
        check_name(name)?;
        let mut out = vec![];
        write_plugin(&Workspace::around(folder.path())?, kind(kind_name)?, name, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    fn read(folder: &tempfile::TempDir, path: &str) -> String {
        fs::read_to_string(folder.path().join(path)).unwrap()
    }

    #[test]
    fn a_new_plugin_is_a_file_and_a_line_of_the_module_list() {
        let folder = tree();
        let said = write_into(&folder, "projector", "low_rank").unwrap();
        assert!(said.contains("wrote plugins/src/projectors/low_rank.rs"), "{said}");
        assert!(said.contains("--set alignment.0.projector.type=low_rank"), "{said}");
        assert_eq!(
            read(&folder, "plugins/src/projectors/mod.rs"),
            "//! Projectors.\n\npub mod conv;\npub mod low_rank;\npub mod mlp;\n"
        );
        let text = read(&folder, "plugins/src/projectors/low_rank.rs");
        assert!(text.contains("#[typetag::serde(name = \"low_rank\")]") && text.contains("struct LowRankConfig"));
        assert!(!text.contains("my_idea") && !text.contains("MyIdea"));
    }

    #[test]
    fn every_kind_has_a_template_that_registers_itself() {
        let folder = tree();
        for kind in &KINDS {
            write_into(&folder, kind.name, "an_idea").unwrap();
            let text = read(&folder, &format!("plugins/src/{}/an_idea.rs", kind.folder));
            assert!(text.contains(&format!("as \"{}\": AnIdeaConfig);", kind.name)), "{}", kind.name);
            assert!(text.contains("#[cfg(test)]"), "{}", kind.name);
            assert!(read(&folder, "plugins/src/lib.rs").contains(&format!("pub mod {};", kind.folder)));
        }
    }

    #[test]
    fn names_that_are_taken_are_refused_and_nothing_changes() {
        let folder = tree();
        let error = write_into(&folder, "dataset", "shapes").unwrap_err().to_string();
        assert!(error.contains("there is a dataset `shapes` already"), "{error}");
        write_into(&folder, "projector", "low_rank").unwrap();
        let before = read(&folder, "plugins/src/projectors/mod.rs");
        let error = format!("{:#}", write_into(&folder, "projector", "low_rank").unwrap_err());
        assert!(error.contains("low_rank.rs: exists already"), "{error}");
        assert_eq!(read(&folder, "plugins/src/projectors/mod.rs"), before);
        fs::create_dir(folder.path().join("plugins/src/projectors/wide")).unwrap();
        for (kind, name, words) in [
            ("projector", "wide", "projectors/wide` exists already"),
            ("projector", "projector", "would define `Projector`, which the template uses"),
            ("normalizer", "default", "would define `Default`"),
        ] {
            let error = format!("{:#}", write_into(&folder, kind, name).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn bad_names_and_kinds_get_the_nearest_right_one() {
        for (name, hint) in [("MyIdea", "`my_idea`"), ("low-rank", "`low_rank`"), ("3d_conv", "`d_conv`")] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
        for name in ["", "_a", "../evil", "a__b", "type", "ä"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(kind("projektor").unwrap_err().to_string().contains("did you mean `projector`?"));
    }

    #[test]
    fn names_of_types_have_capitals() {
        assert_eq!(pascal("low_rank_2"), "LowRank2");
    }
}
