//! Every command in the documents is one the program takes; training commands are checked with one step.

use std::fs;
use std::path::PathBuf;

use crate::generate::tree;
use crate::pictures::picture_zip;
use crate::program::project;

/// Commands in code blocks, and those between backticks that name no placeholder in capitals.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut lines = vec![];
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            lines.push(line);
        } else {
            lines.extend(line.split('`').skip(1).step_by(2));
        }
    }
    let is_placeholder = |word: &str| !word.is_empty() && word.chars().all(|letter| letter.is_ascii_uppercase());
    let words = lines.into_iter().filter_map(|line| line.strip_prefix("cargo xtask "));
    let words = words.map(shell_words);
    words.filter(|words| !words.iter().any(|word| is_placeholder(word.trim_matches(['[', ']'])))).collect()
}

/// Words as a shell reads them: what stands between single quotes is one.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (vec![], String::new(), false);
    for letter in line.chars().chain([' ']) {
        match letter {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            letter => word.push(letter),
        }
    }
    words
}

/// What stands in for a documented command, and nothing for those of the launcher or of a plugin yet to be written.
fn stand_in(command: &[String]) -> Option<Vec<&str>> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    if words[0] != "new" && words.iter().any(|word| word.contains("my_")) {
        return None;
    }
    match words[0] {
        "test" | "doctor" | "libtorch" => None,
        "run" => {
            let mut rest: Vec<&str> = words[1..].to_vec();
            rest.retain(|word| !["--backend", "flex", "--cuda"].contains(word));
            // What is only checked has no folder.
            if let Some(at) = rest.iter().position(|word| *word == "--run-dir") {
                rest.drain(at..(at + 2).min(rest.len()));
            }
            // An autoencoder or an encoder alone draws no samples.
            let alone = ["recipes/vae.yaml", "recipes/classification.yaml", "recipes/shapes-net.yaml"];
            let is_quick = alone.iter().any(|recipe| words.contains(recipe));
            let fewer = if is_quick { &[][..] } else { &["--set", "sample.sampler.num_steps=2"] };
            Some(["check"].into_iter().chain(rest).chain(fewer.iter().copied()).collect())
        }
        // PyTorch is not part of the gate; the command line is still checked.
        "bench" => Some(words.into_iter().chain(["--help"]).collect()),
        // A table takes its time; what it resolves to is checked. There is no run to plot.
        "reproduce" if words.len() > 1 && !words.contains(&"--plan") => {
            Some(words.into_iter().chain(["--plan"]).collect())
        }
        "plot" => Some(vec!["plot", "--help"]),
        word if words.len() == 1 => Some(vec![word, "--help"]),
        _ => Some(words),
    }
}

fn documents() -> Vec<PathBuf> {
    let folders = [project(), project().join("docs")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect()
}

#[test]
fn every_command_of_the_program_is_one_of_the_launcher() {
    let launcher = fs::read_to_string(project().join("xtask/src/cli.rs")).unwrap();
    let help = tree().run(&["--help"]).out;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut num_commands = 0;
    for command in listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        if command.is_empty() || command == "help" {
            continue; // a longer text goes on, or the launcher has its own
        }
        assert!(launcher.contains(&format!("\n    \"{command}\",\n")), "`{command}` is not handed over");
        assert!(launcher.contains(&format!("\n  {command} ")), "the launcher's help does not name `{command}`");
        num_commands += 1;
    }
    assert!(num_commands > 15, "{help}");
}

#[test]
fn every_command_in_the_documents_works() {
    let mut num_run = 0;
    for path in documents() {
        let desk = tree();
        desk.write("my-pictures.zip", picture_zip());
        for command in commands(&fs::read_to_string(&path).unwrap()) {
            // Nothing may be written outside of the temporary folder.
            let command: Vec<String> = command.iter().map(|word| word.replace("../", "outside/")).collect();
            let Some(args) = stand_in(&command) else { continue };
            let answer = desk.run(&args);
            assert_eq!(answer.code, 0, "{}: {}: {}{}", path.display(), command.join(" "), answer.out, answer.err);
            num_run += 1;
        }
    }
    assert!(num_run > 8, "only {num_run} commands were found");
}
