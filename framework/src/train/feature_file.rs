//! Features on disk: one record for each example of a data set, in any order, safe against interrupted writes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::files::write_whole;

const MANIFEST: &str = "manifest.json";
const RECORDS: &str = "features.bin";
const CHECKSUM_BYTES: usize = 8;

/// A file of equally long records, each behind a checksum of its values and its index.
///
/// A record that was never written, or not to its end, fails its checksum and counts as absent; so does whatever a
/// crash leaves behind. The manifest beside the file says what it belongs to and is written after the file is laid out.
#[derive(Debug)]
pub struct FeatureFile {
    file: File,
    path: PathBuf,
    num_values: usize,
}

impl FeatureFile {
    /// Opens the file of `key` in `folder`, or makes an empty one. A file of another key is replaced; the flag says so.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn open(folder: &Path, key: &Value, num_records: usize, num_values: usize) -> Result<(Self, bool)> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        let (manifest, path) = (folder.join(MANIFEST), folder.join(RECORDS));
        let (known, text) = (fs::read(&manifest).ok(), serde_json::to_vec_pretty(key)?);
        let length = (record_bytes(num_values) as u64).saturating_mul(num_records as u64);
        let has_length = fs::metadata(&path).is_ok_and(|found| found.len() == length);
        let is_ours = known.as_ref() == Some(&text);
        let place = || format!("cannot make the feature file `{}`", path.display());
        if !(is_ours && has_length) {
            fs::remove_file(&manifest).ok(); // it may not exist; without it the file below belongs to nobody
            let empty = File::create(&path).with_context(place)?;
            empty.set_len(length).and_then(|()| empty.sync_all()).with_context(place)?;
            write_whole(&manifest, &text)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).with_context(place)?;
        Ok((Self { file, path, num_values }, known.is_some() && !(is_ours && has_length)))
    }

    /// Reads the values of a record; false, and nothing written, where it is absent.
    pub fn read(&self, index: usize, values: &mut [f32]) -> bool {
        let mut record = vec![0; record_bytes(self.num_values)];
        if self.file.read_exact_at(&mut record, self.offset(index)).is_err() {
            return false;
        }
        let (checksum, bytes) = record.split_at(CHECKSUM_BYTES);
        if checksum != checksum_of(index, bytes) {
            return false;
        }
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        values.iter_mut().zip(numbers).for_each(|(value, number)| *value = number);
        true
    }

    /// Writes a record.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, index: usize, values: &[f32]) -> Result<()> {
        let mut record = vec![0; CHECKSUM_BYTES];
        record.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let checksum = checksum_of(index, &record[CHECKSUM_BYTES..]);
        record[..CHECKSUM_BYTES].copy_from_slice(&checksum);
        let written = self.file.write_all_at(&record, self.offset(index));
        written.with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    fn offset(&self, index: usize) -> u64 {
        index as u64 * record_bytes(self.num_values) as u64
    }
}

/// Bytes of a record.
pub fn record_bytes(num_values: usize) -> usize {
    CHECKSUM_BYTES + 4 * num_values
}

/// Never zero, which is what a hole in the file holds. It finds torn and misplaced records, not malice.
fn checksum_of(index: usize, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15; // odd, so that multiplying loses nothing
    let mix = |state: u64, word: u64| (state.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    (words.fold(mix(1, index as u64), mix) | 1).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn open(folder: &Path, key: &str) -> (FeatureFile, bool) {
        FeatureFile::open(folder, &json!({ "key": key }), 5, 3).unwrap()
    }

    fn read(file: &FeatureFile, index: usize) -> Option<Vec<f32>> {
        let mut values = vec![0.0; 3];
        file.read(index, &mut values).then_some(values)
    }

    #[test]
    fn records_survive_reopening_and_belong_to_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let (file, _) = open(folder.path(), "a");
        file.write(3, &[1.0, -2.5, f32::MIN_POSITIVE]).unwrap();
        drop(file);
        let (file, is_replaced) = open(folder.path(), "a");
        assert!(!is_replaced);
        assert_eq!(read(&file, 3), Some(vec![1.0, -2.5, f32::MIN_POSITIVE]));
        assert_eq!([0, 1, 2, 4, 5, 99].map(|index| read(&file, index)), [const { None }; 6]);
        let bytes = fs::read(folder.path().join(RECORDS)).unwrap();
        file.file.write_all_at(&bytes[60..80], 20).unwrap();
        assert_eq!(read(&file, 1), None, "a record in another's place");
    }

    #[test]
    fn another_key_empties_the_file_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), "a").0.write(0, &[1.0, 2.0, 3.0]).unwrap();
        let (file, is_replaced) = open(folder.path(), "b");
        assert!(is_replaced && read(&file, 0).is_none());
    }

    #[test]
    fn a_record_that_was_cut_anywhere_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let (file, _) = open(folder.path(), "a");
        for length in 0..record_bytes(3) {
            file.write(2, &[0.5, 7.0, -1.0]).unwrap();
            let bytes = fs::read(folder.path().join(RECORDS)).unwrap();
            file.file.write_all_at(&vec![0; record_bytes(3) - length], (2 * record_bytes(3) + length) as u64).unwrap();
            let is_changed = fs::read(folder.path().join(RECORDS)).unwrap() != bytes;
            assert_eq!(read(&file, 2).is_none(), is_changed, "cut to {length} bytes");
        }
    }

    #[test]
    fn a_file_without_manifest_or_of_another_length_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (file, _) = open(folder.path(), "a");
        file.write(0, &[1.0, 2.0, 3.0]).unwrap();
        fs::remove_file(folder.path().join(MANIFEST)).unwrap();
        assert!(read(&open(folder.path(), "a").0, 0).is_none());
        let (file, _) = open(folder.path(), "a");
        file.write(0, &[1.0, 2.0, 3.0]).unwrap();
        file.file.set_len(30).unwrap();
        let (file, is_replaced) = open(folder.path(), "a");
        assert!(is_replaced && read(&file, 0).is_none());
    }
}
