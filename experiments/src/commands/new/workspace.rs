//! The workspace that new files go to.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// A workspace with a folder of plugins.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Its root, without links.
    pub root: PathBuf,
}

impl Workspace {
    /// The workspace that a folder lies in.
    ///
    /// # Errors
    /// No folder on the way up has `plugins/src/lib.rs` and `experiments/Cargo.toml`.
    pub(super) fn around(folder: &Path) -> Result<Self> {
        let start = folder.canonicalize().with_context(|| format!("{}: cannot be found", folder.display()))?;
        let has_plugins = |root: &&Path| {
            ["plugins/src/lib.rs", "experiments/Cargo.toml"].iter().all(|file| root.join(file).is_file())
        };
        let root = start.ancestors().find(has_plugins).with_context(|| {
            format!("new: `{}` is not in a workspace of realign; run the command inside its folder", folder.display())
        })?;
        Ok(Self { root: root.to_path_buf() })
    }

    /// A path below the root as the user would write it there.
    pub(super) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// The way from one folder to another; both absolute and without links.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to.components().skip(shared)).collect();
    if way.as_os_str().is_empty() { PathBuf::from(".") } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_up_and_down() {
        let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to)).display().to_string();
        assert_eq!(way("/w/experiments", "/w/my_crate"), "../my_crate");
        assert_eq!(way("/w/experiments", "/elsewhere/a"), "../../elsewhere/a");
        assert_eq!(way("/w", "/w/a/b"), "a/b");
        assert_eq!(way("/w", "/w"), ".");
    }

    #[test]
    fn a_folder_outside_of_a_workspace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Workspace::around(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not in a workspace of realign"), "{error}");
    }
}
