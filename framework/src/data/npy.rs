//! Arrays as NumPy saves them, `.npy`.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::f16;

const MAGIC: &[u8] = b"\x93NUMPY";
const MOST_HEADER_BYTES: usize = 1 << 16; // NumPy itself writes some hundred

/// Kind of an array's elements, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Unsigned bytes, `|u1`.
    U8,
    /// `<f2`.
    F16,
    /// `<f4`.
    F32,
    /// `<f8`.
    F64,
}

const ELEMENTS: [Element; 4] = [Element::U8, Element::F16, Element::F32, Element::F64];

/// What an array says of itself; it is in C order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// Kind of its elements.
    pub element: Element,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
}

impl Element {
    /// NumPy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "|u1",
            Self::F16 => "<f2",
            Self::F32 => "<f4",
            Self::F64 => "<f8",
        }
    }

    /// Bytes of one element.
    pub fn num_bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The elements in these bytes.
    pub(super) fn values(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::U8 => bytes.iter().map(|byte| f64::from(*byte)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|value| f16::from_le_bytes(*value).to_f64()).collect(),
            Self::F32 => bytes.as_chunks().0.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect(),
            Self::F64 => bytes.as_chunks().0.iter().map(|value| f64::from_le_bytes(*value)).collect(),
        }
    }
}

impl NpyHeader {
    /// Reads the header in front of an array's bytes; also tells how many bytes it took.
    ///
    /// # Errors
    /// There is none, or it describes what cannot be read.
    pub fn read(reader: &mut impl Read) -> Result<(Self, u64)> {
        let mut take = |count: usize| {
            let mut bytes = vec![0; count];
            reader.read_exact(&mut bytes).context("its header is cut").map(|()| bytes)
        };
        ensure!(take(MAGIC.len()).is_ok_and(|magic| magic == MAGIC), "it is no `.npy` file");
        let is_first_version = take(2)?[0] == 1;
        let length = take(if is_first_version { 2 } else { 4 })?;
        let before = MAGIC.len() + 2 + length.len();
        let length = length.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        ensure!(length <= MOST_HEADER_BYTES, "its header claims {length} bytes; it is damaged");
        let header = take(length)?;
        let header = std::str::from_utf8(&header).context("its header is no text")?;
        ensure!(entry(header, "fortran_order")?.starts_with("False"), "it is in Fortran order; save it in C order");
        let kind = entry(header, "descr")?;
        let is_meant = |element: &Element| kind.starts_with(&format!("'{}'", element.name()));
        let Some(element) = ELEMENTS.into_iter().find(is_meant) else {
            let names = ELEMENTS.map(|element| format!("'{}'", element.name())).join(", ");
            let found = kind.split(',').next().unwrap_or_default();
            bail!("its elements are {}; known: {names}", found.chars().take(24).collect::<String>());
        };
        let found = Self { element, shape: shape(entry(header, "shape")?)? };
        found.num_bytes()?;
        Ok((found, (before + length) as u64))
    }

    /// Bytes of the array.
    ///
    /// # Errors
    /// They cannot be counted.
    pub fn num_bytes(&self) -> Result<u64> {
        let sizes = self.shape.iter().map(|size| *size as u64);
        let bytes =
            sizes.chain([self.element.num_bytes() as u64]).try_fold(1u64, |count, size| count.checked_mul(size));
        bytes.context("it is too large")
    }
}

/// Shape and values of an array of floats in C order.
///
/// # Errors
/// The bytes are no such array, or it is longer than they are.
pub fn read_npy(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>)> {
    let mut data = bytes;
    let (header, _) = NpyHeader::read(&mut data)?;
    ensure!(header.element != Element::U8, "its elements are '|u1'; floats are expected");
    ensure!(
        data.len() as u64 == header.num_bytes()?,
        "it has {} bytes for {} values of {}",
        data.len(),
        header.shape.iter().product::<usize>(),
        header.element.num_bytes()
    );
    Ok((header.shape, header.element.values(data).into_iter().map(|value| value as f32).collect()))
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
        assert!(message(&file(&header.replace("<f4", "|u1"), &[0; 9])).contains("floats"));
        assert!(message(&file(&header.replace("<f4", "<i4"), &[0; 36])).contains("<i4"));
        assert!(message(&file(&header.replace("False", "True"), &[0; 36])).contains("Fortran"));
        assert!(message(&file(&header.replace("(9,)", "(99999999999, 99999999999)"), &[])).contains("too large"));
        for length in [7, 9, 20] {
            assert!(message(&file(header, &[0; 36])[..length]).contains("cut"));
        }
    }
}
