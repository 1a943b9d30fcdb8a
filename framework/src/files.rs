//! Files that appear whole, and their hashes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Writes `bytes` beside `path`, then renames: whoever looks sees the file before or the file after, never a half.
///
/// # Errors
/// The disk refuses; an older file of that name is then untouched.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = aside(path);
    let written = File::create(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        fs::remove_file(&aside).ok(); // it may not exist; the error that matters is reported below
    }
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

/// The name under which a file is written before it is renamed to `path`.
pub fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.partial", std::process::id()));
    aside.into()
}

/// SHA-256 of a file's bytes, in hexadecimal digits.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0u8; 1 << 16]);
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("cannot read `{}`", path.display()))?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_scraps() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("taken");
        fs::create_dir_all(taken.join("inside")).unwrap();
        assert!(write_whole(&taken, b"bytes").unwrap_err().to_string().contains("taken"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
