//! safetensors files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View as Stored, serialize};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::elements::{ElementType, View};
use super::tensor_file::{Contents, Placed};
use super::{HostTensor, StateDict, TensorFile};
use crate::files::write_whole;

const LENGTH: u64 = 8; // bytes before the header, which say how long it is
const MAX_HEADER: u64 = 100_000_000; // bytes; as the format's own library

/// Reads all float tensors of a file as f32.
///
/// # Errors
/// The file is absent, cut short or no safetensors file.
pub fn read_safetensors(path: &Path) -> Result<StateDict> {
    let file = TensorFile::open(path)?;
    ensure!(file.format() == FORMAT, "`{}` is {}, expected safetensors", path.display(), file.format());
    file.tensors().map(|(name, _)| Ok((name.to_string(), file.read(name)?))).collect()
}

/// All float32 tensors of a file that is in memory, such as one that is part of the program.
///
/// # Errors
/// The bytes are no safetensors file, or hold another kind of element.
pub fn parse_safetensors(bytes: &[u8]) -> Result<StateDict> {
    let file = SafeTensors::deserialize(bytes).context("it is no safetensors file")?;
    let host = |(name, view): (String, TensorView<'_>)| {
        ensure!(view.dtype() == Dtype::F32, "`{name}` is {:?}, expected F32", view.dtype());
        let values = view.data().as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        Ok((name, HostTensor { shape: view.shape().to_vec(), values }))
    };
    file.tensors().into_iter().map(host).collect()
}

/// Writes tensors as F32, synced to disk. An existing file is replaced once the new one is whole.
///
/// # Errors
/// The file cannot be written.
pub fn write_safetensors(path: &Path, dict: &StateDict) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let views = dict.iter().map(|(name, tensor)| (name, Floats(tensor)));
    let file = serialize(views, Some(metadata)).context("cannot lay out the safetensors file")?;
    write_whole(path, &file)
}

/// A tensor as the file holds it; its bytes exist only while they are copied.
struct Floats<'a>(&'a HostTensor);

impl Stored for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.0.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
    fn data_len(&self) -> usize {
        size_of_val(self.0.values.as_slice())
    }
}

const FORMAT: &str = "safetensors";

/// Whether a file begins like a safetensors file: the length of a header, and the header.
pub(super) fn is_safetensors(head: &[u8]) -> bool {
    head.get(LENGTH as usize) == Some(&b'{')
}

/// The tensors of one file.
pub(super) fn single_contents(path: &Path) -> Result<Contents> {
    let tensors = tensors(path, 0)?;
    Ok(Contents { format: FORMAT, parts: vec![path.to_path_buf()], tensors })
}

/// The tensors of the shards that an index names; all of them lie beside it.
pub(super) fn sharded_contents(path: &Path) -> Result<Contents> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let length = fs::metadata(path)?.len();
    ensure!(length <= MAX_HEADER, "an index of {length} bytes is too long; allowed are {MAX_HEADER}");
    let text = fs::read_to_string(path).context("the index cannot be read")?;
    let index: Index = serde_json::from_str(&text).context("it is no index of safetensors shards")?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let (mut parts, mut all) = (vec![], BTreeMap::new());
    for name in names {
        ensure!(!name.contains(['/', '\\']), "the index names `{name}`; a shard lies beside its index");
        let shard = path.with_file_name(name);
        let found = tensors(&shard, parts.len()).with_context(|| format!("shard `{name}`"))?;
        for (tensor, placed) in found {
            if index.weight_map.get(&tensor) == Some(name) {
                all.insert(tensor, placed);
            }
        }
        parts.push(shard);
    }
    if let Some((tensor, shard)) = index.weight_map.iter().find(|(tensor, _)| !all.contains_key(*tensor)) {
        bail!("the index places `{tensor}` in shard `{shard}`, which does not have it");
    }
    Ok(Contents { format: "safetensors (sharded)", parts, tensors: all })
}

fn tensors(path: &Path, part: usize) -> Result<BTreeMap<String, Placed>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = [0; LENGTH as usize];
    file.read_exact(&mut head).context("it is not a whole safetensors file: it ends before its header")?;
    let header_length = u64::from_le_bytes(head);
    ensure!(
        header_length <= MAX_HEADER && header_length <= length - LENGTH,
        "it is not a whole safetensors file: its header of {header_length} bytes does not fit its {length} bytes"
    );
    let mut text = String::new();
    file.take(header_length).read_to_string(&mut text).context("its header is no text")?;
    let Header(entries) = serde_json::from_str(&text).context("its header is not that of a safetensors file")?;
    let (mut placed, mut regions) = (BTreeMap::new(), vec![]);
    for (name, entry) in entries {
        let tensor = entry.place(part, LENGTH + header_length, length).with_context(|| format!("tensor `{name}`"))?;
        regions.push((entry.data_offsets, name.clone()));
        placed.insert(name, tensor);
    }
    regions.sort();
    for pair in regions.windows(2) {
        let [(first, one), (second, other)] = pair else { continue };
        ensure!(first[1] <= second[0], "tensors `{one}` and `{other}` overlap");
    }
    Ok(placed.into_iter().filter(|(_, tensor)| tensor.element.is_float()).collect())
}

/// One tensor as a header describes it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Entry {
    fn place(&self, part: usize, data: u64, length: u64) -> Result<Placed> {
        let [start, end] = self.data_offsets;
        ensure!(
            start <= end && end <= length - data,
            "it is not a whole safetensors file: bytes {start} to {end} are not among the {} of its data",
            length - data
        );
        let element = element(&self.dtype)?;
        let view = View::whole(self.shape.clone());
        let (count, size) = (view.count()? as u64, element.size() as u64);
        ensure!(
            count.checked_mul(size) == Some(end - start),
            "its shape {:?} of {} does not fill its {} bytes",
            self.shape,
            self.dtype,
            end - start
        );
        Ok(Placed { part, start: data + start, stored: count, element, view })
    }
}

fn element(dtype: &str) -> Result<ElementType> {
    Ok(match dtype {
        "F64" => ElementType::F64,
        "F32" => ElementType::F32,
        "F16" => ElementType::F16,
        "BF16" => ElementType::BF16,
        "I64" | "U64" => ElementType::I64,
        "I32" | "U32" => ElementType::I32,
        "I16" | "U16" => ElementType::I16,
        "I8" => ElementType::I8,
        "U8" => ElementType::U8,
        "BOOL" => ElementType::Bool,
        other => bail!("element type `{other}` is not known; known are F64, F32, F16, BF16 and integers"),
    })
}

/// The tensors of a header; a name that comes twice is refused.
struct Header(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                        continue;
                    }
                    let entry = map.next_value()?;
                    if entries.insert(name.clone(), entry).is_some() {
                        return Err(A::Error::custom(format!("the tensor `{name}` comes twice")));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{bf16, f16};

    use super::*;

    #[test]
    fn a_written_file_reads_back_equal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let mut dict = StateDict::new();
        dict.insert("b.0".into(), HostTensor { shape: vec![2, 3], values: vec![0.5, -1.0, 2.0, 3.25, 0.0, 1e-30] });
        dict.insert("a".into(), HostTensor { shape: vec![], values: vec![7.0] });
        write_safetensors(&path, &dict).unwrap();
        assert_eq!(read_safetensors(&path).unwrap(), dict);
    }

    #[test]
    fn a_truncated_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let dict = StateDict::from([("a".to_string(), HostTensor { shape: vec![35], values: vec![1.0; 35] })]);
        write_safetensors(&path, &dict).unwrap();
        let bytes = fs::read(&path).unwrap();
        let words = [(0, "is empty"), (7, "cut short"), (20, "not a whole"), (bytes.len() - 1, "not a whole")];
        for (length, word) in words {
            fs::write(&path, &bytes[..length]).unwrap();
            let message = format!("{:#}", read_safetensors(&path).unwrap_err());
            assert!(message.contains("w.safetensors") && message.contains(word), "{message}");
        }
    }

    #[test]
    fn half_precision_tensors_are_read_as_floats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let values = [1.0, -2.0, 0.5, 65504.0, 2f32.powi(-24)];
        let half: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        let brain: Vec<u8> = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        let views = [("half", Dtype::F16, &half), ("brain", Dtype::BF16, &brain)]
            .map(|(name, dtype, bytes)| (name, TensorView::new(dtype, vec![5], bytes).unwrap()));
        fs::write(&path, serialize(views, None).unwrap()).unwrap();
        let dict = read_safetensors(&path).unwrap();
        assert_eq!(dict["half"].values, values);
        let rounded = values.map(|value| bf16::from_f32(value).to_f32());
        assert_eq!(dict["brain"].values, rounded);
    }
}
