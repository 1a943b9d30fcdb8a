//! Writes files that `torch.load(weights_only=True)` opens.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{HostTensor, StateDict};
use crate::files::aside;

/// Writes dictionaries of tensors by name, `{"model": {...}, "ema": {...}}`, as `torch.save` would. An existing file is
/// replaced when the new one is whole.
///
/// # Errors
/// The disk refuses.
pub fn write_torch(path: &Path, sections: &[(&str, StateDict)]) -> Result<()> {
    let aside = aside(path);
    let write = || -> Result<()> {
        let mut zip = ZipWriter::new(BufWriter::new(File::create(&aside)?));
        let entry = |zip: &mut ZipWriter<BufWriter<File>>, name: String, size: usize| {
            let is_large = size as u64 > u64::from(u32::MAX) / 2;
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            zip.start_file(format!("archive/{name}"), options.large_file(is_large).with_alignment(64))
        };
        let pickle = pickle(sections);
        entry(&mut zip, "data.pkl".into(), pickle.len())?;
        zip.write_all(&pickle)?;
        entry(&mut zip, "byteorder".into(), 0)?;
        zip.write_all(b"little")?;
        for (key, tensor) in sections.iter().flat_map(|(_, dict)| dict.values()).enumerate() {
            entry(&mut zip, format!("data/{key}"), size_of_val(tensor.values.as_slice()))?;
            for value in &tensor.values {
                zip.write_all(&value.to_le_bytes())?;
            }
        }
        entry(&mut zip, "version".into(), 0)?;
        zip.write_all(b"3\n")?;
        let mut file = zip.finish()?;
        file.flush()?;
        file.stream_position()?;
        file.get_ref().sync_all()?;
        fs::rename(&aside, path)?;
        Ok(())
    };
    let written = write();
    if written.is_err() {
        fs::remove_file(&aside).ok(); // it may not exist; the error that matters is reported below
    }
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

/// The pickle, in protocol 2.
fn pickle(sections: &[(&str, StateDict)]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    let mut key = 0;
    for (name, dict) in sections {
        text(&mut out, name);
        out.extend(b"}(");
        for (name, tensor) in dict {
            text(&mut out, name);
            put_tensor(&mut out, key, tensor);
            key += 1;
        }
        out.push(b'u');
    }
    out.extend(b"u.");
    out
}

fn put_tensor(out: &mut Vec<u8>, key: usize, tensor: &HostTensor) {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(out, "storage");
    out.extend(b"ctorch\nFloatStorage\n");
    text(out, &key.to_string());
    text(out, "cpu");
    number(out, tensor.values.len());
    out.extend(b"tQ"); // a persistent name
    number(out, 0);
    let mut strides = vec![1; tensor.shape.len()];
    for axis in (1..strides.len()).rev() {
        strides[axis - 1] = strides[axis] * tensor.shape[axis].max(1);
    }
    for sizes in [&tensor.shape, &strides] {
        out.push(b'(');
        sizes.iter().for_each(|size| number(out, *size));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes()); // names of tensors are short
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    match i32::try_from(number) {
        Ok(small) => {
            out.push(b'J');
            out.extend(small.to_le_bytes());
        }
        Err(_) => {
            out.extend(b"\x8a\x08");
            out.extend((number as i64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::read_weights;

    #[test]
    fn what_is_written_reads_back_under_its_sections() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt");
        let tensor = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|i: usize| i as f32 - 0.5).collect();
            HostTensor { shape: shape.to_vec(), values }
        };
        let dict = StateDict::from([("a.weight".to_string(), tensor(&[3, 5, 7])), ("b".to_string(), tensor(&[]))]);
        write_torch(&path, &[("model", dict.clone()), ("ema", dict.clone())]).unwrap();
        let found = read_weights(&path).unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!((&found["model.a.weight"], &found["ema.b"]), (&dict["a.weight"], &dict["b"]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
