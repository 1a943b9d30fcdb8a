//! safetensors files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View, serialize};

use super::{HostTensor, StateDict};

/// Reads all float tensors of a file as f32 (F32, F64, F16 and BF16 are known).
///
/// # Errors
/// The file is absent, cut short or no safetensors file, or a tensor has another element type.
pub fn read_safetensors(path: &Path) -> Result<StateDict> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("`{}` is not a whole safetensors file ({} bytes)", path.display(), bytes.len()))?;
    let mut dict = StateDict::new();
    for (name, view) in file.iter() {
        let values = floats(&view).with_context(|| format!("{}: tensor `{name}`", path.display()))?;
        dict.insert(name.to_string(), HostTensor { shape: view.shape().to_vec(), values });
    }
    Ok(dict)
}

/// Writes tensors as F32, synced to disk. An existing file is replaced.
///
/// # Errors
/// The file cannot be written.
pub fn write_safetensors(path: &Path, dict: &StateDict) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let views = dict.iter().map(|(name, tensor)| (name, Floats(tensor)));
    let file = serialize(views, Some(metadata)).context("cannot lay out the safetensors file")?;
    let write = || -> std::io::Result<()> {
        let mut out = fs::File::create(path)?;
        out.write_all(&file)?;
        out.sync_all()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}

/// A tensor as the file holds it; its bytes exist only while they are copied.
struct Floats<'a>(&'a HostTensor);

impl View for Floats<'_> {
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

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>> {
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F64 => data
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        other => bail!("element type {other:?} is not a float; known: F32, F64, F16, BF16"),
    })
}

#[cfg(test)]
mod tests {
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
        for length in [0, 7, 20, bytes.len() - 1] {
            fs::write(&path, &bytes[..length]).unwrap();
            let message = format!("{:#}", read_safetensors(&path).unwrap_err());
            assert!(message.contains("w.safetensors") && message.contains("not a whole"), "{message}");
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
