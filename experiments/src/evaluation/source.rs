//! Pictures to look at, whatever they come from, as bytes in batches.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use realign::data::files::is_picture;
use realign::data::image::decode;
use realign::data::{FileTree, Fit, Npz, Pictures, in_order};
use realign::plugin::Dataset;
use sha2::{Digest, Sha256};

/// Takes pictures `[count, height, width, 3]`, and the height and width of each.
pub type Take<'a> = dyn FnMut([usize; 2], &[u8]) -> Result<()> + 'a;

/// Pictures that are there already.
#[derive(Debug)]
pub enum Stored {
    /// The array `arr_0` of an `.npz`.
    Npz(PathBuf),
    /// Every picture below a folder or in a zip, as it is; all have one size.
    Files(FileTree),
    /// A data set, which makes them the size that it was opened for.
    Dataset(Arc<dyn Dataset>),
}

impl Stored {
    /// Opens an `.npz`, a folder or a zip, whose pictures are taken as they are.
    ///
    /// # Errors
    /// It is absent, or holds no picture.
    pub fn open(path: &Path) -> Result<Self> {
        if is_npz(path) {
            Npz::open(path)?;
            return Ok(Self::Npz(path.to_path_buf()));
        }
        let files = FileTree::open(path)?;
        ensure!(files.names().iter().any(|name| is_picture(name)), "no pictures in `{}`", path.display());
        Ok(Self::Files(files))
    }

    /// The same, cropped and resized to squares of `side` pixels where they come in files: a reference for pictures of
    /// that size.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_size(path: &Path, [height, width]: [usize; 2]) -> Result<Self> {
        if is_npz(path) || height != width {
            return Self::open(path);
        }
        Ok(Self::Dataset(Arc::new(Pictures::open(path, width, Fit::Crop)?)))
    }

    /// Pictures there are.
    ///
    /// # Errors
    /// The archive has none.
    pub fn num_pictures(&self) -> Result<usize> {
        match self {
            Self::Npz(path) => {
                let shape = Npz::open(path)?.header("arr_0")?.shape;
                shape.first().copied().with_context(|| format!("`arr_0` of `{}` holds no pictures", path.display()))
            }
            Self::Files(files) => Ok(files.names().iter().filter(|name| is_picture(name)).count()),
            Self::Dataset(dataset) => Ok(dataset.len()),
        }
    }

    /// Height and width of the pictures.
    ///
    /// # Errors
    /// The first cannot be read.
    pub fn picture_size(&self) -> Result<[usize; 2]> {
        let mut found = None;
        self.each(1, 1, &mut |size, _| {
            found = Some(size);
            Ok(())
        })?;
        found.context("there is no picture")
    }

    /// Hands `count` pictures on, `batch_size` at a time: the first ones of an archive or folder, as evaluators take
    /// them, and of a data set evenly over all.
    ///
    /// # Errors
    /// There are fewer, one cannot be read, they differ in size, or `take` fails.
    pub fn each(&self, count: usize, batch_size: usize, take: &mut Take<'_>) -> Result<()> {
        let len = self.num_pictures()?;
        ensure!(count <= len, "{count} pictures are asked for, and there are {len}");
        match self {
            Self::Npz(path) => Npz::open(path)?.pictures("arr_0", batch_size, count, take),
            Self::Files(files) => {
                let names: Vec<&String> = files.names().iter().filter(|name| is_picture(name)).take(count).collect();
                let mut first = None;
                for names in names.chunks(batch_size.max(1)) {
                    let mut bytes = vec![];
                    for name in names {
                        let picture = decode(&files.read(name)?, &files.place(name))?;
                        let size = [picture.height(), picture.width()];
                        let [height, width] = *first.get_or_insert(size);
                        ensure!(
                            size == [height, width],
                            "`{}` is {} x {} pixels and the pictures before it {width} x {height}; all must have one size",
                            files.place(name),
                            size[1],
                            size[0]
                        );
                        bytes.extend_from_slice(picture.pixels());
                    }
                    take(first.unwrap_or_default(), &bytes)?;
                }
                Ok(())
            }
            Self::Dataset(dataset) => {
                let indices: Vec<usize> = (0..count).map(|i| i * len / count).collect();
                in_order(&**dataset, &indices, batch_size, |_, examples| {
                    let Some(first) = examples.first() else { return Ok(()) };
                    let size = [first.image.height(), first.image.width()];
                    let bytes: Vec<u8> = examples.iter().flat_map(|example| example.image.pixels().to_vec()).collect();
                    take(size, &bytes)
                })
            }
        }
    }

    /// What tells the pictures from others, as far as it can be told without reading every one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self) -> Result<Option<String>> {
        match self {
            Self::Npz(path) => file_digest(path).map(Some),
            Self::Files(files) => Ok(files.digest()),
            Self::Dataset(dataset) => Ok(dataset.digest()),
        }
    }
}

/// Whether the name is that of an archive of arrays.
pub fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz"))
}

/// SHA-256 of a file in hexadecimal digits.
///
/// # Errors
/// It cannot be read.
pub fn file_digest(path: &Path) -> Result<String> {
    let place = || format!("cannot read `{}`", path.display());
    let (mut hash, mut file) = (Sha256::new(), File::open(path).with_context(place)?);
    io::copy(&mut file, &mut HashWriter(&mut hash)).with_context(place)?;
    Ok(hex(&hash.finalize()))
}

/// The first eight hexadecimal digits of the SHA-256 of a text.
pub fn short_digest(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..4])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses a path that is nothing.
///
/// # Errors
/// It does not exist.
pub fn check_exists(option: &str, path: &Path) -> Result<()> {
    if !path.exists() {
        bail!("{option} `{}` does not exist", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::data::RgbImage;
    use realign::data::image::encode_png;
    use realign::sample::NpzWriter;

    fn write_png(path: PathBuf, [height, width]: [usize; 2], value: u8) {
        let picture = RgbImage::new(width, height, vec![value; height * width * 3]).unwrap();
        std::fs::write(path, encode_png(&picture).unwrap()).unwrap();
    }

    fn seen(stored: &Stored, count: usize) -> Result<Vec<u8>> {
        let mut seen = vec![];
        stored.each(count, 2, &mut |size, bytes| {
            assert_eq!(size, [5, 7]);
            seen.extend(bytes.chunks(105).map(|picture| picture[0]));
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn a_folder_and_an_archive_with_the_same_pictures_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.npz");
        let mut writer = NpzWriter::create(&archive, 3, 5, 7).unwrap();
        let folder = dir.path().join("a");
        std::fs::create_dir(&folder).unwrap();
        for value in 0..3 {
            write_png(folder.join(format!("{value}.png")), [5, 7], value);
            writer.write(&[value; 105]).unwrap();
        }
        writer.finish().unwrap();
        for stored in [Stored::open(&archive).unwrap(), Stored::open(&folder).unwrap()] {
            assert_eq!((stored.num_pictures().unwrap(), stored.picture_size().unwrap()), (3, [5, 7]));
            assert_eq!(seen(&stored, 3).unwrap(), [0, 1, 2]);
            assert_eq!(seen(&stored, 1).unwrap(), [0]);
            assert!(stored.digest().unwrap().is_some());
            let message = seen(&stored, 4).unwrap_err().to_string();
            assert!(message.contains("4 pictures") && message.contains("there are 3"), "{message}");
        }
    }

    #[test]
    fn pictures_of_mixed_size_are_refused_as_samples_and_fitted_as_a_reference() {
        let dir = tempfile::tempdir().unwrap();
        write_png(dir.path().join("a.png"), [5, 7], 1);
        write_png(dir.path().join("b.png"), [9, 7], 2);
        let message = seen(&Stored::open(dir.path()).unwrap(), 2).unwrap_err().to_string();
        assert!(message.contains("b.png` is 7 x 9 pixels") && message.contains("7 x 5"), "{message}");
        assert_eq!(Stored::of_size(dir.path(), [4, 4]).unwrap().picture_size().unwrap(), [4, 4]);
    }

    #[test]
    fn what_is_no_source_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Stored::open(dir.path()).unwrap_err().to_string().contains("no pictures"));
        std::fs::write(dir.path().join("a.npz"), "PK").unwrap();
        assert!(format!("{:#}", Stored::open(&dir.path().join("a.npz")).unwrap_err()).contains("no `.npz`"));
        assert!(check_exists("--reference", &dir.path().join("none")).is_err());
    }
}
