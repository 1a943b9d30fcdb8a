//! `plugins` and `new`, as a newcomer types them.

use std::fs;
use std::process::Stdio;

use crate::program::{Desk, project};

/// A folder with the files of the workspace that documented commands need.
pub fn tree() -> Desk {
    let desk = Desk::new();
    for file in [
        "plugins/src/lib.rs",
        "plugins/src/projectors/mod.rs",
        "plugins/src/normalizers/mod.rs",
        "experiments/Cargo.toml",
        "experiments/tables/encoders.yaml",
    ] {
        desk.write(file, fs::read(project().join(file)).unwrap());
    }
    desk
}

#[test]
fn every_plugin_is_listed_and_can_be_shown() {
    let desk = Desk::new();
    let answer = desk.run(&["plugins", "list", "--json"]);
    answer.assert_done();
    let plugins: Vec<serde_json::Value> = serde_json::from_str(&answer.out).unwrap();
    assert!(plugins.len() > 10);
    for plugin in plugins {
        let name = format!("{}.{}", plugin["kind"].as_str().unwrap(), plugin["name"].as_str().unwrap());
        let shown = desk.run(&["plugins", "show", &name]);
        shown.assert_done();
        assert!(shown.out.contains("type: "), "{}", shown.out);
        assert!(!plugin["schema"]["description"].is_null(), "{name} says nothing about itself");
    }
    assert!(desk.run(&["plugins", "show", "conv"]).out.contains("kernel_size"));
}

#[test]
fn a_new_projector_is_one_file_and_one_line() {
    let desk = tree();
    let before = fs::read_to_string(desk.path("plugins/src/projectors/mod.rs")).unwrap();
    let answer = desk.run(&["new", "projector", "an_idea"]);
    answer.assert_done();
    assert!(answer.out.contains("plugins/src/projectors/an_idea.rs"), "{}", answer.out);
    let after = fs::read_to_string(desk.path("plugins/src/projectors/mod.rs")).unwrap();
    assert_eq!(after.replace("pub mod an_idea;\n", ""), before);
    assert!(fs::read_to_string(desk.path("plugins/src/projectors/an_idea.rs")).unwrap().contains("AnIdeaConfig"));
}

#[test]
fn new_refuses_what_it_cannot_name() {
    let desk = tree();
    desk.run(&["new", "projector", "conv"]).assert_refused(&["there is a projector `conv` already", "conv.rs"]);
    desk.run(&["new", "projector", "MyIdea"]).assert_refused(&["`MyIdea`", "did you mean `my_idea`?"]);
    desk.run(&["new", "projector", "type"]).assert_refused(&["`type`", "`my_type`"]);
    desk.run(&["new", "projecter", "my_idea"]).assert_refused(&["`projecter`", "did you mean `projector`?"]);
    Desk::new().run(&["new", "projector", "my_idea"]).assert_refused(&["not in a workspace of realign"]);
}

#[test]
fn a_new_crate_prints_the_line_that_links_it() {
    let desk = tree();
    let answer = desk.run(&["new", "crate", "an_idea", "--path", "outside/an_idea"]);
    answer.assert_done();
    assert!(
        answer.out.contains("an_idea = { path = \"../outside/an_idea\", default-features = false }"),
        "{}",
        answer.out
    );
    for file in ["Cargo.toml", "build.rs", "src/lib.rs", "src/an_idea.rs", ".cargo/config.toml"] {
        assert!(desk.path("outside/an_idea").join(file).is_file(), "{file}");
    }
    desk.run(&["new", "crate", "an_idea", "--path", "outside/an_idea"]).assert_refused(&["not an empty folder"]);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let desk = Desk::new();
    let mut child =
        desk.command(&["plugins", "list", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
