//! Finds a usable libtorch on this machine.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The version that is fetched; any patch release of it is accepted.
pub const VERSION: &str = "2.11.0";
const SERIES: &str = "2.11.";

const LIBRARY: &str = if cfg!(target_os = "macos") { "libtorch_cpu.dylib" } else { "libtorch_cpu.so" };

/// Prints the folder of the installed PyTorch without importing it.
const FIND_TORCH: &str = "
import importlib.util, os
spec = importlib.util.find_spec('torch')
print(os.path.dirname(spec.origin) if spec and spec.origin else '')
";

/// A libtorch that was checked and can be linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libtorch {
    /// Folder that holds `lib` and `include`.
    pub root: PathBuf,
    /// Version from its headers.
    pub version: String,
    /// Whether its CUDA library is there.
    pub has_cuda: bool,
}

/// Looks at `$LIBTORCH`, the libtorch linked before, the PyTorch of `python3` and the user's cache, in this order.
///
/// # Errors
/// When the user's own `$LIBTORCH` is not usable, or has no CUDA and `wants_cuda` holds.
pub fn find(workspace: &Workspace, wants_cuda: bool) -> Result<Option<Libtorch>> {
    if let Some(root) = users_choice(&workspace.links()) {
        let found = inspect(&root).context("the libtorch that $LIBTORCH names cannot be used")?;
        if wants_cuda && !found.has_cuda {
            bail!("LIBTORCH={}: no CUDA library in `lib`; unset LIBTORCH, or leave out --cuda", root.display());
        }
        return Ok(Some(found));
    }
    let usable = |root: PathBuf| inspect(&root).ok().filter(|found| found.has_cuda || !wants_cuda);
    let linked = || crate::links::origin(&workspace.links()).and_then(usable);
    let installed = || python_torch().and_then(usable);
    let cached = || cache().ok().map(|dir| site(&dir).join("torch")).and_then(usable);
    Ok(linked().or_else(installed).or_else(cached))
}

/// `$LIBTORCH`, unless it is only the folder of links that `.cargo/config.toml` names.
fn users_choice(links: &Path) -> Option<PathBuf> {
    let root = PathBuf::from(env::var_os("LIBTORCH").filter(|dir| !dir.is_empty())?);
    (!is_same_place(&root, links)).then_some(root)
}

/// Compares through the parents, because the folder of links may not exist yet.
fn is_same_place(a: &Path, b: &Path) -> bool {
    let parent = |path: &Path| path.parent().and_then(|dir| dir.canonicalize().ok());
    a == b || (a.file_name() == b.file_name() && parent(a).is_some() && parent(a) == parent(b))
}

/// The folder of the PyTorch installed for `python3`, if any.
pub fn python_torch() -> Option<PathBuf> {
    // The working directory is on Python's path: a folder named `torch` there would be found instead.
    let output = Command::new("python3").args(["-c", FIND_TORCH]).current_dir("/").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then(|| PathBuf::from(text))
}

/// The user's cache folder for this project.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(base.context("no cache folder: set XDG_CACHE_HOME or HOME to an absolute path")?.join("realign"))
}

/// The folder inside the cache that a fetched libtorch is unpacked into.
pub fn site(cache: &Path) -> PathBuf {
    cache.join(format!("libtorch-{VERSION}"))
}

/// Checks that a folder holds a libtorch that can be compiled against, linked and loaded.
///
/// # Errors
/// Names the first thing that is missing or does not fit.
pub fn inspect(root: &Path) -> Result<Libtorch> {
    let shown = root.display();
    if !root.join("lib").join(LIBRARY).is_file() {
        bail!("{shown}: no `lib/{LIBRARY}`");
    }
    let header = root.join("include/torch/headeronly/version.h");
    let text = fs::read_to_string(&header).with_context(|| format!("{}: cannot be read", header.display()))?;
    let version = header_version(&text).with_context(|| format!("{}: states no version", header.display()))?;
    if !version.starts_with(SERIES) {
        bail!("{shown}: libtorch `{version}`, needs {SERIES}*");
    }
    if !root.join("include/torch/csrc/api/include/torch/torch.h").is_file() {
        bail!("{shown}: the C++ headers are missing");
    }
    let root = root.canonicalize().with_context(|| format!("{shown}: cannot be resolved"))?;
    for library in runtime_libraries(&root) {
        if !is_beside(&root, &library) {
            bail!("{shown}: `{library}`, which {LIBRARY} needs, is neither in `lib` nor in `../nvidia/*/lib`");
        }
    }
    let has_cuda = root.join("lib/libtorch_cuda.so").is_file();
    Ok(Libtorch { root, version, has_cuda })
}

fn header_version(header: &str) -> Option<String> {
    let number = |name: &str| {
        let rest = header.lines().find_map(|line| line.trim().strip_prefix("#define")?.trim().strip_prefix(name))?;
        rest.trim().parse::<u32>().ok()
    };
    let [major, minor, patch] = ["MAJOR", "MINOR", "PATCH"].map(|part| number(&format!("TORCH_VERSION_{part} ")));
    Some(format!("{}.{}.{}", major?, minor?, patch?))
}

/// The CUDA libraries that even the CPU library of a Python wheel is linked to, for example `libcudart.so.13`.
fn runtime_libraries(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("version.py")).unwrap_or_default();
    let cuda = text.lines().find_map(|line| line.strip_prefix("cuda")?.split('=').nth(1).map(str::trim));
    let major = cuda.and_then(|value| value.trim_matches(['\'', '"']).split('.').next()?.parse::<u32>().ok());
    let names = |major: u32| ["libcudart", "libcupti"].map(|name| format!("{name}.so.{major}")).to_vec();
    major.map(names).unwrap_or_default()
}

fn is_beside(root: &Path, library: &str) -> bool {
    let packages = root.parent().and_then(|site| fs::read_dir(site.join("nvidia")).ok());
    let beside = packages.into_iter().flatten().flatten().map(|entry| entry.path().join("lib"));
    beside.chain([root.join("lib")]).any(|dir| dir.join(library).exists())
}

/// Whether an NVIDIA driver is loaded.
pub fn has_nvidia_driver() -> bool {
    let asks = || Command::new("nvidia-smi").arg("-L").output().is_ok_and(|output| output.status.success());
    Path::new("/proc/driver/nvidia/version").exists() || asks()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::workspace::test_folder;

    /// A site folder with the files of a wheel's CPU libtorch; returns its `torch` folder.
    pub fn fake_torch(site: &Path, minor: u32) -> PathBuf {
        let root = site.join("torch");
        let header = format!(
            "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR {minor}\n#define TORCH_VERSION_PATCH 0\n"
        );
        write(&root.join("include/torch/headeronly/version.h"), &header);
        write(&root.join("include/torch/csrc/api/include/torch/torch.h"), "");
        write(&root.join("lib").join(LIBRARY), "elf");
        write(&root.join("lib/libc10.so"), "elf");
        write(&root.join("version.py"), "__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\n");
        write(&site.join("nvidia/cu13/lib/libcudart.so.13"), "elf");
        write(&site.join("nvidia/cu13/lib/libcupti.so.13"), "elf");
        root
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_whole_wheel_is_usable_and_says_whether_it_has_cuda() {
        let site = test_folder("whole");
        let root = fake_torch(&site, 11);
        let found = inspect(&root).unwrap();
        assert_eq!((found.version.as_str(), found.has_cuda), ("2.11.0", false));
        write(&root.join("lib/libtorch_cuda.so"), "elf");
        assert!(inspect(&root).unwrap().has_cuda);
        fs::remove_dir_all(site).unwrap();
    }

    #[test]
    fn a_wheel_without_its_cuda_runtime_is_refused_by_name() {
        let site = test_folder("runtime");
        let root = fake_torch(&site, 11);
        fs::remove_file(site.join("nvidia/cu13/lib/libcupti.so.13")).unwrap();
        assert!(inspect(&root).unwrap_err().to_string().contains("libcupti.so.13"));
        write(&root.join("version.py"), "__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\n");
        assert!(inspect(&root).is_ok());
        fs::remove_dir_all(site).unwrap();
    }

    #[test]
    fn another_version_missing_headers_and_an_empty_folder_are_refused() {
        let site = test_folder("other");
        assert!(inspect(&site).unwrap_err().to_string().contains(LIBRARY));
        let root = fake_torch(&site, 9);
        assert!(inspect(&root).unwrap_err().to_string().contains("`2.9.0`"));
        let root = fake_torch(&site, 11);
        fs::remove_file(root.join("include/torch/csrc/api/include/torch/torch.h")).unwrap();
        assert!(inspect(&root).unwrap_err().to_string().contains("headers"));
        fs::remove_dir_all(site).unwrap();
    }
}
