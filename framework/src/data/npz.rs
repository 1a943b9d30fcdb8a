//! `.npz` archives of NumPy arrays, read as they stream: pictures and reference statistics.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;
use zip::read::ZipFile;

use super::npy::{Element, NpyHeader};

const MOST_DEFLATED: u64 = 1040; // deflate shrinks to a 1032nd at best; what claims more is a trap

/// An archive of arrays, each `<name>.npy`, stored or deflated.
#[derive(Debug)]
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

impl Npz {
    /// Opens the archive and lists its arrays.
    ///
    /// # Errors
    /// It is absent, or no archive.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let archive = ZipArchive::new(BufReader::new(file))
            .with_context(|| format!("`{}` is no `.npz` archive, or it is cut", path.display()))?;
        Ok(Self { path: path.to_path_buf(), archive })
    }

    /// Names of the arrays, without their ending.
    pub fn names(&self) -> Vec<String> {
        self.archive.file_names().filter_map(|name| Some(name.ok()?.strip_suffix(".npy")?.to_string())).collect()
    }

    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        self.archive.index_for_name(&format!("{name}.npy")).is_some()
    }

    /// Shape and kind of an array; reads its header only.
    ///
    /// # Errors
    /// There is none, or it is no readable array.
    pub fn header(&mut self, name: &str) -> Result<NpyHeader> {
        self.with(name, |header, _| Ok(header))
    }

    /// Shape and values of an array of floats or bytes, in f64.
    ///
    /// # Errors
    /// There is none, it is no such array, or it is cut.
    pub fn read(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f64>)> {
        self.with(name, |header, reader| {
            let mut bytes = vec![];
            reader.read_to_end(&mut bytes).context("it is damaged")?;
            ensure!(bytes.len() as u64 == header.num_bytes()?, "it is cut");
            let values = header.element.values(&bytes);
            Ok((header.shape, values))
        })
    }

    /// Hands pictures `[count, height, width, 3]` of unsigned bytes on, `batch_size` at a time and `most` in all, with
    /// the height and width of each.
    ///
    /// # Errors
    /// There is no array of this name, it holds no such pictures, it is cut, or `each` fails.
    pub fn pictures(
        &mut self,
        name: &str,
        batch_size: usize,
        most: usize,
        mut each: impl FnMut([usize; 2], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.with(name, |header, reader| {
            let NpyHeader { element, shape } = header;
            let &[count, height, width, 3] = shape.as_slice() else {
                bail!("its shape is {shape:?}; pictures are [count, height, width, 3]");
            };
            ensure!(element == Element::U8, "its elements are `{}`; pictures are bytes, `|u1`", element.name());
            let size = height * width * 3;
            ensure!(size > 0 && size <= 1 << 28, "pictures of {height} x {width} pixels are out of range");
            let mut left = count.min(most);
            let mut bytes = vec![];
            while left > 0 {
                let taken = left.min(batch_size.max(1));
                bytes.resize(taken * size, 0);
                reader.read_exact(&mut bytes).context("it is cut or damaged")?;
                each([height, width], &bytes)?;
                left -= taken;
            }
            Ok(())
        })
    }

    /// Opens an array and checks that its header and the archive agree on its length.
    fn with<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(NpyHeader, &mut ZipFile<'_, BufReader<File>>) -> Result<T>,
    ) -> Result<T> {
        let place = format!("array `{name}` of `{}`", self.path.display());
        let names = self.names();
        let Some(index) = self.archive.index_for_name(&format!("{name}.npy")) else {
            bail!("`{}` has no array `{name}`; it has: {}", self.path.display(), names.join(", "));
        };
        let num_bytes = fs::metadata(&self.path).map_or(0, |about| about.len());
        let opened = || {
            let mut file = self.archive.by_index(index)?;
            // What the archive says of itself cannot be more than there is of it.
            let (length, packed) = (file.size(), file.compressed_size().min(num_bytes));
            ensure!(
                length <= packed.saturating_mul(MOST_DEFLATED),
                "it claims {length} bytes in {packed}; the archive is damaged"
            );
            let (header, num_read) = NpyHeader::read(&mut file)?;
            let expected = header.num_bytes()?;
            ensure!(
                length.checked_sub(num_read) == Some(expected),
                "its shape {:?} needs {expected} bytes, and there are {}; it is cut or damaged",
                header.shape,
                length.saturating_sub(num_read)
            );
            work(header, &mut file)
        };
        opened().context(place)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    fn array(version: u8, descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn write(path: &Path, method: CompressionMethod, arrays: &[(&str, Vec<u8>)]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in arrays {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    #[test]
    fn arrays_of_every_version_stored_and_deflated_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let doubles: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let singles: Vec<u8> = [0.25f32].iter().flat_map(|value| value.to_le_bytes()).collect();
        let pictures: Vec<u8> = (0..3 * 2 * 5 * 3).collect();
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let arrays = [
                ("mu.npy", array(1, "<f8", "(2,)", &doubles)),
                ("one.npy", array(2, "<f4", "()", &singles)),
                ("arr_0.npy", array(3, "|u1", "(3, 2, 5, 3)", &pictures)),
            ];
            write(&path, method, &arrays);
            let mut npz = Npz::open(&path).unwrap();
            assert_eq!(npz.read("mu").unwrap(), (vec![2], vec![1.5, -2.0]));
            assert_eq!(npz.read("one").unwrap(), (vec![], vec![0.25]));
            assert_eq!(npz.header("arr_0").unwrap().shape, [3, 2, 5, 3]);
            let mut seen = vec![];
            npz.pictures("arr_0", 2, 9, |size, bytes| {
                assert_eq!(size, [2, 5]);
                seen.push(bytes.to_vec());
                Ok(())
            })
            .unwrap();
            assert_eq!((seen.len(), seen.concat()), (2, pictures.clone()));
            assert!(npz.has("mu") && !npz.has("sigma"));
            let message = npz.read("sigma").unwrap_err().to_string();
            assert!(message.contains("no array `sigma`") && message.contains("mu"), "{message}");
        }
    }

    #[test]
    fn wrong_kinds_shapes_and_cut_arrays_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let refused = |array: Vec<u8>| {
            write(&path, CompressionMethod::Deflated, &[("arr_0.npy", array)]);
            format!("{:#}", Npz::open(&path).unwrap().pictures("arr_0", 2, 9, |_, _| Ok(())).unwrap_err())
        };
        for (array, words) in [
            (array(1, "<f4", "(1, 1, 1, 3)", &[0; 12]), "elements are `<f4`"),
            (array(1, "<i8", "(1, 1, 1, 3)", &[0; 24]), "<i8"),
            (array(1, "|u1", "(1, 3, 2, 2)", &[0; 12]), "[1, 3, 2, 2]"),
            (array(1, "|u1", "(2, 1, 2, 3)", &[0; 9]), "needs 12 bytes, and there are 9"),
            (array(1, "|u1", "(99999999999, 99999999999, 1, 3)", &[]), "too large"),
            (array(1, "|u1", "(1, 1, 1, 3)", &[0; 3])[..30].to_vec(), "cut"),
            (b"PK".to_vec(), "no `.npy`"),
        ] {
            let message = refused(array);
            assert!(message.contains(words) && message.contains("array `arr_0` of `"), "{words}: {message}");
        }
    }

    #[test]
    fn a_cut_archive_and_a_header_that_claims_gigabytes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        write(&path, CompressionMethod::Stored, &[("mu.npy", array(1, "<f8", "(2,)", &[0; 16]))]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(format!("{:#}", Npz::open(&path).unwrap_err()).contains("a.npz` is no `.npz` archive"));
        let mut long = b"\x93NUMPY\x02\x00".to_vec();
        long.extend(u32::MAX.to_le_bytes());
        write(&path, CompressionMethod::Stored, &[("mu.npy", long)]);
        let message = format!("{:#}", Npz::open(&path).unwrap().read("mu").unwrap_err());
        assert!(message.contains("header"), "{message}");
        assert!(format!("{:#}", Npz::open(&dir.path().join("none")).unwrap_err()).contains("none"));
    }
}
