//! The `.npz` that the ADM evaluator reads: an array `arr_0` of bytes, stored uncompressed, and statistics beside it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::data::npy::Element;

const HEADER_ALIGNMENT: usize = 64; // of the array's bytes inside the entry, as numpy writes them

/// A growing `.npz` of arrays in C order.
///
/// It grows beside its name and gets the name when it is whole; one that is dropped before leaves nothing.
pub struct NpzWriter {
    path: PathBuf,
    aside: PathBuf,
    zip: Option<ZipWriter<Sink>>,
    num_missing: u64,
}

impl NpzWriter {
    /// Begins the file with the array `arr_0` of pictures; their bytes follow by [`write`](Self::write).
    ///
    /// # Errors
    /// The file cannot be made, or the array would have no or too many bytes.
    pub fn create(path: &Path, num: usize, height: usize, width: usize) -> Result<Self> {
        let mut writer = Self::empty(path)?;
        writer.begin("arr_0", Element::U8, &[num, height, width, 3])?;
        Ok(writer)
    }

    /// Begins the file without an array.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn empty(path: &Path) -> Result<Self> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}.partial", std::process::id()));
        let aside = PathBuf::from(aside);
        let file = File::create(&aside).with_context(|| format!("cannot write `{}`", path.display()))?;
        let zip = Some(ZipWriter::new(Sink { file, has_failed: false }));
        Ok(Self { path: path.to_path_buf(), aside, zip, num_missing: 0 })
    }

    /// Begins an array; its bytes follow by [`write`](Self::write).
    ///
    /// # Errors
    /// The array before it is not whole, this one would have no or too many bytes, or the disk refuses.
    pub fn begin(&mut self, name: &str, element: Element, shape: &[usize]) -> Result<()> {
        self.check_whole()?;
        let size = shape.iter().try_fold(element.num_bytes() as u64, |size, &n| size.checked_mul(n as u64));
        let place = || format!("cannot write `{}`: an array of shape {shape:?}", self.path.display());
        let size = size.filter(|&size| size > 0).with_context(place)?;
        let header = npy_header(element, shape);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(size + header.len() as u64 >= u64::from(u32::MAX)); // such sizes need the zip64 form
        self.num_missing = size;
        self.on_zip(|zip| {
            zip.start_file(format!("{name}.npy"), options)?;
            zip.write_all(&header)
        })
    }

    /// Begins an array and writes all of its values.
    ///
    /// # Errors
    /// As [`begin`](Self::begin) and [`write`](Self::write).
    pub fn write_f64(&mut self, name: &str, shape: &[usize], values: &[f64]) -> Result<()> {
        self.begin(name, Element::F64, shape)?;
        self.write(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Appends bytes of the array, in C order.
    ///
    /// # Errors
    /// The disk refuses, or there are more bytes than the array holds.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(num_missing) = self.num_missing.checked_sub(bytes.len() as u64) else {
            anyhow::bail!(
                "`{}`: found {} bytes, but the array has room for {} more",
                self.path.display(),
                bytes.len(),
                self.num_missing
            )
        };
        self.on_zip(|zip| zip.write_all(bytes))?;
        self.num_missing = num_missing;
        Ok(())
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// Bytes are missing, or the disk refuses; then nothing is left under the name that was not there before.
    pub fn finish(mut self) -> Result<()> {
        self.check_whole()?;
        let zip = self.zip.take().with_context(|| format!("cannot write `{}`", self.path.display()))?;
        let named = zip
            .finish()
            .map_err(io::Error::from)
            .and_then(|sink| sink.close())
            .and_then(|()| std::fs::rename(&self.aside, &self.path));
        named.with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    fn check_whole(&self) -> Result<()> {
        ensure!(
            self.num_missing == 0,
            "`{}`: {} bytes of the array are missing",
            self.path.display(),
            self.num_missing
        );
        Ok(())
    }

    fn on_zip(&mut self, write: impl FnOnce(&mut ZipWriter<Sink>) -> io::Result<()>) -> Result<()> {
        let zip = self.zip.as_mut().context("the file is closed")?;
        write(zip).with_context(|| format!("cannot write `{}`", self.path.display()))
    }
}

impl Drop for NpzWriter {
    fn drop(&mut self) {
        drop(self.zip.take());
        std::fs::remove_file(&self.aside).ok(); // after `finish` it has its name already
    }
}

/// The file behind the zip writer. The zip writer tries to complete the archive when it is dropped and complains
/// on the terminal when it cannot; after a failure, which is reported already, it is told that all is well.
struct Sink {
    file: File,
    has_failed: bool,
}

impl Sink {
    fn close(self) -> io::Result<()> {
        if self.has_failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.file.sync_all()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.has_failed {
            return Ok(bytes.len());
        }
        let written = self.file.write(bytes);
        self.has_failed = matches!(&written, Err(error) if error.kind() != io::ErrorKind::Interrupted);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Sink {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Magic, version 1.0, length and description of an array in C order.
fn npy_header(element: Element, shape: &[usize]) -> Vec<u8> {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let shape = format!("({}{comma})", sizes.join(", "));
    let text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", element.name());
    let padding = (HEADER_ALIGNMENT - (10 + text.len() + 1) % HEADER_ALIGNMENT) % HEADER_ALIGNMENT;
    let length = (text.len() + padding + 1) as u16; // a few numbers of at most 20 digits each
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(length.to_le_bytes());
    header.extend(text.bytes());
    header.extend(std::iter::repeat_n(b' ', padding));
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_header_is_numpys() {
        let header = npy_header(Element::U8, &[50_000, 256, 256, 3]);
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (50000, 256, 256, 3), }";
        assert_eq!(header.len(), 128);
        assert_eq!(header[..10], *b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(header[10..], *format!("{text:<117}\n").as_bytes());
    }

    #[test]
    fn the_archive_holds_one_stored_entry_with_the_bytes_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.npz");
        let bytes: Vec<u8> = (0..3 * 5 * 7 * 3).map(|i| (i % 251) as u8).collect();
        let mut writer = NpzWriter::create(&path, 3, 5, 7).unwrap();
        writer.write(&bytes[..105]).unwrap();
        assert!(!path.exists());
        writer.write(&bytes[105..]).unwrap();
        writer.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut archive = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(archive.len(), 1);
        let mut entry = archive.by_name("arr_0.npy").unwrap();
        assert_eq!(entry.compression(), CompressionMethod::Stored);
        let mut found = vec![];
        entry.read_to_end(&mut found).unwrap();
        assert_eq!(found, [npy_header(Element::U8, &[3, 5, 7, 3]), bytes].concat());
    }

    #[test]
    fn statistics_stand_beside_pictures_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reference.npz");
        let mut writer = NpzWriter::create(&path, 1, 1, 2).unwrap();
        assert!(writer.write_f64("mu", &[2], &[0.5, -1.0]).unwrap_err().to_string().contains("6 bytes"));
        writer.write(&[7; 6]).unwrap();
        writer.write_f64("mu", &[2], &[0.5, -1.0]).unwrap();
        writer.write_f64("sigma", &[2, 1], &[3.0, 4.0]).unwrap();
        writer.finish().unwrap();
        let mut read = crate::data::Npz::open(&path).unwrap();
        assert_eq!(read.read("mu").unwrap(), (vec![2], vec![0.5, -1.0]));
        assert_eq!(read.read("sigma").unwrap(), (vec![2, 1], vec![3.0, 4.0]));
        assert_eq!(read.read("arr_0").unwrap().1, [7.0; 6]);
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_and_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.npz");
        std::fs::write(&path, b"old").unwrap();
        let mut writer = NpzWriter::create(&path, 2, 5, 7).unwrap();
        writer.write(&[1; 105]).unwrap();
        assert!(writer.write(&[1; 106]).unwrap_err().to_string().contains("room for 105 more"));
        assert!(writer.finish().unwrap_err().to_string().contains("105 bytes"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(NpzWriter::create(&path, 0, 5, 7).is_err());
        assert!(NpzWriter::create(&path, usize::MAX, 256, 256).is_err());
        assert!(NpzWriter::create(&dir.path().join("absent/samples.npz"), 1, 5, 7).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_leaves_nothing_under_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.npz");
        let mut writer = NpzWriter::create(&path, 2, 5, 7).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        writer.zip = Some(ZipWriter::new(Sink { file: full, has_failed: false }));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let begun = writer.on_zip(|zip| Ok(zip.start_file("arr_0.npy", options)?));
        let message = format!("{:#}", begun.and_then(|()| writer.write(&[1; 105])).unwrap_err());
        assert!(message.contains("samples.npz") && message.contains("space"), "{message}");
        writer.num_missing = 0;
        assert!(writer.finish().is_err());
        assert!(!path.exists());
    }
}
