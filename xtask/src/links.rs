//! The folder of links, `.libtorch`, that every build of the workspace reads libtorch through.
//!
//! ```text
//! .libtorch/origin        the folder in use; build scripts watch it
//! .libtorch/include    -> its headers
//! .libtorch/lib        -> torch/lib
//! .libtorch/torch/lib/    one link per library, and the stand-ins below
//! .libtorch/nvidia     -> CUDA libraries beside it, where the linker looks for what libtorch needs
//! ```
//!
//! One program serves CPU and CUDA: it loads libtorch_cuda at run time, from the folder libtorch_cpu came from.
//! So on Linux `libtorch_cuda.so` is a linker script here: burn-tch sees a CUDA build, the linker records nothing.

use crate::libtorch::Libtorch;
use anyhow::{Context, Result};
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const STAND_INS: [(&str, &str); 2] =
    [("libtorch_cuda.so", "/* loaded at run time */\nINPUT(-lc10)\n"), ("libtorch.so", "INPUT(-ltorch_cpu)\n")];

/// Makes `links` point at `found`; does nothing when it does already.
///
/// The new folder is made aside and renamed, so that a build beside this one never sees half of it.
///
/// # Errors
/// When the workspace folder cannot be written.
pub fn link(links: &Path, found: &Libtorch) -> Result<()> {
    let origin = format!("{}\n{} links-1\n", found.root.display(), found.version);
    let is_current = || fs::read_to_string(links.join("origin")).is_ok_and(|text| text == origin);
    if is_current() {
        return Ok(());
    }
    let aside = links.with_extension(format!("new-{}", std::process::id()));
    let outcome = fill(&aside, &found.root, &origin).and_then(|()| replace(links, &aside));
    if outcome.is_err() {
        let _ = fs::remove_dir_all(&aside);
        if is_current() {
            return Ok(()); // another command made the same links meanwhile
        }
    }
    outcome.with_context(|| format!("{}: the links to libtorch cannot be made", links.display()))
}

/// The folder that `links` points at.
pub fn origin(links: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(links.join("origin")).ok()?;
    text.lines().next().map(PathBuf::from)
}

fn fill(aside: &Path, root: &Path, origin: &str) -> io::Result<()> {
    let lib = aside.join("torch/lib");
    fs::create_dir_all(&lib)?;
    symlink("torch/lib", aside.join("lib"))?;
    symlink(root.join("include"), aside.join("include"))?;
    if let Some(nvidia) = root.parent().map(|site| site.join("nvidia")).filter(|dir| dir.is_dir()) {
        symlink(nvidia, aside.join("nvidia"))?;
    }
    for entry in fs::read_dir(root.join("lib"))? {
        let entry = entry?;
        let name = entry.file_name();
        if !STAND_INS.iter().any(|(stand_in, _)| name == *stand_in) && entry.path().is_file() {
            symlink(entry.path(), lib.join(name))?;
        }
    }
    if cfg!(target_os = "linux") {
        for (name, script) in STAND_INS {
            fs::write(lib.join(name), script)?;
        }
    }
    fs::write(aside.join("origin"), origin)
}

fn replace(links: &Path, aside: &Path) -> io::Result<()> {
    let stale = links.with_extension(format!("old-{}", std::process::id()));
    match fs::rename(links, &stale) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let outcome = fs::rename(aside, links);
    if stale.is_symlink() { fs::remove_file(&stale) } else { fs::remove_dir_all(&stale) }.ok();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        libtorch::{inspect, tests::fake_torch},
        workspace::test_folder,
    };

    #[test]
    fn links_are_made_kept_and_replaced() {
        let folder = test_folder("links");
        let links = folder.join(".libtorch");
        for site in ["one", "two"] {
            let found = inspect(&fake_torch(&folder.join(site), 11)).unwrap();
            link(&links, &found).unwrap();
            assert_eq!(origin(&links).unwrap(), found.root);
            assert_eq!(fs::canonicalize(links.join("lib/libc10.so")).unwrap(), found.root.join("lib/libc10.so"));
            assert!(links.join("lib/../../nvidia/cu13/lib/libcudart.so.13").exists());
            let made = fs::metadata(links.join("origin")).unwrap().modified().unwrap();
            link(&links, &found).unwrap();
            assert_eq!(fs::metadata(links.join("origin")).unwrap().modified().unwrap(), made);
        }
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_cuda_library_is_always_a_stand_in() {
        let folder = test_folder("stand-in");
        let root = fake_torch(&folder, 11);
        fs::write(root.join("lib/libtorch_cuda.so"), "elf").unwrap();
        let links = folder.join(".libtorch");
        link(&links, &inspect(&root).unwrap()).unwrap();
        assert!(fs::read_to_string(links.join("lib/libtorch_cuda.so")).unwrap().contains("INPUT"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn links_made_by_hand_are_replaced() {
        let folder = test_folder("by-hand");
        let root = fake_torch(&folder, 11);
        let links = folder.join(".libtorch");
        symlink(&root, &links).unwrap();
        link(&links, &inspect(&root).unwrap()).unwrap();
        assert!(links.join("origin").is_file());
        assert!(root.join("lib").is_dir());
        fs::remove_dir_all(folder).unwrap();
    }
}
