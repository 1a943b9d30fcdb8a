//! Writing files that must not overwrite, and adding a line to a module list.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow};

/// Writes a file that does not exist yet.
///
/// # Errors
/// It exists, or cannot be written; a file written in part is removed.
pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow!("exists already; choose another name, or remove the file"),
        _ => anyhow!(error).context("cannot be made"),
    })?;
    file.write_all(text.as_bytes()).inspect_err(|_| drop(fs::remove_file(path))).context("cannot be written")
}

/// Adds `pub mod name;` to a module list, in alphabetical order; a list that does not exist begins with `heading`.
///
/// # Errors
/// The list cannot be read or written; it is then unchanged.
pub(super) fn add_module(list: &Path, name: &str, heading: &str) -> Result<()> {
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => format!("{heading}\n"),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", list.display())),
    };
    let folder = list.parent().unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(with_module(&text, name).as_bytes())?;
        if let Ok(existing) = fs::metadata(list) {
            file.as_file().set_permissions(existing.permissions())?;
        }
        file.persist(list)?;
        Ok(())
    };
    write().with_context(|| format!("{}: cannot be written", list.display()))
}

fn with_module(text: &str, name: &str) -> String {
    let line = format!("pub mod {name};");
    let mut lines: Vec<&str> = text.lines().collect();
    if lines.contains(&line.as_str()) {
        return text.to_string();
    }
    let is_module = |line: &&str| line.starts_with("pub mod ");
    let after =
        lines.iter().position(|other| is_module(other) && other.trim_end_matches(';') > line.trim_end_matches(';'));
    let last = lines.iter().rposition(is_module);
    match after.or(last.map(|last| last + 1)) {
        Some(index) => lines.insert(index, &line),
        None => {
            let head = lines.iter().take_while(|line| line.starts_with("//!")).count();
            lines.insert(head, &line);
            if head > 0 {
                lines.insert(head, "");
            }
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_goes_to_its_place_in_the_alphabet() {
        let list = "//! List.\n\npub mod b;\npub mod d;\n\npub use b::B;\n";
        assert_eq!(with_module(list, "a"), "//! List.\n\npub mod a;\npub mod b;\npub mod d;\n\npub use b::B;\n");
        assert_eq!(with_module(list, "c"), "//! List.\n\npub mod b;\npub mod c;\npub mod d;\n\npub use b::B;\n");
        assert_eq!(with_module(list, "b2"), "//! List.\n\npub mod b;\npub mod b2;\npub mod d;\n\npub use b::B;\n");
        assert_eq!(with_module(list, "e"), "//! List.\n\npub mod b;\npub mod d;\npub mod e;\n\npub use b::B;\n");
        assert_eq!(with_module(list, "d"), list);
        assert_eq!(with_module("//! List.\n", "a"), "//! List.\n\npub mod a;\n");
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rs");
        write_new(&path, "one").unwrap();
        assert!(write_new(&path, "two").unwrap_err().to_string().contains("exists already"));
        assert_eq!(fs::read_to_string(path).unwrap(), "one");
    }
}
