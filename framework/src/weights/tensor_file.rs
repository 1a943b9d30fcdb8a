//! Opens a file of weights of any format that is known, by its content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::elements::{ElementType, View};
use super::{HostTensor, StateDict, safetensors_file, torch_file};

/// A tensor's values together may fill the file this often: the same storage under two names is common, and a
/// small file that unfolds into terabytes is an attack.
const MAX_REPEATS: u64 = 4;

/// A file of weights, opened: its float tensors are known by name and shape, their values are still on disk.
///
/// Known are safetensors, `*.safetensors.index.json` with its shards, and what `torch.save` and `torch.jit.save` write,
/// before PyTorch 1.6 and after. Nested dictionaries become dotted names, `{"model": {"a.b": t}}` is `model.a.b`.
/// Tensors of integers or booleans (counters, position indices) and everything that is no tensor are left out.
/// Pickled code is never run.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    format: &'static str,
    parts: Vec<PathBuf>,
    tensors: BTreeMap<String, Placed>,
}

/// What is known of a tensor without its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Sizes, slowest first.
    pub shape: &'a [usize],
    /// How the file holds its values.
    pub element: ElementType,
}

/// Where a tensor lies in one of a file's parts.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub part: usize,
    /// Byte at which the array begins that the view looks into.
    pub start: u64,
    /// Values in that array.
    pub stored: u64,
    pub element: ElementType,
    pub view: View,
}

/// What a format's reader finds.
pub(super) struct Contents {
    pub format: &'static str,
    pub parts: Vec<PathBuf>,
    pub tensors: BTreeMap<String, Placed>,
}

/// Reads all float tensors of a file as f32, tensor by tensor.
///
/// ```no_run
/// let dict = realign::weights::read_weights(std::path::Path::new("mae_pretrain_vit_large.pth"))?;
/// println!("{:?}", dict["model.cls_token"].shape);
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`TensorFile::open`] and [`TensorFile::read`].
pub fn read_weights(path: &Path) -> Result<StateDict> {
    let file = TensorFile::open(path)?;
    file.tensors.keys().map(|name| Ok((name.clone(), file.read(name)?))).collect()
}

impl TensorFile {
    /// Finds out the format and lists the tensors.
    ///
    /// # Errors
    /// The file is absent, cut short, of no known format, or says things about itself that are not true; the message
    /// says which. A pickle that calls anything but what rebuilds tensors is refused by the name of what it calls.
    pub fn open(path: &Path) -> Result<Self> {
        let contents = contents(path).with_context(|| format!("cannot read weights from `{}`", path.display()))?;
        let Contents { format, parts, mut tensors } = contents;
        tensors.retain(|_, tensor| tensor.element.is_float());
        let file = Self { path: path.to_path_buf(), format, parts, tensors };
        file.check().with_context(|| format!("cannot read weights from `{}`", path.display()))?;
        Ok(file)
    }

    /// Name of the format, for people: `safetensors`, `torch.save (zip)`.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All float tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorInfo<'_>)> {
        let info = |tensor| {
            let Placed { view, element, .. }: &Placed = tensor;
            TensorInfo { shape: &view.shape, element: *element }
        };
        self.tensors.iter().map(move |(name, tensor)| (name.as_str(), info(tensor)))
    }

    /// The values of one tensor.
    ///
    /// # Errors
    /// There is no such tensor, or the disk fails.
    pub fn read(&self, name: &str) -> Result<HostTensor> {
        let place = || format!("`{}`: tensor `{name}`", self.path.display());
        let tensor = self.tensors.get(name).with_context(|| format!("{}: no such tensor", place()))?;
        let Placed { part, start, stored, element, view } = tensor;
        let read = || -> Result<Vec<u8>> {
            let size = element.size() as u64;
            let mut file = File::open(&self.parts[*part])?;
            file.seek(SeekFrom::Start(start + view.offset * size))?;
            let mut bytes = vec![0; usize::try_from(view.span(*stored)? * size)?];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().with_context(place)?;
        Ok(HostTensor { shape: view.shape.clone(), values: view.gather(element.floats(&bytes)) })
    }

    /// Checks all places against the length of the files before anything is read.
    fn check(&self) -> Result<()> {
        let mut lengths = vec![];
        for part in &self.parts {
            lengths.push(File::open(part)?.metadata()?.len());
        }
        let (mut total, all) = (0u64, lengths.iter().sum::<u64>());
        for (name, tensor) in &self.tensors {
            tensor.check(lengths[tensor.part], &mut total).with_context(|| format!("tensor `{name}`"))?;
            ensure!(
                total <= all.saturating_mul(MAX_REPEATS),
                "its tensors unfold to more than {MAX_REPEATS} times the {all} bytes of the file"
            );
        }
        ensure!(!self.tensors.is_empty(), "it holds no tensor of floats");
        Ok(())
    }
}

impl Placed {
    fn check(&self, length: u64, total: &mut u64) -> Result<()> {
        let size = self.element.size() as u64;
        let bytes = |count: u64| count.checked_mul(size).context("its size overflows");
        let end = bytes(self.stored)?.checked_add(self.start);
        ensure!(
            end.is_some_and(|end| end <= length),
            "its storage of {} values of {size} bytes at byte {} ends beyond the {length} bytes of the file",
            self.stored,
            self.start
        );
        self.view.span(self.stored)?;
        let own = bytes(self.view.count()? as u64)?;
        ensure!(own <= length, "its shape {:?} is {own} bytes in a file of {length}", self.view.shape);
        *total = total.saturating_add(own);
        Ok(())
    }
}

fn contents(path: &Path) -> Result<Contents> {
    let mut file = File::open(path)?;
    ensure!(!file.metadata()?.is_dir(), "it is a folder; name the file in it");
    let length = file.metadata()?.len();
    let mut head = vec![];
    Read::by_ref(&mut file).take(512).read_to_end(&mut head)?;
    ensure!(!head.is_empty(), "the file is empty");
    if head.starts_with(b"PK\x03\x04") {
        return torch_file::zip_contents(path);
    }
    if torch_file::is_legacy(&head) {
        return torch_file::legacy_contents(path, length);
    }
    if path.to_string_lossy().ends_with(".index.json") {
        return safetensors_file::sharded_contents(path);
    }
    if safetensors_file::is_safetensors(&head) {
        return safetensors_file::single_contents(path);
    }
    bail!("{}", complaint(&head))
}

/// What a file that holds no weights is instead.
fn complaint(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let start: String = text.trim_start().chars().take(9).collect::<String>().to_ascii_lowercase();
    if text.starts_with("version https://git-lfs") {
        return "it is a pointer of git-lfs, not the file; run `git lfs pull`".into();
    }
    if start.starts_with("<!doctype") || start.starts_with("<html") || start.starts_with("<?xml") {
        return "it is a web page: the download ended at a login or error page".into();
    }
    if head.get(257..262) == Some(b"ustar") {
        return "it is a tar archive, as PyTorch wrote before 2017; load and save it again with a newer PyTorch".into();
    }
    if head.starts_with(&[0x80]) {
        return "it is a plain pickle, not a file of `torch.save`".into();
    }
    "it is neither safetensors nor a file of `torch.save`, or it is cut short".into()
}
