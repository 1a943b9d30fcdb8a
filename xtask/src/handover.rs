//! Builds the release `realign` program and becomes it.

use crate::{
    cli::{Backend, Request, ensure_libtorch},
    workspace::Workspace,
};
use anyhow::{Context, Result};
use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitCode, ExitStatus, Stdio},
};

/// Builds the program if needed and replaces this process by it; returns only when the build fails.
///
/// # Errors
/// When libtorch cannot be had or a process cannot be started.
pub fn hand_over(workspace: &Workspace, request: &Request) -> Result<ExitCode> {
    if request.backend == Backend::Libtorch {
        ensure_libtorch(workspace, request.wants_cuda)?;
    }
    let program = workspace.program(request.backend);
    if !program.exists() {
        eprintln!("building realign (first build takes 10 to 25 minutes)");
    }
    let status = build(workspace, request.backend)?;
    if !status.success() {
        return Ok(exit_code(status));
    }
    let mut command = Command::new(&program);
    workspace.clean(&mut command);
    let error = command.args(&request.args).exec();
    Err(error).with_context(|| format!("{}: cannot be started", program.display()))
}

/// The exit code a shell would report: the child's own, or 128 and the signal that ended it.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn build(workspace: &Workspace, backend: Backend) -> Result<ExitStatus> {
    let mut command = workspace.cargo(backend);
    command.args(["build", "--release", "--package", "realign-experiments", "--bin", "realign"]);
    if backend == Backend::Flex {
        command.arg("--no-default-features");
    }
    if io::stderr().is_terminal() {
        let width = env::var("COLUMNS").ok().filter(|width| width.parse::<u16>().is_ok());
        command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_COLOR", "always");
        command.env("CARGO_TERM_PROGRESS_WIDTH", width.as_deref().unwrap_or("80"));
    }
    let mut child = command.stderr(Stdio::piped()).spawn().context("`cargo` cannot be started")?;
    if let Some(stderr) = child.stderr.take() {
        show_unless_fresh(stderr, io::stderr())?;
    }
    child.wait().context("`cargo` was lost")
}

/// Copies cargo's messages, without the bar before the first of them and the `Finished` line.
fn show_unless_fresh(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut segment = Vec::new();
    let mut is_fresh = true;
    let mut buffer = [0; 4096];
    loop {
        let count = from.read(&mut buffer)?;
        for byte in buffer.iter().take(count) {
            segment.push(*byte);
            if matches!(byte, b'\n' | b'\r') {
                show(&mut segment, &mut is_fresh, &mut to)?;
            }
        }
        if count == 0 {
            return show(&mut segment, &mut is_fresh, &mut to);
        }
    }
}

fn show(segment: &mut Vec<u8>, is_fresh: &mut bool, to: &mut impl Write) -> io::Result<()> {
    let text = String::from_utf8_lossy(segment);
    let is_noise = text.contains("Finished") || (*is_fresh && (segment.ends_with(b"\r") || text.trim().is_empty()));
    if !is_noise {
        *is_fresh = false;
        to.write_all(segment)?;
        to.flush()?;
    }
    segment.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut out = Vec::new();
        show_unless_fresh(text.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_fresh_build_says_nothing() {
        assert_eq!(shown("    Building [====> ] 3/9\r\n    Finished `release` profile\n"), "");
    }

    #[test]
    fn a_build_shows_its_progress_and_its_errors() {
        let text = "   Compiling a\n  Building [=> ] 1/9\rerror: no such field\n";
        assert_eq!(shown(&format!("{text}    Finished `release` profile\n")), text);
        assert_eq!(shown("error: no target"), "error: no target");
    }

    #[test]
    fn a_signal_becomes_a_shells_exit_code() {
        assert_eq!(exit_code(ExitStatus::from_raw(2)), ExitCode::from(130));
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
    }
}
