//! Runs the program in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const LINES_OF_A_SCREEN: usize = 24;

/// A temporary folder with the project's recipes.
pub struct Desk {
    folder: tempfile::TempDir,
}

/// What the program answered.
pub struct Answer {
    /// Exit code; 128 and more for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Desk {
    /// A fresh folder with a copy of `recipes/`.
    pub fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        copy(&project().join("recipes"), &desk.path("recipes"));
        desk
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Runs the program with this folder as the current one.
    pub fn run(&self, args: &[&str]) -> Answer {
        Answer::from(self.command(args).output().unwrap())
    }

    /// The command, to be changed before it runs.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_realign-under-test"));
        // Whoever runs the tests may have settings of their own.
        command.args(args).current_dir(self.folder.path()).env("XDG_CONFIG_HOME", self.path("config"));
        command
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(255), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Answer {
    /// What keeps this from being a good refusal; nothing when it says all of `words` on one screen.
    pub fn faults(&self, words: &[&str]) -> Vec<String> {
        let mut faults = vec![];
        if self.code != 1 {
            faults.push(format!("exit code {}", self.code));
        }
        if !self.err.starts_with("error: ") || self.err.contains("panicked") {
            faults.push("not an error message".into());
        }
        if self.err.lines().count() > LINES_OF_A_SCREEN {
            faults.push(format!("{} lines", self.err.lines().count()));
        }
        faults.extend(
            words.iter().filter(|word| !self.err.contains(**word)).map(|word| format!("does not say `{word}`")),
        );
        faults
    }

    /// Panics unless the program refused, saying all of `words`.
    pub fn assert_refused(&self, words: &[&str]) {
        let faults = self.faults(words);
        assert!(faults.is_empty(), "{faults:?}\n{}\n{}", self.out, self.err);
    }

    /// Panics unless the program succeeded.
    pub fn assert_done(&self) {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
    }
}

/// Root of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
