//! Pictures to a file for the ADM evaluator or to a folder of PNGs, in the order of their indices.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::npz::NpzWriter;
use crate::log::encode_png;

/// Takes pictures in index order; the target gets its name when all of them are there.
///
/// ```no_run
/// # fn export(pictures: &[u8]) -> anyhow::Result<()> {
/// let mut writer = realign::sample::ImageWriter::create("samples.npz".as_ref(), 16, 32, 32)?;
/// writer.write(pictures)?; // any number of whole pictures at a time
/// writer.finish()
/// # }
/// ```
pub struct ImageWriter {
    target: Target,
    num: usize,
    num_written: usize,
    height: usize,
    width: usize,
}

enum Target {
    Npz(Box<NpzWriter>),
    Folder(PngFolder),
}

impl ImageWriter {
    /// Begins `num` pictures: a target that ends in `.npz` becomes a file with the array `arr_0`, any other a
    /// folder of `{index:06}.png`.
    ///
    /// # Errors
    /// The target cannot be made, is a folder with files in it, or a size is zero.
    pub fn create(target: &Path, num: usize, height: usize, width: usize) -> Result<Self> {
        ensure!(
            num > 0 && height > 0 && width > 0,
            "cannot write `{}`: found `{num}` pictures of {height} x {width} pixels; none of them may be zero",
            target.display()
        );
        let is_npz = target.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npz"));
        let target = if is_npz {
            Target::Npz(Box::new(NpzWriter::create(target, num, height, width)?))
        } else {
            Target::Folder(PngFolder::create(target)?)
        };
        Ok(Self { target, num, num_written: 0, height, width })
    }

    /// Appends whole pictures.
    ///
    /// # Shapes
    /// * `pictures`: `[count, height, width, 3]`, RGB
    ///
    /// # Errors
    /// The bytes are no whole pictures or more than were announced, or the disk refuses.
    pub fn write(&mut self, pictures: &[u8]) -> Result<()> {
        let size = self.height * self.width * 3;
        ensure!(
            pictures.len().is_multiple_of(size),
            "pictures to write: found {} bytes, which is no multiple of {} x {} x 3",
            pictures.len(),
            self.height,
            self.width
        );
        let count = pictures.len() / size;
        ensure!(
            count <= self.num - self.num_written,
            "pictures to write: found `{count}` after `{}`, but `{}` were announced",
            self.num_written,
            self.num
        );
        match &mut self.target {
            Target::Npz(npz) => npz.write(pictures)?,
            Target::Folder(folder) => folder.write(pictures, self.num_written, self.height, self.width)?,
        }
        self.num_written += count;
        Ok(())
    }

    /// Completes the target and gives it its name.
    ///
    /// # Errors
    /// Pictures are missing, or the disk refuses.
    pub fn finish(self) -> Result<()> {
        ensure!(
            self.num_written == self.num,
            "pictures to write: found `{}`, but `{}` were announced",
            self.num_written,
            self.num
        );
        match self.target {
            Target::Npz(npz) => npz.finish(),
            Target::Folder(folder) => folder.finish(),
        }
    }
}

/// A folder that is filled beside its name and renamed when it is full.
struct PngFolder {
    path: PathBuf,
    aside: PathBuf,
}

impl PngFolder {
    fn create(path: &Path) -> Result<Self> {
        let is_free = match std::fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => !path.exists(),
        };
        ensure!(is_free, "`{}` is there already; remove it or name another folder", path.display());
        let mut aside = path.components().as_path().as_os_str().to_owned();
        aside.push(format!(".{}.partial", std::process::id()));
        let aside = PathBuf::from(aside);
        std::fs::create_dir(&aside).with_context(|| format!("cannot make folder `{}`", path.display()))?;
        Ok(Self { path: path.to_path_buf(), aside })
    }

    fn write(&self, pictures: &[u8], first: usize, height: usize, width: usize) -> Result<()> {
        pictures.par_chunks_exact(height * width * 3).enumerate().try_for_each(|(i, picture)| {
            let name = format!("{:06}.png", first + i);
            let png = encode_png(picture, width, height)?;
            std::fs::write(self.aside.join(&name), png)
                .with_context(|| format!("cannot write `{}`", self.path.join(&name).display()))
        })
    }

    fn finish(self) -> Result<()> {
        std::fs::rename(&self.aside, &self.path)
            .with_context(|| format!("cannot make folder `{}`", self.path.display()))
    }
}

impl Drop for PngFolder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.aside).ok(); // after `finish` it has its name already
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(count: usize) -> Vec<u8> {
        (0..count * 5 * 7 * 3).map(|i| (i * 13 % 256) as u8).collect()
    }

    #[test]
    fn a_folder_holds_one_lossless_png_per_index() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("samples");
        let bytes = pictures(3);
        let mut writer = ImageWriter::create(&target, 3, 5, 7).unwrap();
        writer.write(&bytes[..105]).unwrap();
        assert!(!target.exists());
        writer.write(&bytes[105..]).unwrap();
        writer.finish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for (i, expected) in bytes.chunks(105).enumerate() {
            let found = image::open(target.join(format!("{i:06}.png"))).unwrap().into_rgb8();
            assert_eq!((found.dimensions(), found.as_raw().as_slice()), ((7, 5), expected));
        }
        let message = ImageWriter::create(&target, 3, 5, 7).err().unwrap().to_string();
        assert!(message.contains("there already"), "{message}");
    }

    #[test]
    fn the_name_decides_between_file_and_folder() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("samples.npz");
        let mut writer = ImageWriter::create(&target, 2, 5, 7).unwrap();
        writer.write(&pictures(2)).unwrap();
        writer.finish().unwrap();
        assert!(target.is_file());
    }

    #[test]
    fn too_few_too_many_and_torn_pictures_are_errors_that_leave_nothing() {
        for name in ["samples.npz", "samples"] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = ImageWriter::create(&dir.path().join(name), 2, 5, 7).unwrap();
            assert!(writer.write(&pictures(2)[1..]).unwrap_err().to_string().contains("209 bytes"));
            writer.write(&pictures(1)).unwrap();
            assert!(writer.write(&pictures(2)).unwrap_err().to_string().contains("`2` after `1`"));
            assert!(writer.finish().is_err());
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
            assert!(ImageWriter::create(&dir.path().join(name), 0, 5, 7).is_err());
        }
    }
}
