//! The containers of `torch.save`: a zip archive since PyTorch 1.6, pickles in a row before.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::Input;
use super::tensor_file::{Contents, Placed};
use super::torch_objects::{Pickled, PickledTensor, Storage, read_pickle, read_texts};

/// A pickle of this number begins every file of PyTorch 0.1.10 to 1.5.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Longest pickle; those of the largest networks have a few MB.
const MAX_PICKLE: u64 = 64 << 20;

/// The tensors of a zip archive of `torch.save` or `torch.jit.save`.
///
/// PyTorch stores without compression, so every tensor is a range of bytes of the file, and nothing can unfold.
pub(super) fn zip_contents(path: &Path) -> Result<Contents> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(path)?)).context("it is no whole zip archive")?;
    let names = archive.file_names().map(|name| Ok(name.context("an entry has no name")?.into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    let pickles: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("data.pkl")).collect();
    let root = match pickles[..] {
        [root] if root.is_empty() || root.ends_with('/') => root,
        [] if names.iter().any(|name| name.ends_with(".npy")) => {
            bail!("it is a file of numpy arrays (npz), not of weights")
        }
        _ => bail!("it is a zip archive without one `data.pkl`, so `torch.save` did not write it"),
    };
    if names.iter().any(|name| name == &format!("{root}byteorder")) {
        let (start, length) = entry(&mut archive, &format!("{root}byteorder"))?;
        let order = range(path, start, length.min(8))?;
        ensure!(order == b"little", "its numbers are big-endian; save it again on a little-endian machine");
    }
    let is_script = names.iter().any(|name| name.starts_with(&format!("{root}code/")));
    let (start, length) = entry(&mut archive, &format!("{root}data.pkl"))?;
    ensure!(length <= MAX_PICKLE, "its `data.pkl` has {length} bytes; allowed are {MAX_PICKLE}");
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut input = Input { reader: BufReader::new(file), remaining: length };
    let Pickled { tensors, storages } = read_pickle(&mut input)?;
    let places = storages.iter().map(|storage| {
        let name = format!("{root}data/{}", storage.key);
        let (start, length) = entry(&mut archive, &name)?;
        let wanted = storage.stored.checked_mul(storage.element.size() as u64);
        ensure!(
            wanted.is_some_and(|wanted| wanted <= length),
            "storage `{name}` has {length} bytes, and the pickle says {} values of {:?}",
            storage.stored,
            storage.element
        );
        Ok(start)
    });
    let places = places.collect::<Result<Vec<u64>>>()?;
    let format = if is_script { "torch.jit.save (TorchScript)" } else { "torch.save (zip)" };
    Ok(placed(format, path, tensors, &storages, &places))
}

/// Where the bytes of an entry begin, and how many there are.
fn entry(archive: &mut ZipArchive<BufReader<File>>, name: &str) -> Result<(u64, u64)> {
    let entry = archive.by_name(name).with_context(|| format!("the archive has no whole entry `{name}`"))?;
    ensure!(
        entry.compression() == CompressionMethod::Stored && !entry.encrypted(),
        "entry `{name}` is compressed or encrypted, which `torch.save` never does; save it again with PyTorch"
    );
    let start = entry.data_start().with_context(|| format!("entry `{name}` has no data"))?;
    Ok((start, entry.size()))
}

fn range(path: &Path, start: u64, length: u64) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![];
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a file begins with the magic number, in any protocol.
pub(super) fn is_legacy(head: &[u8]) -> bool {
    head.first() == Some(&0x80) && head.get(2..).is_some_and(|head| head.starts_with(MAGIC))
}

/// The tensors of a file of PyTorch 0.1.10 to 1.5: magic number, protocol, machine, object, storage keys, storages.
pub(super) fn legacy_contents(path: &Path, length: u64) -> Result<Contents> {
    let mut input = Input { reader: BufReader::new(File::open(path)?), remaining: length };
    for what in ["magic number", "protocol", "machine"] {
        read_pickle(&mut input).with_context(|| format!("the {what}"))?;
    }
    let Pickled { tensors, storages } = read_pickle(&mut input)?;
    let keys = read_texts(&mut input).context("the list of storages")?;
    let mut starts: BTreeMap<String, u64> = BTreeMap::new();
    let mut at = length - input.remaining;
    let mut file = File::open(path)?;
    let by_key: BTreeMap<&str, &Storage> = storages.iter().map(|storage| (storage.key.as_str(), storage)).collect();
    for key in keys {
        let storage = by_key.get(key.as_str());
        let storage = storage.with_context(|| format!("storage `{key}` is listed and belongs to no tensor"))?;
        file.seek(SeekFrom::Start(at))?;
        let mut count = [0; 8];
        file.read_exact(&mut count).context("the file is cut short before a storage")?;
        let count = u64::from_le_bytes(count);
        ensure!(count == storage.stored, "storage `{key}` has {count} values, and the pickle says {}", storage.stored);
        starts.insert(key, at + 8);
        let size = count.checked_mul(storage.element.size() as u64).context("the size of a storage overflows")?;
        at = (at + 8).checked_add(size).filter(|end| *end <= length).context("the file is cut short in a storage")?;
    }
    let start = |storage: &Storage| {
        starts.get(&storage.key).copied().with_context(|| format!("storage `{}` is not in the file", storage.key))
    };
    let starts = storages.iter().map(start).collect::<Result<Vec<u64>>>()?;
    Ok(placed("torch.save (before PyTorch 1.6)", path, tensors, &storages, &starts))
}

fn placed(
    format: &'static str,
    path: &Path,
    tensors: BTreeMap<String, PickledTensor>,
    storages: &[Storage],
    starts: &[u64],
) -> Contents {
    let place = |(name, tensor): (String, PickledTensor)| {
        let (storage, start) = (&storages[tensor.storage], starts[tensor.storage]);
        let Storage { element, stored, .. } = *storage;
        (name, Placed { part: 0, start, stored, element, view: tensor.view })
    };
    Contents { format, parts: vec![path.to_path_buf()], tensors: tensors.into_iter().map(place).collect() }
}
