//! safetensors files.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

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
    let bytes: Vec<(&String, Vec<u8>, &[usize])> = dict
        .iter()
        .map(|(name, tensor)| {
            (name, tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect(), tensor.shape.as_slice())
        })
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, bytes, shape) in &bytes {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).with_context(|| format!("tensor `{name}`"))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let file = serialize(views, Some(metadata)).context("cannot lay out the safetensors file")?;
    let write = || -> std::io::Result<()> {
        let mut out = fs::File::create(path)?;
        out.write_all(&file)?;
        out.sync_all()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>> {
    let data = view.data();
    let halves = || data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    Ok(match view.dtype() {
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F64 => data
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        Dtype::BF16 => halves().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        Dtype::F16 => halves().map(half_to_float).collect(),
        other => bail!("element type {other:?} is not a float; known: F32, F64, F16, BF16"),
    })
}

fn half_to_float(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, (bits >> 10) & 31, f32::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    };
    if sign == 1 { -magnitude } else { magnitude }
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
    fn halves_convert_exactly() {
        assert_eq!([0x3c00, 0xc000, 0x0001, 0x7bff].map(half_to_float), [1.0, -2.0, 2f32.powi(-24), 65504.0]);
    }
}
