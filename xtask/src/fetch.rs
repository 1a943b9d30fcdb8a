//! Fetches the libtorch of the PyTorch wheel into the user's cache, with the user's own pip.

use crate::{
    libtorch::{self, Libtorch, VERSION},
    workspace::{free_bytes, gigabytes},
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::Command,
};

const NEEDED_BYTES: u64 = 3_000_000_000; // wheels and their content, before the wheels are removed
const NEEDED_BYTES_CUDA: u64 = 8_000_000_000; // the same with NVIDIA's libraries

/// Python versions that have a wheel of this PyTorch; others take one of these, the libraries are the same.
const PYTHON_MINORS: std::ops::RangeInclusive<u32> = 10..=14;
const OTHER_PYTHON: [&str; 10] =
    ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--abi", "abi3", "--abi", "none"];

/// Prints what a wheel requires.
const REQUIREMENTS: &str = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith('.dist-info/METADATA'))
    sys.stdout.write(wheel.read(name).decode())
";

/// Unpacks the libraries and headers of wheels: `argv` is the folder, `cuda` or `cpu`, the wheels.
const UNPACK: &str = "
import sys, zipfile
folder, kind, wheels = sys.argv[1], sys.argv[2], sys.argv[3:]
python_only = ('torch_python', 'libshm')
cuda_only = ('cuda', 'nvrtc', 'nvshmem')
def is_needed(name):
    if name == 'torch/version.py' or name.startswith('torch/include/'):
        return True
    if name.startswith('torch/lib/'):
        skipped = python_only + (() if kind == 'cuda' else cuda_only)
        return not any(part in name for part in skipped)
    return name.startswith('nvidia/') and '/lib/' in name and not name.endswith('.a')
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if is_needed(name):
                archive.extract(name, folder)
";

/// Downloads, unpacks and checks libtorch; a fetch that was cut short is done again by the next call.
///
/// # Errors
/// Says what is missing (python3, pip, space, the network) and what to do, with the way around libtorch.
pub fn fetch(wants_cuda: bool) -> Result<Libtorch> {
    let around = "`cargo xtask <COMMAND> --backend flex` works without libtorch (slower, CPU only)";
    let outcome = fetch_into(&libtorch::cache()?, wants_cuda || libtorch::has_nvidia_driver());
    let outcome = outcome.and_then(|found| match wants_cuda && !found.has_cuda {
        true => bail!(
            "the one that pip finds for this system has no CUDA; look at pip's index (`python3 -m pip config list`), or set \
             LIBTORCH to one with CUDA"
        ),
        false => Ok(found),
    });
    outcome.with_context(|| format!("libtorch {VERSION} could not be fetched\n  {around}\n  cause"))
}

fn fetch_into(cache: &Path, with_cuda: bool) -> Result<Libtorch> {
    let python_minor = python_minor()?;
    fs::create_dir_all(cache).with_context(|| format!("{}: cannot be made", cache.display()))?;
    let _lock = lock(&cache.join("fetch.lock"))?;
    let site = libtorch::site(cache);
    if let Ok(found) = libtorch::inspect(&site.join("torch"))
        && (found.has_cuda || !with_cuda)
    {
        return Ok(found); // another command fetched it while this one waited for the lock
    }
    check_space(cache, if with_cuda { NEEDED_BYTES_CUDA } else { NEEDED_BYTES })?;
    let wheels = cache.join("wheels");
    fs::create_dir_all(&wheels).with_context(|| format!("{}: cannot be made", wheels.display()))?;
    eprintln!("fetching libtorch {VERSION} into {} (once)", site.display());
    let mut pip = pip_download(&wheels, python_minor);
    run(pip.arg("--no-deps").arg(format!("torch=={VERSION}")), NETWORK)?;
    let torch = wheel(&wheels, &format!("torch-{VERSION}"))?;
    let metadata = python(REQUIREMENTS, &[torch.as_os_str()]).context("the PyTorch wheel is damaged");
    let requirements = cuda_requirements(&metadata.inspect_err(|_| discard(&wheels))?, with_cuda);
    if !requirements.is_empty() {
        run(pip_download(&wheels, python_minor).args(requirements), NETWORK)?;
    }
    unpack(&wheels, torch, &site, with_cuda)
}

const NETWORK: &str = "check the network and pip's settings (`python3 -m pip config list`, PIP_INDEX_URL); \
    an old pip does not know new wheels (`python3 -m pip install --upgrade pip`); or set LIBTORCH to a libtorch 2.11";

fn unpack(wheels: &Path, torch: PathBuf, site: &Path, with_cuda: bool) -> Result<Libtorch> {
    let aside = site.with_extension("partial");
    remove(&aside)?;
    eprintln!("unpacking libtorch");
    let kind = if with_cuda { "cuda" } else { "cpu" };
    let mut args = vec![aside.clone().into_os_string(), kind.into(), torch.into_os_string()];
    args.extend(names(wheels)?.iter().filter(|name| is_nvidia(name)).map(|name| wheels.join(name).into_os_string()));
    let args: Vec<_> = args.iter().map(|arg| arg.as_os_str()).collect();
    let unpacked = python(UNPACK, &args).and_then(|_| libtorch::inspect(&aside.join("torch")));
    if let Err(error) = unpacked {
        discard(wheels);
        remove(&aside)?;
        return Err(error.context("the downloaded wheels could not be used and were removed; run the command again"));
    }
    remove(site)?;
    fs::rename(&aside, site).with_context(|| format!("{}: cannot be put in place", site.display()))?;
    discard(wheels);
    libtorch::inspect(&site.join("torch"))
}

/// The minor version of `python3`, after making sure that it has pip.
fn python_minor() -> Result<u32> {
    let version = Command::new("python3").args(["-c", "import sys; print(sys.version_info.minor)"]).output();
    let Some(version) = version.ok().filter(|output| output.status.success()) else {
        bail!("`python3` is not installed; on Debian and Ubuntu: apt-get install python3 python3-pip");
    };
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
    if !pip.is_ok_and(|output| output.status.success()) {
        bail!("`python3` has no pip; run `python3 -m ensurepip`, or on Debian and Ubuntu: apt-get install python3-pip");
    }
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    text.trim().parse().with_context(|| format!("python3 states version `{}`", text.trim()))
}

fn pip_download(wheels: &Path, python_minor: u32) -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "download", "--disable-pip-version-check", "--only-binary=:all:", "--dest"]).arg(wheels);
    if !PYTHON_MINORS.contains(&python_minor) {
        command.args(OTHER_PYTHON);
    }
    command
}

/// Runs a command whose output goes to stderr, so that stdout stays the answer of the user's command.
fn run(command: &mut Command, advice: &str) -> Result<()> {
    let status = command.stdout(std::io::stderr()).status().context("`python3` cannot be started")?;
    if !status.success() {
        bail!("`pip download` failed ({status}); {advice}");
    }
    Ok(())
}

fn python(script: &str, args: &[&std::ffi::OsStr]) -> Result<String> {
    let output = Command::new("python3").args(["-c", script]).args(args).output().context("`python3` cannot start")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{}", text.lines().last().unwrap_or("python3 failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What pip must fetch beside PyTorch: the CUDA runtime and CUPTI, which the CPU library is linked to, or all of CUDA.
fn cuda_requirements(metadata: &str, with_cuda: bool) -> Vec<String> {
    let required = metadata.lines().filter_map(|line| line.strip_prefix("Requires-Dist:")).map(str::trim);
    required.filter_map(|requirement| requirement_for(requirement, with_cuda)).collect()
}

fn requirement_for(requirement: &str, with_cuda: bool) -> Option<String> {
    let is_cuda = requirement.starts_with("nvidia-") || requirement.starts_with("cuda-toolkit");
    if with_cuda || !is_cuda {
        return is_cuda.then(|| requirement.to_owned());
    }
    let (extras, version) = requirement.strip_prefix("cuda-toolkit[")?.split_once(']')?;
    let needed: Vec<_> = extras.split(',').map(str::trim).filter(|extra| ["cudart", "cupti"].contains(extra)).collect();
    (!needed.is_empty()).then(|| format!("cuda-toolkit[{}]{version}", needed.join(",")))
}

/// The wheel in a folder whose file name starts with `prefix`.
fn wheel(wheels: &Path, prefix: &str) -> Result<PathBuf> {
    let found = names(wheels)?.into_iter().find(|name| is_wheel_of(name, prefix));
    Ok(wheels.join(found.with_context(|| format!("{}: no wheel `{prefix}*.whl`", wheels.display()))?))
}

fn is_wheel_of(name: &str, prefix: &str) -> bool {
    name.ends_with(".whl") && name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['-', '+']))
}

fn is_nvidia(name: &str) -> bool {
    name.starts_with("nvidia_") && name.ends_with(".whl")
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{}: cannot be read", folder.display()))?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Waits until no other command fetches; the system drops the lock of a process that died.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("{}: cannot be made", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("waiting for another command that fetches libtorch"),
        Err(TryLockError::Error(_)) => return Ok(file), // some network file systems have no locks
    }
    file.lock().with_context(|| format!("{}: cannot be locked", path.display()))?;
    Ok(file)
}

fn check_space(cache: &Path, needed: u64) -> Result<()> {
    match free_bytes(cache) {
        Some(free) if free < needed => bail!(
            "{}: {} free, needs {}; make room, or set XDG_CACHE_HOME to a folder on a larger disk",
            cache.display(),
            gigabytes(free),
            gigabytes(needed)
        ),
        _ => Ok(()),
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the wheels; one that stays only takes space.
fn discard(wheels: &Path) {
    let _ = fs::remove_dir_all(wheels);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::test_folder;

    const METADATA: &str = "Name: torch\nRequires-Dist: sympy>=1.13.3\n\
        Requires-Dist: cuda-toolkit[cublas,cudart,cufft,cupti]==13.0.2; platform_system == \"Linux\"\n\
        Requires-Dist: nvidia-nccl-cu13==2.28.9; platform_system == \"Linux\"\nRequires-Dist: triton==3.6.0\n";

    #[test]
    fn the_cpu_needs_only_the_cuda_runtime_and_cupti() {
        let expected = "cuda-toolkit[cudart,cupti]==13.0.2; platform_system == \"Linux\"";
        assert_eq!(cuda_requirements(METADATA, false), [expected]);
    }

    #[test]
    fn cuda_needs_every_nvidia_package_and_no_python_one() {
        let all = cuda_requirements(METADATA, true);
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].starts_with("cuda-toolkit[cublas,cudart") && all[1].starts_with("nvidia-nccl"));
    }

    #[test]
    fn a_wheel_without_cuda_requirements_needs_nothing_else() {
        assert!(cuda_requirements("Requires-Dist: sympy>=1.13.3\n", true).is_empty());
    }

    #[test]
    fn only_the_wheel_of_the_exact_version_is_chosen() {
        assert!(is_wheel_of("torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl", "torch-2.11.0"));
        assert!(is_wheel_of("torch-2.11.0+cpu-cp311-cp311-linux_x86_64.whl", "torch-2.11.0"));
        assert!(!is_wheel_of("torch-2.11.01-cp311-cp311-linux_x86_64.whl", "torch-2.11.0"));
        assert!(!is_wheel_of("torch-2.11.0-cp311.whl.partial", "torch-2.11.0"));
        let folder = test_folder("wheels");
        assert!(wheel(&folder, "torch-2.11.0").unwrap_err().to_string().contains("no wheel"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_disk_is_named_before_anything_is_downloaded() {
        let error = check_space(Path::new("/"), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("XDG_CACHE_HOME"), "{error}");
    }
}
