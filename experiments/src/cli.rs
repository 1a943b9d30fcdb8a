//! From the command line to a command and an exit code.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::Parser;

use crate::commands::Command;

/// Trains and samples diffusion transformers with representation alignment, as a recipe says.
#[derive(Debug, Parser)]
#[command(name = "realign", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Reads the command line, runs the command and reports what went wrong.
///
/// Exit codes: 0 done, 1 the command failed, 2 the command line is wrong. A reader that closes our output early
/// (`realign plugins list | head`) is no failure.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => exit_code(run(cli.command)),
        Err(usage) => {
            let code = if usage.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
            // Nobody is left to tell when the terminal is gone.
            let _ = usage.print();
            code
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    realign::registry::check_names()?;
    let mut out = io::stdout().lock();
    let code = realign::ops::guard_known(|| command.run(&mut out))?;
    out.flush()?;
    Ok(code)
}

fn exit_code(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|io| io.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_a_closed_output_is_quiet() {
        let closed = Err(io::Error::from(ErrorKind::BrokenPipe)).context("cannot list");
        assert_eq!(exit_code(closed), ExitCode::SUCCESS);
        let full = Err(io::Error::from(ErrorKind::StorageFull)).context("cannot list");
        assert_eq!(exit_code(full), ExitCode::FAILURE);
    }
}
