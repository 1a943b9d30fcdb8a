//! Checkpoint folders on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::files::sha256;

const MANIFEST: &str = "manifest.json";
/// Begins the name of a folder that is still being written.
const ASIDE: &str = ".writing-";

/// A checkpoint folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpoint {
    /// Step in its name.
    pub step: u64,
    /// The folder.
    pub path: PathBuf,
}

/// All checkpoints of a folder, oldest first, whole or not; none when the folder is absent.
pub fn checkpoints(folder: &Path) -> Vec<Checkpoint> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let named = |entry: fs::DirEntry| {
        let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
        Some(Checkpoint { step, path: entry.path() })
    };
    let mut found: Vec<_> = entries.flatten().filter_map(named).collect();
    found.sort();
    found
}

/// The newest whole checkpoint, and what was wrong with newer ones.
pub fn newest(folder: &Path) -> (Option<Checkpoint>, Vec<String>) {
    let mut problems = vec![];
    for checkpoint in checkpoints(folder).into_iter().rev() {
        match verify_folder(&checkpoint.path) {
            Ok(()) => return (Some(checkpoint), problems),
            Err(problem) => problems.push(format!("skipped `{}`: {problem:#}", checkpoint.path.display())),
        }
    }
    (None, problems)
}

/// Compares a checkpoint with its manifest.
///
/// # Errors
/// A file is not what was written.
pub fn verify(checkpoint: &Checkpoint) -> Result<()> {
    verify_folder(&checkpoint.path).with_context(|| format!("`{}`", checkpoint.path.display()))
}

/// Deletes all but the newest `keep` checkpoints up to the `saved` step and those of steps that `keep_every` divides, and
/// what interrupted saves left; with a `keep_every` of 0 only the newest are kept.
///
/// Those of later steps are damaged, or the run would have begun there: they do not count, and are written over in time.
pub fn prune(folder: &Path, saved: u64, keep: usize, keep_every: u64) {
    let mut found = checkpoints(folder);
    found.retain(|checkpoint| checkpoint.step <= saved);
    let is_kept = |checkpoint: &&Checkpoint| keep_every > 0 && checkpoint.step.is_multiple_of(keep_every);
    for old in found[..found.len().saturating_sub(keep.max(1))].iter().filter(|old| !is_kept(old)) {
        // Renamed first: a folder that is half deleted must not look like a checkpoint.
        let aside = folder.join(format!("{ASIDE}old-{:07}", old.step));
        if fs::rename(&old.path, &aside).is_ok() {
            let _ = fs::remove_dir_all(aside);
        }
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(ASIDE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Writes a checkpoint's files with `fill` aside, adds the manifest, syncs and renames.
pub(super) fn write(folder: &Path, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let aside = folder.join(format!("{ASIDE}step-{step:07}"));
    let path = folder.join(format!("step-{step:07}"));
    let result = (|| {
        if aside.exists() {
            fs::remove_dir_all(&aside).with_context(|| format!("cannot remove `{}`", aside.display()))?;
        }
        fs::create_dir_all(&aside).with_context(|| format!("cannot make `{}`", aside.display()))?;
        fill(&aside)?;
        let manifest = serde_json::to_string_pretty(&hashes(&aside)?).context("cannot write the manifest")?;
        write_file(&aside.join(MANIFEST), manifest.as_bytes())?;
        sync_folder(&aside)?;
        if path.exists() {
            // The same step saved again, or a broken folder of that name.
            let old = folder.join(format!("{ASIDE}old-{step:07}"));
            fs::rename(&path, &old).with_context(|| format!("cannot replace `{}`", path.display()))?;
        }
        fs::rename(&aside, &path).with_context(|| format!("cannot rename to `{}`", path.display()))?;
        sync_folder(folder)
    })();
    if let Err(problem) = result {
        let _ = fs::remove_dir_all(&aside);
        return Err(problem.context("the checkpoint was not saved"));
    }
    Ok(path)
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}

fn verify_folder(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path.join(MANIFEST)).context("its manifest cannot be read")?;
    let expected: BTreeMap<String, String> = serde_json::from_str(&text).context("its manifest is not whole")?;
    ensure!(!expected.is_empty(), "its manifest is empty");
    for (name, hash) in &expected {
        // A manifest names files of its own folder only.
        ensure!(!name.contains(['/', '\\']), "its manifest names `{name}`");
        if sha256(&path.join(name))? != *hash {
            bail!("`{name}` is not what was written");
        }
    }
    Ok(())
}

fn hashes(folder: &Path) -> Result<BTreeMap<String, String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let mut hashes = BTreeMap::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list `{}`", folder.display()))?;
        hashes.insert(entry.file_name().to_string_lossy().into_owned(), sha256(&entry.path())?);
    }
    Ok(hashes)
}

fn sync_folder(path: &Path) -> Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().with_context(|| format!("cannot sync `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(folder: &Path, step: u64) -> PathBuf {
        write(folder, step, |aside| write_file(&aside.join("a"), &step.to_le_bytes())).unwrap()
    }

    #[test]
    fn a_damaged_checkpoint_is_skipped_for_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 3);
        let damaged = save(folder.path(), 20);
        fs::write(damaged.join("a"), b"x").unwrap();
        let (found, problems) = newest(folder.path());
        assert_eq!(found.unwrap().step, 3);
        assert!(problems[0].contains("`a` is not what was written"), "{problems:?}");
    }

    #[test]
    fn a_failed_save_leaves_the_previous_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 3);
        assert!(write(folder.path(), 5, |_| bail!("disk full")).is_err());
        assert_eq!(newest(folder.path()).0.unwrap().step, 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn pruning_keeps_the_newest_and_removes_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        for step in [1, 2, 4, 10, 9] {
            save(folder.path(), step);
        }
        fs::create_dir(folder.path().join(".writing-step-0000011")).unwrap();
        let left = || checkpoints(folder.path()).iter().map(|found| found.step).collect::<Vec<_>>();
        prune(folder.path(), 10, 2, 4);
        assert_eq!(left(), [4, 9, 10]);
        prune(folder.path(), 10, 2, 0);
        assert_eq!(left(), [9, 10]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn damaged_checkpoints_of_later_steps_do_not_push_out_good_ones() {
        let folder = tempfile::tempdir().unwrap();
        for step in [3, 5, 30, 40] {
            save(folder.path(), step);
        }
        prune(folder.path(), 5, 1, 0);
        assert_eq!(checkpoints(folder.path()).iter().map(|found| found.step).collect::<Vec<_>>(), [5, 30, 40]);
    }
}
