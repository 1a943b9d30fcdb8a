//! Arrays of floats as NumPy saves them, `.npy`.

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::f16;

const MAGIC: &[u8] = b"\x93NUMPY";

/// Shape and values of an array of floats in C order.
///
/// # Errors
/// The bytes are no such array, or it is longer than they are.
pub fn read_npy(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>)> {
    ensure!(bytes.starts_with(MAGIC), "it is no `.npy` file");
    let (major, rest) = bytes.get(6).zip(bytes.get(8..)).context("it is cut")?;
    let (length, rest) = match *major {
        1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        _ => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest)),
    }
    .context("it is cut")?;
    let (header, data) = rest.split_at_checked(length).context("its header is cut")?;
    let header = std::str::from_utf8(header).context("its header is no text")?;
    ensure!(entry(header, "fortran_order")?.starts_with("False"), "it is in Fortran order; save it in C order");
    let shape = shape(entry(header, "shape")?)?;
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).context("it is too large")?;
    let kind = entry(header, "descr")?;
    let size = match kind {
        kind if kind.starts_with("'<f2'") => 2,
        kind if kind.starts_with("'<f4'") => 4,
        kind if kind.starts_with("'<f8'") => 8,
        other => bail!("its elements are {}; known: '<f2', '<f4', '<f8'", other.chars().take(8).collect::<String>()),
    };
    ensure!(Some(data.len()) == count.checked_mul(size), "it has {} bytes for {count} values of {size}", data.len());
    let values = match size {
        2 => data.as_chunks().0.iter().map(|value| f16::from_le_bytes(*value).to_f32()).collect(),
        4 => data.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        _ => data.as_chunks().0.iter().map(|value| f64::from_le_bytes(*value) as f32).collect(),
    };
    Ok((shape, values))
}

/// What follows `'<key>': ` in the header, a Python dictionary.
fn entry<'a>(header: &'a str, key: &str) -> Result<&'a str> {
    let after = header.split_once(&format!("'{key}':")).with_context(|| format!("its header has no `{key}`"))?;
    Ok(after.1.trim_start())
}

fn shape(text: &str) -> Result<Vec<usize>> {
    let inside = text.strip_prefix('(').and_then(|text| text.split_once(')')).context("its shape is no tuple")?.0;
    let sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
    sizes.map(|size| size.parse().with_context(|| format!("its shape has the size `{size}`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn arrays_of_every_float_are_read() {
        let header = |kind: &str| format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1, 2), }}\n");
        let values = [0.5f32, -2.0];
        let singles: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let doubles: Vec<u8> = values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
        let halves: Vec<u8> = values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
        for (kind, data) in [("<f4", singles), ("<f8", doubles), ("<f2", halves)] {
            assert_eq!(read_npy(&file(&header(kind), &data)).unwrap(), (vec![1, 2], values.to_vec()));
        }
    }

    #[test]
    fn what_is_no_such_array_is_refused() {
        let message = |bytes: &[u8]| read_npy(bytes).unwrap_err().to_string();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }";
        assert!(message(b"PK").contains("no `.npy`"));
        assert!(message(&file(header, &[0; 8])).contains("9 values"));
        assert!(message(&file(&header.replace("<f4", "<i4"), &[0; 36])).contains("<i4"));
        assert!(message(&file(&header.replace("False", "True"), &[0; 36])).contains("Fortran"));
        assert!(message(&file(&header.replace("(9,)", "(99999999999, 99999999999)"), &[])).contains("too large"));
        for length in [7, 9, 20] {
            assert!(message(&file(header, &[0; 36])[..length]).contains("cut"));
        }
    }
}
