//! `cargo xtask doctor`: what this machine has, what is missing and the command that fixes it.

use crate::{
    libtorch,
    workspace::{Workspace, free_bytes, gigabytes},
};
use std::{env, fs, path::Path, process::Command, process::ExitCode};

const BUILD_BYTES: u64 = 6_000_000_000; // one release build and its tests
const CACHE_BYTES: u64 = 3_000_000_000; // libtorch while it is unpacked
const MEMORY_BYTES: u64 = 4_000_000_000; // the largest C++ file of torch-sys beside one rustc

enum Outcome {
    Good,
    /// Works, but the reader should know.
    Note,
    /// Something needed is missing.
    Problem,
}

struct Line {
    name: &'static str,
    outcome: Outcome,
    text: String,
}

/// Prints one line per thing that is needed; fails when one is missing.
pub fn doctor(workspace: &Workspace) -> ExitCode {
    let lines = [
        rust("rustc"),
        rust("cargo"),
        compiler(),
        python(),
        libtorch_line(workspace),
        driver(workspace),
        machine(),
        memory(),
        disk("disk (build)", &workspace.target, BUILD_BYTES, "CARGO_TARGET_DIR"),
        cache_disk(),
    ];
    let mut problems = 0;
    for line in &lines {
        let mark = match line.outcome {
            Outcome::Good => "ok     ",
            Outcome::Note => "note   ",
            Outcome::Problem => "PROBLEM",
        };
        problems += usize::from(matches!(line.outcome, Outcome::Problem));
        println!("{mark}  {:<13} {}", line.name, line.text);
    }
    match problems {
        0 => println!("everything needed is here"),
        1 => println!("1 problem"),
        many => println!("{many} problems"),
    }
    if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn good(name: &'static str, text: impl Into<String>) -> Line {
    Line { name, outcome: Outcome::Good, text: text.into() }
}

fn note(name: &'static str, text: impl Into<String>) -> Line {
    Line { name, outcome: Outcome::Note, text: text.into() }
}

fn problem(name: &'static str, text: impl Into<String>) -> Line {
    Line { name, outcome: Outcome::Problem, text: text.into() }
}

fn rust(program: &'static str) -> Line {
    let needed = env!("CARGO_PKG_RUST_VERSION");
    let path = env::var_os(program.to_uppercase()).unwrap_or_else(|| program.into());
    let Some(text) = first_line(Command::new(path).arg("--version")) else {
        return problem(program, "not found; install Rust from https://rustup.rs");
    };
    match text.split_whitespace().nth(1) {
        Some(found) if numbers(found) >= numbers(needed) => good(program, format!("{found} (needs {needed})")),
        _ => problem(program, format!("`{text}`, needs {needed}; run `rustup update stable`")),
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
}

fn compiler() -> Line {
    let name = "C++ compiler";
    let program = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut words = program.split_whitespace();
    match first_line(Command::new(words.next().unwrap_or("c++")).args(words).arg("--version")) {
        Some(text) => good(name, format!("{program}: {text}")),
        None => problem(name, format!("`{program}` not found; on Debian and Ubuntu: apt-get install g++")),
    }
}

fn python() -> Line {
    let name = "python3, pip";
    let Some(version) = first_line(Command::new("python3").arg("--version")) else {
        return note(name, "not found; needed only to fetch libtorch: apt-get install python3 python3-pip");
    };
    match first_line(Command::new("python3").args(["-m", "pip", "--version"])) {
        Some(pip) => good(name, format!("{version}, {}", pip.split(" from ").next().unwrap_or(&pip))),
        None => note(name, format!("{version} without pip, which fetches libtorch: python3 -m ensurepip")),
    }
}

fn libtorch_line(workspace: &Workspace) -> Line {
    let name = "libtorch";
    match libtorch::find(workspace, false) {
        Ok(Some(found)) => {
            let kind = if found.has_cuda { "CPU and CUDA" } else { "CPU" };
            good(name, format!("{} ({kind}) at {}", found.version, found.root.display()))
        }
        Ok(None) if matches!(python().outcome, Outcome::Good) => {
            note(name, format!("{}; the first command fetches {}{}", "none yet", libtorch::VERSION, rejected()))
        }
        Ok(None) => problem(
            name,
            format!("none, and it cannot be fetched without pip; install pip, or use `--backend flex`{}", rejected()),
        ),
        Err(error) => problem(name, format!("{error:#}; unset LIBTORCH to have one found")),
    }
}

/// Why the PyTorch of `python3` is not used, if there is one.
fn rejected() -> String {
    let reason = libtorch::python_torch().and_then(|root| libtorch::inspect(&root).err());
    reason.map(|error| format!(" (the installed PyTorch is not used: {error:#})")).unwrap_or_default()
}

fn driver(workspace: &Workspace) -> Line {
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    let gpu = first_line(Command::new("nvidia-smi").args(query))
        .or_else(|| libtorch::has_nvidia_driver().then(|| "loaded (no `nvidia-smi` on PATH)".to_owned()));
    let found = libtorch::find(workspace, false).ok().flatten();
    let needed = found.as_ref().and_then(|found| cuda_of_libtorch(&found.root));
    cuda(gpu, cuda_of_driver().as_deref(), found.map(|found| found.has_cuda), needed.as_deref())
}

/// Whether `device: cuda` works, and why not: the GPU and its driver, the CUDA that the driver knows, whether libtorch
/// has CUDA, and the CUDA that it needs.
fn cuda(gpu: Option<String>, known: Option<&str>, has_cuda: Option<bool>, needed: Option<&str>) -> Line {
    let name = "NVIDIA driver";
    let major = |version: &str| numbers(version).first().copied();
    let Some(gpu) = gpu else {
        return note(name, "none: the CPU is used; for a GPU install one from https://www.nvidia.com/drivers");
    };
    match (has_cuda, known, needed) {
        (Some(false), ..) => note(
            name,
            format!("{gpu}, but libtorch is built without CUDA: the CPU is used; run `cargo xtask libtorch --cuda`"),
        ),
        (_, Some(known), Some(needed)) if major(known) < major(needed) => problem(
            name,
            format!(
                "{gpu}, which knows CUDA {known}, and libtorch needs {needed}: update it from \
                 https://www.nvidia.com/drivers"
            ),
        ),
        (_, Some(known), _) => good(name, format!("{gpu}, CUDA {known}")),
        _ => good(name, gpu),
    }
}

/// The newest CUDA that the driver knows, as `nvidia-smi` says: `13.0`.
fn cuda_of_driver() -> Option<String> {
    let output = Command::new("nvidia-smi").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split("CUDA Version:").nth(1)?.split_whitespace().next()?;
    Some(version.to_owned())
}

/// The CUDA that the libtorch of a wheel was built with, as the wheel says: `13.0`.
fn cuda_of_libtorch(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("version.py")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("cuda"))?;
    let version = line.split('\'').nth(1)?;
    Some(version.to_owned()).filter(|version| !version.is_empty())
}

fn machine() -> Line {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    good("processor", format!("{cores} cores, {} {}", env::consts::ARCH, env::consts::OS))
}

fn memory() -> Line {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let read = |key: &str| {
        let kib = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
        kib.and_then(|kib| kib.checked_mul(1024))
    };
    let (Some(total), Some(free)) = (read("MemTotal:"), read("MemAvailable:")) else {
        return note("memory", "unknown");
    };
    let shown = format!("{}, {} available", gigabytes(total), gigabytes(free));
    if free >= MEMORY_BYTES {
        return good("memory", shown);
    }
    note("memory", format!("{shown}; if a build is killed, run it with CARGO_BUILD_JOBS=1"))
}

fn cache_disk() -> Line {
    match libtorch::cache() {
        Ok(cache) => disk("disk (cache)", &cache, CACHE_BYTES, "XDG_CACHE_HOME"),
        Err(error) => problem("disk (cache)", format!("{error:#}")),
    }
}

fn disk(name: &'static str, dir: &Path, needed: u64, variable: &str) -> Line {
    let shown = dir.display();
    match free_bytes(dir) {
        Some(free) if free >= needed => good(name, format!("{} free at {shown}", gigabytes(free))),
        Some(free) => {
            let needs = gigabytes(needed);
            note(
                name,
                format!(
                    "{} free at {shown}, a first build needs {needs}; make room or set {variable}",
                    gigabytes(free)
                ),
            )
        }
        None => note(name, format!("free space at {shown} is unknown")),
    }
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.100.0") > numbers("1.90"));
        assert!(numbers("1.90.0-beta.1") >= numbers("1.90"));
        assert!(numbers("1.89.1") < numbers("1.90"));
    }

    #[test]
    fn the_driver_line_says_which_part_of_cuda_is_missing() {
        let gpu = || Some("H100, 550.54".to_owned());
        let text = |line: Line| line.text;
        assert!(text(cuda(None, None, Some(true), None)).contains("none: the CPU is used"));
        assert!(text(cuda(gpu(), Some("12.4"), Some(false), None)).contains("`cargo xtask libtorch --cuda`"));
        let old = cuda(gpu(), Some("12.4"), Some(true), Some("13.0"));
        assert!(
            matches!(old.outcome, Outcome::Problem) && old.text.contains("knows CUDA 12.4, and libtorch needs 13.0")
        );
        let usable = cuda(gpu(), Some("13.1"), Some(true), Some("13.0"));
        assert!(matches!(usable.outcome, Outcome::Good) && usable.text.ends_with("CUDA 13.1"));
        assert!(matches!(cuda(gpu(), None, None, None).outcome, Outcome::Good));
    }

    #[test]
    fn a_program_that_is_not_there_has_no_first_line() {
        assert_eq!(first_line(&mut Command::new("no-such-program")), None);
        assert!(first_line(Command::new("python3").arg("--no-such-option")).is_none());
    }
}
