//! A plugin crate outside of `plugins/`: linked into the program by one dependency line.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::module_list::write_new;
use super::workspace::{Workspace, relative};
use super::{check_free, filled, kinds::KINDS};

const MANIFEST: &str = include_str!("../../../templates/crate/Cargo.toml.in");
const BUILD: &str = include_str!("../../../templates/crate/build.rs.in");
const CONFIG: &str = include_str!("../../../templates/crate/config.toml.in");
const OWN_WORKSPACE: &str = "\n# Remove this line to make the crate a member of your own workspace.\n[workspace]\n";
const PROJECTOR: &str = "projector"; // what the new crate holds

/// Writes the crate and prints the line that links it.
///
/// # Errors
/// The folder exists and is not empty, or cannot be written.
pub(super) fn write(workspace: &Workspace, name: &str, folder: &Path, out: &mut dyn Write) -> Result<()> {
    let is_free = fs::read_dir(folder).map_or(!folder.exists(), |mut entries| entries.next().is_none());
    if !is_free {
        bail!("new: `{}` exists already and is not an empty folder; choose another with --path", folder.display());
    }
    const FILES: [&str; 4] = ["lib", "main", "build", "test"];
    if FILES.contains(&name) {
        bail!("new: a crate `{name}` would have two files of one name; choose another, such as `my_{name}`");
    }
    let kind = KINDS.iter().find(|kind| kind.name == PROJECTOR).context("new: projectors have no template")?;
    check_free(kind, name)?;
    let manifest = workspace.root.join("experiments/Cargo.toml");
    let is_dependency = |line: &str| line.split(['.', ' ', '=']).next() == Some(name);
    if fs::read_to_string(&manifest).is_ok_and(|text| text.lines().any(is_dependency)) {
        bail!("new: experiments/Cargo.toml has a dependency `{name}` already; choose another name");
    }
    fs::create_dir_all(folder).with_context(|| format!("new: {}: cannot be made", folder.display()))?;
    let absolute = folder.canonicalize().with_context(|| format!("new: {}: cannot be found", folder.display()))?;
    let to_root = portable(&relative(&absolute, &workspace.root))?;
    // Cargo makes a crate inside the tree a member by itself, and takes one below another workspace for a lost member.
    let root = if absolute.starts_with(&workspace.root) { "" } else { OWN_WORKSPACE };
    for (path, text) in [
        ("Cargo.toml", format!("{MANIFEST}{root}").as_str()),
        ("build.rs", BUILD),
        (".cargo/config.toml", CONFIG),
        ("src/lib.rs", "//! Plugins of my own.\n\npub mod my_idea;\n"),
        (&format!("src/{name}.rs"), kind.template),
    ] {
        let file = absolute.join(path);
        let parent = file.parent().unwrap_or(&absolute);
        fs::create_dir_all(parent).with_context(|| format!("new: {}: cannot be made", parent.display()))?;
        let text = filled(text, name).replace("PATH_TO_REALIGN", &to_root);
        write_new(&file, &text).with_context(|| format!("new: {}", file.display()))?;
    }
    let from_experiments = portable(&relative(&workspace.root.join("experiments"), &absolute))?;
    writeln!(out, "wrote {}", folder.display())?;
    writeln!(out, "next: add this line to experiments/Cargo.toml, below the line `realign-plugins.workspace = true`:")?;
    writeln!(out, "  {name} = {{ path = \"{from_experiments}\", default-features = false }}")?;
    writeln!(out, "then:\n  cargo xtask plugins show {name}")?;
    writeln!(out, "  cargo xtask run recipes/sit-irepa.yaml --set alignment.0.projector.type={name}")?;
    Ok(())
}

/// A path that a TOML string can hold.
fn portable(path: &Path) -> Result<String> {
    let text = PathBuf::from(path).into_os_string().into_string().ok();
    let text = text.filter(|text| !text.contains(['"', '\\', '\n']));
    text.with_context(|| {
        format!("new: `{}` has letters that Cargo.toml cannot hold; choose another folder", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in ["w/experiments/Cargo.toml", "w/plugins/src/lib.rs"] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    #[test]
    fn the_crate_points_at_the_workspace_and_prints_its_line() {
        let folder = tree();
        let workspace = Workspace::around(&folder.path().join("w")).unwrap();
        let mut out = vec![];
        write(&workspace, "low_rank", &folder.path().join("low_rank"), &mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.contains("  low_rank = { path = \"../../low_rank\", default-features = false }"), "{said}");
        let read = |path: &str| fs::read_to_string(folder.path().join("low_rank").join(path)).unwrap();
        assert!(read("Cargo.toml").contains("realign = { path = \"../w/framework\""));
        assert!(read("Cargo.toml").ends_with("\n[workspace]\n"));
        assert!(read("build.rs").contains("\"../w/framework/rpath.rs\""));
        assert!(read("src/low_rank.rs").contains("LowRankConfig"));
        assert_eq!(read("src/lib.rs"), "//! Plugins of my own.\n\npub mod low_rank;\n");
        write(&workspace, "my_idea_2", &folder.path().join("my_idea_2"), &mut vec![]).unwrap();
        let lib = fs::read_to_string(folder.path().join("my_idea_2/src/lib.rs")).unwrap();
        assert!(lib.ends_with("pub mod my_idea_2;\n"), "{lib}");
        fs::write(folder.path().join("w/experiments/Cargo.toml"), "[dependencies]\nimage.workspace = true\n").unwrap();
        let taken =
            [("main", "two files"), ("image", "a dependency `image`"), ("projector", "would define `Projector`")];
        for (name, words) in taken {
            let error = write(&workspace, name, &folder.path().join(name), &mut vec![]).unwrap_err().to_string();
            assert!(error.contains(words) && !folder.path().join(name).exists(), "{error}");
        }
    }

    #[test]
    fn a_crate_in_the_tree_is_a_member_of_its_workspace() {
        let folder = tree();
        let workspace = Workspace::around(&folder.path().join("w")).unwrap();
        write(&workspace, "low_rank", &folder.path().join("w/low_rank"), &mut vec![]).unwrap();
        let manifest = fs::read_to_string(folder.path().join("w/low_rank/Cargo.toml")).unwrap();
        assert!(!manifest.contains("[workspace]"), "{manifest}");
    }

    #[test]
    fn a_folder_in_use_is_left_alone() {
        let folder = tree();
        let workspace = Workspace::around(&folder.path().join("w")).unwrap();
        let error = write(&workspace, "a", &folder.path().join("w"), &mut vec![]).unwrap_err().to_string();
        assert!(error.contains("not an empty folder"), "{error}");
    }

    #[test]
    fn versions_are_those_of_the_workspace() {
        let workspace = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml")).unwrap();
        for line in MANIFEST.lines().filter(|line| !line.contains("PATH_TO_REALIGN")) {
            let Some((name, spec)) = line
                .split_once(" = ")
                .filter(|(name, _)| ["anyhow", "burn", "schemars", "serde", "typetag"].contains(name))
            else {
                continue;
            };
            assert!(workspace.contains(&format!("{name} = {spec}")), "{line}");
        }
    }
}
