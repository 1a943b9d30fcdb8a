//! Reads the command line and chooses who answers it.

use crate::{doctor, fetch, gate, handover, libtorch, links, workspace::Workspace};
use anyhow::{Result, bail};
use std::{ffi::OsString, process::ExitCode};

/// Commands the `realign` program answers.
const HANDED_OVER: [&str; 20] = [
    "run",
    "sample",
    "eval",
    "explain",
    "check",
    "plugins",
    "new",
    "bench",
    "profile",
    "weights",
    "import",
    "export",
    "metrics",
    "rank",
    "correlate",
    "viz",
    "probe",
    "prepare",
    "reproduce",
    "plot",
];
/// Commands answered here.
const OWN: [&str; 4] = ["test", "doctor", "libtorch", "help"];

const HELP: &str = "\
Usage: cargo xtask <COMMAND> [OPTIONS]

  run RECIPE        train as the recipe says; the same command again continues the run
  sample RUN        draw pictures from a trained run
  eval WHAT         quality of a run's samples, or of pictures, against a reference
  prepare WHAT      crop pictures or compute latents once, before training
  explain RECIPE    the resolved recipe, where each value came from, sizes and costs
  check RECIPE      load, build and step one recipe
  rank              which encoder to align with, on your pictures
  metrics           spatial structure of encoders' features
  viz               self-similarity of features as heat maps
  correlate FILE    a metric against FID over encoders
  probe             linear and nearest-neighbor probes of encoders
  reproduce TABLE   a table or figure of the paper, run again, with a report
  plot RUN          curves of one run or several
  plugins           every plugin by kind, with its settings
  weights           what others published: list, get, verify
  import FILE       make a run of a published generator
  export RUN OUT    write a run's weights as other projects read them
  new KIND NAME     write a plugin file with a passing test
  bench             time our training step beside PyTorch's
  profile RECIPE    where a step's time goes, by operation, forward and backward

  test [FILTER]     the whole gate, cheapest check first;
                    FILTER is parity, contracts, cli, resume, recipes, extension or part of a test name
  doctor            what this machine has, what is missing and the command that fixes it
  libtorch          find or fetch libtorch and link it, so that plain `cargo build` works
  help              this text

Options read here (everything else goes to the command; `cargo xtask <COMMAND> --help` lists it):
  --backend flex    build and run without libtorch (pure Rust, CPU only, slower)
  --cuda            require a libtorch with CUDA, fetching NVIDIA's libraries (about 3 GB) if needed
";

/// Which tensor library the program is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// libtorch on CPU or CUDA.
    Libtorch,
    /// burn's pure Rust backend, which needs no libtorch.
    Flex,
}

/// A command line with the launcher's own options taken out.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The backend to build for.
    pub backend: Backend,
    /// Whether a libtorch with CUDA was asked for.
    pub wants_cuda: bool,
    /// The command and its arguments, in order.
    pub args: Vec<OsString>,
}

/// Answers one command line; errors go to stderr.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match dispatch(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: Vec<OsString>) -> Result<ExitCode> {
    let request = split(args)?;
    let command = request.args.first().map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
    let workspace = Workspace::new()?;
    match command.as_str() {
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        "test" => gate::test(&workspace, &request),
        "doctor" => Ok(doctor::doctor(&workspace)),
        "libtorch" => {
            let found = ensure_libtorch(&workspace, request.wants_cuda)?;
            println!("libtorch {} at {}", found.version, found.root.display());
            Ok(ExitCode::SUCCESS)
        }
        name if HANDED_OVER.contains(&name) => handover::hand_over(&workspace, &request),
        name => bail!("{}", unknown(name)),
    }
}

/// Makes `.libtorch` point at a usable libtorch, fetching one when the machine has none.
pub fn ensure_libtorch(workspace: &Workspace, wants_cuda: bool) -> Result<libtorch::Libtorch> {
    let found = match libtorch::find(workspace, wants_cuda)? {
        Some(found) => found,
        None => fetch::fetch(wants_cuda)?,
    };
    links::link(&workspace.links(), &found)?;
    Ok(found)
}

fn split(args: Vec<OsString>) -> Result<Request> {
    let mut request = Request { backend: Backend::Libtorch, wants_cuda: false, args: Vec::new() };
    let mut rest = args.into_iter();
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("--") => {
                request.args.push(arg);
                request.args.extend(rest);
                break;
            }
            Some("--cuda") => request.wants_cuda = true,
            Some("--backend") => match rest.next() {
                Some(value) => request.backend = backend(&value.to_string_lossy())?,
                None => bail!("--backend: a value is missing; known: flex, libtorch"),
            },
            Some(text) if text.starts_with("--backend=") => request.backend = backend(&text["--backend=".len()..])?,
            _ => request.args.push(arg),
        }
    }
    if request.backend == Backend::Flex && request.wants_cuda {
        bail!("--cuda has no effect with `--backend flex`, which runs on the CPU; leave one of them out");
    }
    Ok(request)
}

fn backend(value: &str) -> Result<Backend> {
    match value {
        "flex" => Ok(Backend::Flex),
        "libtorch" => Ok(Backend::Libtorch),
        other => bail!("--backend: unknown backend `{other}`; known: flex, libtorch"),
    }
}

fn unknown(name: &str) -> String {
    let known = || HANDED_OVER.into_iter().chain(OWN);
    let list = known().collect::<Vec<_>>().join(", ");
    let near = known().map(|word| (distance(name, word), word)).min().filter(|(far, word)| *far <= word.len() / 2);
    let hint = near.map(|(_, word)| format!("did you mean `{word}`? ")).unwrap_or_default();
    format!("unknown command `{name}`\n  {hint}known: {list}")
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_launchers_options_are_taken_out_wherever_they_stand() {
        let request = split(args("--cuda run a.yaml --backend libtorch --steps 3")).unwrap();
        assert_eq!(
            request,
            Request { backend: Backend::Libtorch, wants_cuda: true, args: args("run a.yaml --steps 3") }
        );
        assert_eq!(split(args("run a.yaml --backend=flex")).unwrap().backend, Backend::Flex);
    }

    #[test]
    fn nothing_after_two_dashes_is_taken_out() {
        let request = split(args("run -- --cuda --backend flex")).unwrap();
        assert_eq!(request.args, args("run -- --cuda --backend flex"));
        assert!(!request.wants_cuda);
    }

    #[test]
    fn impossible_options_are_refused_with_what_is_known() {
        assert!(split(args("run --backend jax")).unwrap_err().to_string().contains("known: flex, libtorch"));
        assert!(split(args("run --backend")).unwrap_err().to_string().contains("missing"));
        assert!(split(args("run --backend flex --cuda")).unwrap_err().to_string().contains("no effect"));
    }

    #[test]
    fn an_unknown_command_names_the_nearest_one() {
        assert!(unknown("smaple").contains("did you mean `sample`?"));
        assert!(unknown("docter").contains("did you mean `doctor`?"));
        assert!(!unknown("zzzzzzzzz").contains("did you mean"));
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "run"), 3);
        assert_eq!(distance("run", "run"), 0);
    }
}
