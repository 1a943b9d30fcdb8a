//! Arrays as numpy reads them.

use std::path::Path;

use anyhow::Result;
use realign::files::write_whole;

/// Writes an array of f32 in row-major order.
///
/// # Errors
/// The disk refuses.
pub fn write(path: &Path, shape: &[usize], values: &[f32]) -> Result<()> {
    write_whole(path, &encode(shape, values))
}

/// Format version 1.0: magic, header length, a header whose end is a multiple of 64, then the values.
fn encode(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sizes.trim_end());
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    header += &(" ".repeat(padding) + "\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes()); // a few sizes never come near 65535
    bytes.extend(header.as_bytes());
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_at_a_multiple_of_64_and_states_the_shape() {
        let bytes = encode(&[2, 3], &[1.0; 6]);
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert!(
            header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3,), }")
                && header.ends_with('\n')
        );
        assert_eq!(bytes.len(), 10 + length + 24);
    }
}
