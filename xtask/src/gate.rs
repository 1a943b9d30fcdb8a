//! `cargo xtask test`: every check of the project, cheapest first.

use crate::{
    cli::{Backend, Request, ensure_libtorch},
    handover::exit_code,
    tidy,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail};
use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

/// Test programs in `tests/` that can be run alone by their name.
const TARGETS: [&str; 6] = ["parity", "contracts", "cli", "resume", "recipes", "extension"];

/// One check: a headline and the cargo command, or the checks that need no cargo.
enum Stage {
    Cargo(&'static str, Backend, Vec<String>),
    Tidy,
}

/// Tests that ran, summed over the test programs.
///
/// A test that skips itself writes a line `skipped: REASON` to stdout; its program counts it as passed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
    said_skipped: usize,
}

/// Runs the gate, or with a filter only the tests it names, and stops at the first failure.
///
/// # Errors
/// When libtorch cannot be had, more than one filter is given, or cargo cannot be started.
pub fn test(workspace: &Workspace, request: &Request) -> Result<ExitCode> {
    let stages = match request.args.get(1..).unwrap_or_default() {
        [] => gate(request.backend),
        [filter] => vec![filtered(&filter.to_string_lossy(), request.backend)],
        [_, extra, ..] => bail!("test: unexpected `{}`; usage: cargo xtask test [FILTER]", extra.to_string_lossy()),
    };
    let mut counts = Counts::default();
    let mut has_libtorch = false;
    for stage in &stages {
        let backend = if let Stage::Cargo(_, backend, _) = stage { *backend } else { Backend::Flex };
        if backend == Backend::Libtorch && !has_libtorch {
            ensure_libtorch(workspace, request.wants_cuda)?;
            has_libtorch = true;
        }
        let start = Instant::now();
        let code = run(workspace, stage, &mut counts)?;
        let seconds = start.elapsed().as_secs_f64();
        if code != ExitCode::SUCCESS {
            println!("==> {}: FAILED after {seconds:.1} s", stage.title());
            println!("{}", counts.line());
            return Ok(code);
        }
        println!("==> {}: ok in {seconds:.1} s", stage.title());
    }
    println!("{}", counts.line());
    if counts == Counts::default() {
        bail!("test: no test matches; `cargo xtask test` without a filter runs all of them");
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole gate; with the flex backend the part of it that needs no libtorch.
///
/// The tests of the whole gate compute on flex too. Built without libtorch the code is only checked there, because
/// building it means building burn once more.
fn gate(backend: Backend) -> Vec<Stage> {
    let cargo = |title, backend, line: &str| Stage::Cargo(title, backend, words(line));
    let mut stages = vec![
        cargo("format", Backend::Flex, "fmt --all --check"),
        cargo("launcher", Backend::Flex, "test --package xtask --quiet"),
        Stage::Tidy,
    ];
    if backend == Backend::Libtorch {
        let all = "--release --workspace";
        stages.extend([
            cargo("lints", backend, &format!("clippy {all} --all-targets -- -D warnings")),
            cargo("documentation", backend, &format!("doc {all} --no-deps")),
            cargo("program", backend, "build --release --package realign-experiments --bin realign"),
            cargo("tests", backend, &format!("test {all} --exclude xtask -- --quiet")),
        ]);
    }
    let flex = "--release --no-default-features";
    let lints = format!("clippy --workspace {flex} --all-targets -- -D warnings");
    stages.push(cargo("flex lints", Backend::Flex, &lints));
    if backend == Backend::Flex {
        stages.push(cargo("flex program", backend, &format!("build --package realign-experiments {flex}")));
        let parity = format!("test --package realign-tests {flex} --test parity -- --quiet");
        stages.push(cargo("flex parity", backend, &parity));
    }
    stages
}

/// The one stage that a filter names.
fn filtered(filter: &str, backend: Backend) -> Stage {
    let mut args = words("test --release");
    if backend == Backend::Flex {
        args.push("--no-default-features".into());
    }
    if TARGETS.contains(&filter) {
        args.extend(words("--package realign-tests --test"));
        args.extend([filter.to_owned(), "--".into(), "--nocapture".into()]);
    } else {
        args.extend(words("--workspace --exclude xtask"));
        args.push(filter.to_owned());
    }
    Stage::Cargo("tests", backend, args)
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

impl Stage {
    fn title(&self) -> &'static str {
        match self {
            Stage::Cargo(title, ..) => title,
            Stage::Tidy => "tidy",
        }
    }
}

fn run(workspace: &Workspace, stage: &Stage, counts: &mut Counts) -> Result<ExitCode> {
    match stage {
        Stage::Cargo(title, backend, args) => {
            println!("==> {title}: cargo {}", args.join(" "));
            run_cargo(workspace.cargo(*backend).args(args).env("RUSTDOCFLAGS", "-Dwarnings"), counts)
        }
        Stage::Tidy => {
            println!("==> tidy: words, file sizes, links and paths in the docs");
            let findings = tidy::check(&workspace.root)?;
            for finding in &findings {
                println!("{finding}");
            }
            Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn run_cargo(command: &mut Command, counts: &mut Counts) -> Result<ExitCode> {
    io::stdout().flush().context("stdout is closed")?;
    let mut child = command.stdout(Stdio::piped()).spawn().context("`cargo` cannot be started")?;
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).context("cargo's output cannot be read")? > 0 {
            io::stdout().write_all(&line).context("stdout is closed")?;
            counts.read(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    Ok(exit_code(child.wait().context("`cargo` was lost")?))
}

impl Counts {
    /// Reads one line of a test program: its summary, or a test that says why it was skipped.
    fn read(&mut self, line: &str) {
        let Some(summary) = line.trim().strip_prefix("test result: ") else {
            self.said_skipped += usize::from(line.contains("skipped: "));
            return;
        };
        for part in summary.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(what)) = (words.next().map(str::parse::<usize>), words.next()) else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
        let skipped = self.said_skipped.min(self.passed);
        self.passed -= skipped;
        self.skipped += skipped;
        self.said_skipped = 0;
    }

    fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_programs_are_summed() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.25s",
            "skipped: no GPU on this machine",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
        ] {
            counts.read(line);
        }
        assert_eq!(counts.line(), "4 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn a_filter_names_a_test_program_or_a_test() {
        let Stage::Cargo(_, _, args) = filtered("parity", Backend::Libtorch) else { panic!("no cargo command") };
        assert_eq!(args.join(" "), "test --release --package realign-tests --test parity -- --nocapture");
        let Stage::Cargo(_, _, args) = filtered("token grid", Backend::Flex) else { panic!("no cargo command") };
        assert_eq!(args.last().unwrap(), "token grid");
        assert!(args.contains(&"--no-default-features".to_owned()));
    }

    #[test]
    fn the_gate_without_libtorch_builds_only_flex() {
        let is_flex = |stage: &Stage| matches!(stage, Stage::Tidy | Stage::Cargo(_, Backend::Flex, _));
        assert!(gate(Backend::Flex).iter().all(is_flex));
        let titles = |backend| gate(backend).iter().map(Stage::title).collect::<Vec<_>>();
        assert!(titles(Backend::Flex).ends_with(&["flex lints", "flex program", "flex parity"]));
        assert!(titles(Backend::Libtorch).ends_with(&["tests", "flex lints"]));
    }
}
