//! What `docs/write-a-plugin.md` promises: a new projector in the tree and one in a crate outside pass their own tests
//! and serve a recipe, with no file edited but the module list and one line of `experiments/Cargo.toml`.
//!
//! A copy of the workspace is built, with everything that is compiled already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PARTS: [&str; 9] =
    [".cargo", "Cargo.lock", "Cargo.toml", "experiments", "framework", "plugins", "recipes", "tests", "xtask"];
const VERSION: &str = "version = \"0.1.0\"\nedition";
/// Both commands choose the same packages, so that cargo compiles them with the same features.
const PROGRAM: &str = "--offline --release --package realign-experiments --package realign-plugins";
/// Beginnings of the variables that cargo sets for the package whose test runs.
const OWN_VARIABLES: [&str; 6] =
    ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_", "CARGO_TARGET_TMPDIR"];
const PROFILE: &str = "[profile.dev]\n";
/// The copies do a single step: compiling them takes longer than running them.
const QUICKLY_COMPILED: &str = "[profile.release.package.realign]\nopt-level = 0\n\n\
                                [profile.release.package.realign-plugins]\nopt-level = 0\n\n\
                                [profile.release.package.realign-experiments]\nopt-level = 0\n\n";
const PLUGIN_LINE: &str = "realign-plugins.workspace = true\n";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Lines for the crate outside: cargo shares what it compiled only between equal profiles and equal features, and these
/// are those of all packages together.
fn as_in_the_tree() -> String {
    let program = "[dev-dependencies]\nrealign-experiments = { path = \"../tree/experiments\" }";
    format!("\n{program}\n\n[profile.release]\nstrip = true\n\n{QUICKLY_COMPILED}")
}

/// Copies what differs, so that cargo sees no change where there is none.
fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        let bytes = fs::read(from).unwrap();
        if fs::read(to).ok().as_ref() != Some(&bytes) {
            fs::write(to, bytes).unwrap();
        }
        return;
    }
    fs::create_dir_all(to).unwrap();
    let names = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    for gone in names(to).filter(|name| !from.join(name).exists()) {
        let gone = to.join(gone);
        if gone.is_dir() { fs::remove_dir_all(gone).unwrap() } else { fs::remove_file(gone).unwrap() }
    }
    names(from).for_each(|name| copy(&from.join(&name), &to.join(&name)));
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no `{from}`", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Runs a command that must succeed; returns what it printed.
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn cargo(folder: &Path, target: &Path, line: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")); // `<target>/tmp`
    cargo.args(line.split(' ')).current_dir(folder);
    // What cargo tells this test about its own package would look like a change to build scripts.
    let own = |name: &str| name == "OUT_DIR" || OWN_VARIABLES.iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)) {
        cargo.env_remove(name);
    }
    // Finished programs stay apart from the project's own; what they are made of is shared.
    cargo.env("CARGO_TARGET_DIR", target).env("CARGO_BUILD_BUILD_DIR", shared.parent().unwrap());
    done(&mut cargo)
}

#[test]
fn plugins_in_the_tree_and_outside_are_tested_and_used() {
    let desk = Path::new(env!("CARGO_TARGET_TMPDIR")).join("extension");
    let (tree, outside, target) = (desk.join("tree"), desk.join("my_plugins"), desk.join("target"));
    fs::create_dir_all(&tree).unwrap();
    PARTS.iter().for_each(|part| copy(&project().join(part), &tree.join(part)));
    // Cargo knows packages by name, version and place in their workspace: the copies must not pass for the originals.
    edit(&tree.join("Cargo.toml"), VERSION, "version = \"0.1.0-extension\"\nedition");
    edit(&tree.join("Cargo.toml"), PROFILE, &format!("{QUICKLY_COMPILED}{PROFILE}"));
    if outside.exists() {
        fs::remove_dir_all(&outside).unwrap();
    }
    let realign = |program: &Path, args: &[&str]| done(Command::new(program).args(args).current_dir(&tree));
    let before = Path::new(env!("CARGO_BIN_EXE_realign-under-test"));
    realign(before, &["new", "projector", "my_idea"]);
    let said = realign(before, &["new", "crate", "my_plugins", "--path", "../my_plugins"]);
    let line = said.lines().find(|line| line.contains("path = ")).unwrap().trim();
    edit(&tree.join("experiments/Cargo.toml"), PLUGIN_LINE, &format!("{PLUGIN_LINE}{line}\n"));

    let passed = cargo(&tree, &target, &format!("test {PROGRAM} --lib my_idea"));
    assert!(passed.contains("my_idea::tests"), "{passed}");
    fs::copy(tree.join("Cargo.lock"), outside.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(outside.join("Cargo.toml")).unwrap();
    fs::write(outside.join("Cargo.toml"), manifest + &as_in_the_tree()).unwrap();
    let passed = cargo(&outside, &target, "test --offline --release");
    assert!(passed.contains("my_plugins::tests"), "{passed}");

    cargo(&tree, &target, &format!("build {PROGRAM} --bin realign"));
    let after = target.join("release/realign");
    let list = realign(&after, &["plugins", "list"]);
    assert!(list.contains("my_idea") && list.contains("my_plugins"), "{list}");
    for name in ["my_idea", "my_plugins"] {
        let set = format!("alignment.0.projector.type={name}");
        let said = realign(&after, &["check", "recipes/sit-irepa.yaml", "--set", &set]);
        assert!(said.contains("loads, builds, steps and samples"), "{said}");
    }
}
