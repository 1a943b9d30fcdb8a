//! Where the workspace lies, and cargo commands that run in it.

use crate::cli::Backend;
use anyhow::{Context, Result};
use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace folder and the folder cargo builds into.
pub struct Workspace {
    /// Folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// `CARGO_TARGET_DIR`, or `target` under the root.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds the workspace this program was built from.
    ///
    /// # Errors
    /// When the working directory or the workspace folder is gone.
    pub fn new() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).join("..");
        let root = root.canonicalize().with_context(|| format!("{}: no workspace here", root.display()))?;
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => env::current_dir().context("the working directory is gone")?.join(dir),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Folder of links to the libtorch in use.
    pub fn links(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// Build folder of a backend; each keeps its own, so that switching does not rebuild.
    pub fn target(&self, backend: Backend) -> PathBuf {
        match backend {
            Backend::Libtorch => self.target.clone(),
            Backend::Flex => self.target.join("flex"),
        }
    }

    /// Path of the release `realign` program.
    pub fn program(&self, backend: Backend) -> PathBuf {
        self.target(backend).join("release").join(format!("realign{}", env::consts::EXE_SUFFIX))
    }

    /// A cargo command in the workspace root, free of what the outer `cargo run` added.
    pub fn cargo(&self, backend: Backend) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", self.target(backend));
        self.clean(&mut command);
        // The program is looked for where cargo puts it without one.
        command.env_remove("CARGO_BUILD_TARGET");
        if backend == Backend::Libtorch {
            // They would win over the libtorch that was found.
            for name in ["LIBTORCH_USE_PYTORCH", "LIBTORCH_LIB", "LIBTORCH_INCLUDE", "LIBTORCH_STATIC"] {
                command.env_remove(name);
            }
            command.env("LIBTORCH", self.links()).env("LIBTORCH_BYPASS_VERSION_CHECK", "1");
        }
        command
    }

    /// Takes out of a child's environment what the outer `cargo run` put in.
    pub fn clean(&self, command: &mut Command) {
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_package_variable) {
                command.env_remove(&name);
            }
        }
        if env::var_os("LIBTORCH").is_some_and(|dir| Path::new(&dir) == self.links()) {
            command.env_remove("LIBTORCH");
        }
        if let Some(paths) = env::var_os("LD_LIBRARY_PATH") {
            match self.library_path(&paths) {
                Some(kept) => command.env("LD_LIBRARY_PATH", kept),
                None => command.env_remove("LD_LIBRARY_PATH"),
            };
        }
    }

    fn library_path(&self, paths: &OsStr) -> Option<OsString> {
        let outer = |dir: &Path| dir.starts_with(&self.target) || dir.to_string_lossy().contains("/rustlib/");
        let kept: Vec<PathBuf> = env::split_paths(paths).filter(|dir| !outer(dir)).collect();
        env::join_paths(kept).ok().filter(|kept| !kept.is_empty())
    }
}

fn is_package_variable(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_PRIMARY_PACKAGE"
}

/// Free bytes on the file system that holds `dir` or its nearest existing parent; `None` when `df` cannot tell.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let existing = dir.ancestors().find(|parent| parent.exists())?;
    let output = Command::new("df").arg("-Pk").arg(existing).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes as gigabytes with one digit.
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// A new empty folder for one test.
#[cfg(test)]
pub fn test_folder(name: &str) -> PathBuf {
    let dir = env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace { root: "/w".into(), target: "/w/target".into() }
    }

    #[test]
    fn each_backend_builds_into_its_own_folder() {
        assert_eq!(workspace().program(Backend::Libtorch), Path::new("/w/target/release/realign"));
        assert_eq!(workspace().program(Backend::Flex), Path::new("/w/target/flex/release/realign"));
    }

    #[test]
    fn library_folders_of_the_outer_cargo_are_dropped() {
        let paths = OsStr::new("/w/target/debug/deps:/home/u/toolchain/lib/rustlib/x/lib:/opt/lib");
        assert_eq!(workspace().library_path(paths).unwrap(), "/opt/lib");
        assert_eq!(workspace().library_path(OsStr::new("/w/target/debug")), None);
    }

    #[test]
    fn free_space_of_a_folder_that_is_not_there_yet_is_its_parents() {
        assert!(free_bytes(Path::new("/no/such/folder")).is_some_and(|bytes| bytes > 0));
    }
}
