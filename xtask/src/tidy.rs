//! Checks of the text itself: words that must not be left behind, file sizes, links and paths in the docs.

use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

const MAX_LINES: usize = 400; // without tests

/// What must not stay in code, and why. Written in halves, so that this file passes its own check.
const WORDS: [(&str, &str, &str); 6] = [
    ("to", "do!(", "finish it"),
    ("unimple", "mented!(", "finish it"),
    ("db", "g!(", "remove the debug print"),
    ("FIX", "ME", "fix it, or file an issue"),
    ("#[igno", "re", "skip visibly inside the test instead"),
    ("#[should_", "panic", "assert on the returned error instead"),
];

const FOLDERS: [&str; 8] = ["framework/", "plugins/", "recipes/", "experiments/", "docs/", "tests/", "xtask/", ".ci/"];

/// Every finding as `path:line: what`, in path order.
///
/// # Errors
/// When a file of the workspace cannot be read.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut findings = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
        let found = match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => check_rust(&text, file.strip_prefix(root).unwrap_or(&file)),
            _ => check_markdown(&text, &file, root),
        };
        let shown = file.strip_prefix(root).unwrap_or(&file).display();
        findings.extend(found.into_iter().map(|(line, what)| format!("{shown}:{line}: {what}")));
    }
    Ok(findings)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("{}: cannot be read", dir.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().with_context(|| format!("{}: cannot be read", path.display()))?;
        // A folder with a cargo cache tag is a build folder, whatever its name.
        let is_made = ["target", "runs"].contains(&name.as_str()) || path.join("CACHEDIR.TAG").exists();
        if kind.is_dir() && !name.starts_with('.') && !is_made {
            collect(&path, files)?;
        } else if kind.is_file() && (name.ends_with(".rs") || name.ends_with(".md")) {
            files.push(path);
        }
    }
    Ok(())
}

fn check_rust(text: &str, path: &Path) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    let code = text.lines().take_while(|line| !is_test(line)).count();
    if code > MAX_LINES {
        findings.push((code, format!("{code} lines without tests, at most {MAX_LINES}; split the file")));
    }
    // Programs may not panic on what they read; tests, build scripts and the launcher stop at once instead.
    let is_library = ["framework/src", "plugins/src", "experiments/src"].iter().any(|dir| path.starts_with(dir));
    let mut above = "";
    for (idx, line) in text.lines().enumerate() {
        for (head, tail, advice) in WORDS {
            if line.contains(&format!("{head}{tail}")) {
                findings.push((idx + 1, format!("`{head}{tail}`: {advice}")));
            }
        }
        let may_panic = line.contains(".unwrap()") || line.contains(".expect(");
        let has_reason = line.contains("//") || above.trim_start().starts_with("//");
        if is_library && idx < code && may_panic && !has_reason {
            findings.push((idx + 1, "`unwrap` or `expect` without a proof beside it; return an error".to_owned()));
        }
        above = line;
    }
    findings
}

fn check_markdown(text: &str, file: &Path, root: &Path) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    let mut is_code = false;
    for (idx, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let here = file.parent().unwrap_or(root);
        let links = if is_code { Vec::new() } else { links(line) };
        for link in links.into_iter().filter(|link| !here.join(link).exists()) {
            findings.push((idx + 1, format!("link to `{link}`, which does not exist")));
        }
        for path in paths(line).filter(|path| !root.join(path).exists()) {
            findings.push((idx + 1, format!("path `{path}`, which does not exist")));
        }
    }
    findings
}

/// Relative link targets of a line, without their anchors.
fn links(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    local.filter_map(|target| target.split('#').next()).filter(|target| !target.is_empty()).collect()
}

/// Words that are paths into the workspace. What the reader is to write (`my_idea.rs`) and patterns are not.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|letter: char| letter.is_whitespace() || "`'\"()[]|,;=".contains(letter));
    let words = words.map(|word| word.split(':').next().unwrap_or(word).trim_end_matches(['.', '!', '?']));
    words.filter(|word| {
        let is_pattern = word.contains(['*', '{', '}', '<', '>', '$', '…']) || word.contains("...");
        let is_the_readers = word.split('/').any(|part| part.starts_with("my"));
        FOLDERS.iter().any(|folder| word.starts_with(folder)) && !is_pattern && !is_the_readers
    })
}

/// What begins the tests of a file: the module at its foot, or the mark of a file that is tests alone.
fn is_test(line: &str) -> bool {
    ["#[cfg(test)]", "#![cfg(test)]", "#[cfg(all(test, "].iter().any(|mark| line.starts_with(mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::test_folder;

    #[test]
    fn leftovers_in_code_are_found_by_line() {
        let text = format!("fn a() {{\n    {}{}1);\n}}\n", "db", "g!(");
        assert_eq!(check_rust(&text, Path::new("tests/a.rs"))[0].0, 2);
    }

    #[test]
    fn unwrap_needs_a_reason_in_library_code_only() {
        let bare = "let a = b.unwrap();\n";
        assert_eq!(check_rust(bare, Path::new("framework/src/a.rs")).len(), 1);
        assert!(check_rust(bare, Path::new("tests/a.rs")).is_empty());
        let proven = "// b was filled above\nlet a = b.unwrap();\n#[cfg(test)]\nmod tests { a.unwrap(); }\n";
        let on_a_backend = proven.replace("#[cfg(test)]", "#[cfg(all(test, feature = \"x\"))]");
        for text in [proven, &on_a_backend] {
            assert!(check_rust(text, Path::new("framework/src/a.rs")).is_empty());
        }
    }

    #[test]
    fn a_long_file_is_split_but_its_tests_do_not_count() {
        let long = "//\n".repeat(401);
        assert_eq!(check_rust(&long, Path::new("a.rs")).len(), 1);
        let tested = format!("{}#[cfg(test)]\n{long}", "//\n".repeat(399));
        assert!(check_rust(&tested, Path::new("a.rs")).is_empty());
    }

    #[test]
    fn links_and_paths_that_lead_nowhere_are_found() {
        let root = test_folder("tidy");
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(root.join("docs/here.md"), "").unwrap();
        let text = "[a](here.md#top) [b](gone.md) [c](https://example.org/x)\n\
            see `docs/here.md`, docs/gone.md:3 and `recipes/*.yaml`, write plugins/src/my_idea.rs\n";
        let found = check_markdown(text, &root.join("docs/page.md"), &root);
        let lines: Vec<_> = found.iter().map(|(line, what)| format!("{line} {what}")).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("1 link to `gone.md`") && lines[1].starts_with("2 path `docs/gone.md`"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_workspace_is_walked_without_build_folders() {
        let root = test_folder("walk");
        for folder in ["src", "target", "built", ".git"] {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("a.rs"), format!("{}{}", "FIX", "ME")).unwrap();
        }
        fs::write(root.join("built/CACHEDIR.TAG"), "").unwrap();
        let findings = check(&root).unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("src/a.rs:1: "));
        fs::remove_dir_all(root).unwrap();
    }
}
