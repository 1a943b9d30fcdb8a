//! The ADM crop of a whole data set, done once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, DateTime};

use super::crop::adm_center_crop;
use super::files::FileTree;
use super::files::is_picture;
use super::image::{decode, encode_png};
use crate::files::write_whole;

const AT_ONCE: usize = 64; // pictures in memory
const CLASS_NAMES: &str = "classes.txt"; // goes along

/// Crops every picture below `source` and writes it as PNG under the same name into `target`: a zip when the name ends
/// in `.zip`, a folder otherwise. Returns how many there are; `progress` hears how many are done.
///
/// A folder goes on where it was interrupted, and crops of another size are made again; a zip appears when it is whole.
///
/// # Errors
/// A picture cannot be read, two would get the same name, source and target are one folder, or the disk refuses.
pub fn crop_all(source: &FileTree, target: &Path, size: usize, mut progress: impl FnMut(usize)) -> Result<usize> {
    ensure!(size > 0, "image size `0`; it must be at least 1");
    let pictures = named(source)?;
    ensure!(!pictures.is_empty(), "no pictures in `{}`", source.root().display());
    let is_source =
        target.canonicalize().is_ok_and(|target| source.root().canonicalize().is_ok_and(|root| root == target));
    ensure!(!is_source, "`{}` holds the pictures themselves; choose another folder", target.display());
    let mut output = Output::open(target)?;
    let mut done = 0;
    for chunk in pictures.chunks(AT_ONCE) {
        let missing: Vec<_> = chunk.iter().filter(|(_, png)| !output.has(png, size)).collect();
        let crops = missing.par_iter().map(|(name, png)| {
            let picture = decode(&source.read(name)?, &source.place(name))?;
            Ok((png, encode_png(&adm_center_crop(&picture, size))?))
        });
        for (png, bytes) in crops.collect::<Result<Vec<_>>>()? {
            output.write(png, &bytes)?;
        }
        done += chunk.len();
        progress(done);
    }
    if source.names().iter().any(|name| name == CLASS_NAMES) {
        output.write(CLASS_NAMES, &source.read(CLASS_NAMES)?)?;
    }
    output.finish()?;
    Ok(pictures.len())
}

/// Names of all pictures and of what becomes of them.
fn named(source: &FileTree) -> Result<Vec<(String, String)>> {
    let mut taken = HashSet::new();
    let mut pictures = vec![];
    for name in source.names().iter().filter(|name| is_picture(name)) {
        let (stem, _) = name.rsplit_once('.').ok_or_else(|| anyhow!("`{name}` has no ending"))?;
        let png = format!("{stem}.png");
        ensure!(
            taken.insert(png.clone()),
            "`{}` and another picture would both become `{png}`; rename one",
            source.place(name)
        );
        pictures.push((name.clone(), png));
    }
    Ok(pictures)
}

enum Output {
    Folder(std::path::PathBuf),
    Zip { zip: Box<ZipWriter<File>>, aside: std::path::PathBuf, target: std::path::PathBuf },
}

impl Output {
    fn open(target: &Path) -> Result<Self> {
        let place = || format!("cannot write `{}`", target.display());
        if target.extension().is_none_or(|ending| ending != "zip") {
            fs::create_dir_all(target).with_context(place)?;
            return Ok(Self::Folder(target.to_path_buf()));
        }
        ensure!(!target.exists(), "`{}` exists; remove it or choose another name", target.display());
        let mut aside = target.as_os_str().to_owned();
        aside.push(".partial");
        let zip = Box::new(ZipWriter::new(File::create(&aside).with_context(place)?));
        Ok(Self::Zip { zip, aside: aside.into(), target: target.to_path_buf() })
    }

    /// Whether the folder has this crop, by the width and height that its PNG begins with.
    fn has(&self, name: &str, size: usize) -> bool {
        let Self::Folder(folder) = self else { return false };
        let mut begin = [0; 24];
        let read = File::open(folder.join(name)).and_then(|mut file| file.read_exact(&mut begin));
        let side = |at: usize| u32::from_be_bytes([begin[at], begin[at + 1], begin[at + 2], begin[at + 3]]) as usize;
        read.is_ok() && [side(16), side(20)] == [size, size]
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).with_context(|| format!("cannot make `{}`", parent.display()))?;
                }
                write_whole(&path, bytes)
            }
            Self::Zip { zip, target, .. } => {
                // PNGs are compressed already, and a fixed time makes equal pictures equal archives.
                let options = SimpleFileOptions::default()
                    .compression_method(CompressionMethod::Stored)
                    .last_modified_time(DateTime::default());
                let written = zip.start_file(name, options).map_err(anyhow::Error::from);
                let written = written.and_then(|()| zip.write_all(bytes).map_err(anyhow::Error::from));
                written.with_context(|| format!("cannot write `{}`", target.display()))
            }
        }
    }

    fn finish(self) -> Result<()> {
        let Self::Zip { zip, aside, target } = self else { return Ok(()) };
        let finish = || -> Result<()> {
            zip.finish()?.sync_all()?;
            Ok(fs::rename(&aside, &target)?)
        };
        finish().with_context(|| format!("cannot write `{}`", target.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::RgbImage;

    fn source(folder: &Path) -> FileTree {
        for (name, value) in [("a/1.png", 1), ("a/2.bmp.png", 2), ("b/3.png", 3)] {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, encode_png(&RgbImage::new(9, 7, vec![value; 189]).unwrap()).unwrap()).unwrap();
        }
        fs::write(folder.join("classes.txt"), "a\tfirst").unwrap();
        fs::write(folder.join("notes.md"), "").unwrap();
        FileTree::open(folder).unwrap()
    }

    #[test]
    fn crops_of_another_size_are_made_again_and_sources_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let pictures = source(&folder.path().join("in"));
        let target = folder.path().join("out");
        for size in [4, 6, 6] {
            crop_all(&pictures, &target, size, |_| {}).unwrap();
            let crop = decode(&fs::read(target.join("b/3.png")).unwrap(), "b/3.png").unwrap();
            assert_eq!([crop.width(), crop.height()], [size, size]);
        }
        let problem = crop_all(&pictures, &folder.path().join("in"), 4, |_| {}).unwrap_err().to_string();
        assert!(problem.contains("the pictures themselves"), "{problem}");
    }

    #[test]
    fn a_folder_and_a_zip_hold_the_same_crops() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(&folder.path().join("in"));
        let targets = ["out", "out.zip"].map(|name| folder.path().join(name));
        let trees = targets.map(|target| {
            assert_eq!(crop_all(&source, &target, 5, |_| ()).unwrap(), 3);
            FileTree::open(&target).unwrap()
        });
        assert_eq!(trees[0].names(), ["a/1.png", "a/2.bmp.png", "b/3.png", "classes.txt"]);
        assert_eq!(trees[0].names(), trees[1].names());
        for name in trees[0].names() {
            assert_eq!(trees[0].read(name).unwrap(), trees[1].read(name).unwrap());
        }
        let crop = decode(&trees[1].read("b/3.png").unwrap(), "b/3.png").unwrap();
        assert_eq!((crop.width(), crop.height(), crop.pixels()[0]), (5, 5, 3));
        let again = crop_all(&source, &folder.path().join("out.zip"), 5, |_| ()).unwrap_err();
        assert!(again.to_string().contains("exists"));
    }

    #[test]
    fn an_interrupted_folder_is_completed_and_two_of_a_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in");
        let (source, target) = (source(&input), folder.path().join("out"));
        crop_all(&source, &target, 5, |_| ()).unwrap();
        fs::remove_file(target.join("a/1.png")).unwrap();
        let before = fs::metadata(target.join("b/3.png")).unwrap().modified().unwrap();
        crop_all(&source, &target, 5, |_| ()).unwrap();
        assert!(target.join("a/1.png").exists());
        assert_eq!(fs::metadata(target.join("b/3.png")).unwrap().modified().unwrap(), before);
        fs::write(input.join("a/1.jpg"), "").unwrap();
        let clash = crop_all(&FileTree::open(&input).unwrap(), &target, 5, |_| ()).unwrap_err().to_string();
        assert!(clash.contains("a/1.png"), "{clash}");
    }
}
