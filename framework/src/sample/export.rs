//! Files of samples: an `.npz` for the ADM evaluator, or a folder of PNGs.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::log::save_png;

/// Writes pictures one batch after another; what is not finished never has the final name.
pub struct ImageWriter {
    target: PathBuf,
    form: Form,
    count: usize,
    written: usize,
    size: [usize; 2],
}

enum Form {
    /// `arr_0`, uint8, `[count, height, width, 3]`, uncompressed: sampling spec, section 9.
    Npz(Box<ZipWriter<BufWriter<File>>>),
    Folder,
}

impl ImageWriter {
    /// Starts a file (a name that ends in `.npz`) or a folder of `count` pictures.
    ///
    /// # Errors
    /// The place exists already as something else, or cannot be written.
    pub fn create(target: &Path, count: usize, height: usize, width: usize) -> Result<Self> {
        let form = match target.extension().is_some_and(|ending| ending == "npz") {
            true => Form::Npz(Box::new(start_npz(target, count, height, width)?)),
            false => {
                fs::create_dir_all(target).with_context(|| format!("cannot make the folder `{}`", target.display()))?;
                Form::Folder
            }
        };
        Ok(Self { target: target.to_path_buf(), form, count, written: 0, size: [height, width] })
    }

    /// Appends pictures: sample, row, column, channel.
    ///
    /// # Errors
    /// They are more than announced, not whole, or the disk refuses.
    pub fn write(&mut self, pictures: &[u8]) -> Result<()> {
        let [height, width] = self.size;
        let each = height * width * 3;
        let added = pictures.len() / each.max(1);
        ensure!(added * each == pictures.len(), "{} bytes are no whole pictures of {height}x{width}", pictures.len());
        ensure!(self.written + added <= self.count, "more than the {} announced pictures", self.count);
        match &mut self.form {
            Form::Npz(zip) => {
                zip.write_all(pictures).with_context(|| format!("cannot write `{}`", self.target.display()))?;
            }
            Form::Folder => {
                for (i, picture) in pictures.chunks_exact(each).enumerate() {
                    save_png(&self.target.join(format!("{:06}.png", self.written + i)), picture, width, height)?;
                }
            }
        }
        self.written += added;
        Ok(())
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// Pictures are missing, or the disk refuses.
    pub fn finish(self) -> Result<()> {
        ensure!(self.written == self.count, "{} of {} pictures were written", self.written, self.count);
        let Form::Npz(zip) = self.form else { return Ok(()) };
        let end = || -> std::io::Result<()> {
            let file = zip.finish()?.into_inner()?;
            file.sync_all()?;
            fs::rename(aside(&self.target), &self.target)
        };
        end().with_context(|| format!("cannot write `{}`", self.target.display()))
    }
}

fn aside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_os_string();
    name.push(".writing");
    PathBuf::from(name)
}

fn start_npz(target: &Path, count: usize, height: usize, width: usize) -> Result<ZipWriter<BufWriter<File>>> {
    if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    }
    let start = || -> Result<ZipWriter<BufWriter<File>>> {
        let mut zip = ZipWriter::new(BufWriter::new(File::create(aside(target))?));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        zip.start_file("arr_0.npy", options)?;
        zip.write_all(&npy_header(&[count, height, width, 3]))?;
        Ok(zip)
    };
    start().with_context(|| format!("cannot write `{}`", target.display()))
}

/// Header of an array of bytes in NumPy's format 1.0, padded to a multiple of 64.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    let sizes = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({sizes}), }}");
    let prefix = 10;
    text.push_str(&" ".repeat((64 - (prefix + text.len() + 1) % 64) % 64));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&(text.len() as u16).to_le_bytes()); // four sizes and a dtype stay far below 64 KiB
    header.extend_from_slice(text.as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn an_npz_holds_the_bytes_in_order_behind_a_padded_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out").join("samples.npz");
        let pictures: Vec<u8> = (0..3 * 5 * 7 * 3).map(|i| i as u8).collect();
        let mut writer = ImageWriter::create(&path, 3, 5, 7).unwrap();
        writer.write(&pictures[..2 * 105]).unwrap();
        assert!(!path.exists());
        writer.write(&pictures[2 * 105..]).unwrap();
        writer.finish().unwrap();
        let mut zip = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let mut bytes = vec![];
        zip.by_name("arr_0.npy").unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 128 + pictures.len());
        assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (3, 5, 7, 3)"));
        assert_eq!(&bytes[128..], pictures);
    }

    #[test]
    fn an_unfinished_file_never_has_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npz");
        let mut writer = ImageWriter::create(&path, 2, 4, 4).unwrap();
        writer.write(&[0; 48]).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("1 of 2"));
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_gets_numbered_pngs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples");
        let mut writer = ImageWriter::create(&path, 2, 4, 4).unwrap();
        writer.write(&[9; 96]).unwrap();
        writer.finish().unwrap();
        assert!(path.join("000000.png").exists() && path.join("000001.png").exists());
    }
}
