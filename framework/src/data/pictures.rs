//! All pictures below a folder or in a zip, whatever its layout: for looking at and measuring, where no class matters.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::crop::adm_center_crop;
use super::files::{FileTree, PICTURE_ENDINGS, is_picture};
use super::image::{RgbImage, decode};
use super::resample::{Filter, resize};
use crate::plugin::{Dataset, Example};

/// How a picture becomes square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// ADM's center crop, as in training.
    #[default]
    Crop,
    /// The whole picture, stretched (bicubic), as iREPA's scripts for metrics and figures do.
    Squash,
}

impl Fit {
    /// A square of `size` pixels.
    pub fn apply(self, picture: &RgbImage, size: usize) -> RgbImage {
        match self {
            Self::Crop => adm_center_crop(picture, size),
            Self::Squash => resize(picture, size, size, Filter::Bicubic),
        }
    }
}

/// The pictures, in the order of their names, as a data set of one class.
#[derive(Debug)]
pub struct Pictures {
    files: FileTree,
    names: Vec<String>,
    size: usize,
    fit: Fit,
}

impl Pictures {
    /// Lists the pictures below `path`; they become squares of `size` pixels.
    ///
    /// # Errors
    /// `path` is no folder and no zip, or holds no picture.
    pub fn open(path: &Path, size: usize, fit: Fit) -> Result<Self> {
        let files = FileTree::open(path)?;
        let names: Vec<String> = files.names().iter().filter(|name| is_picture(name)).cloned().collect();
        if names.is_empty() {
            bail!("no pictures in `{}`; known endings: {}", path.display(), PICTURE_ENDINGS.join(", "));
        }
        Ok(Self { files, names, size, fit })
    }

    /// The pictures' names, relative to the folder or inside the zip.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The bytes of picture `idx`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn bytes(&self, idx: usize) -> Result<Vec<u8>> {
        let name = self.names.get(idx).with_context(|| format!("picture {idx} of {}", self.names.len()))?;
        self.files.read(name)
    }
}

impl Dataset for Pictures {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn num_classes(&self) -> usize {
        1
    }

    fn class_name(&self, _label: usize) -> String {
        "picture".into()
    }

    fn get(&self, idx: usize) -> Result<Example> {
        let bytes = self.bytes(idx)?;
        let image = self.fit.apply(&decode(&bytes, &self.files.place(&self.names[idx]))?, self.size);
        Ok(Example { image, label: 0, captions: vec![], mask: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::encode_png;

    #[test]
    fn pictures_of_any_layout_come_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("b/x.png", 2), ("a.png", 1), ("b/c/y.PNG", 3)] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, encode_png(&RgbImage::new(13, 9, vec![value; 351]).unwrap()).unwrap()).unwrap();
        }
        std::fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
        for fit in [Fit::Crop, Fit::Squash] {
            let pictures = Pictures::open(folder.path(), 5, fit).unwrap();
            assert_eq!(pictures.names(), ["a.png", "b/c/y.PNG", "b/x.png"]);
            let first = |idx: usize| pictures.get(idx).unwrap().image;
            assert_eq!([0, 1, 2].map(|idx| first(idx).pixels()[0]), [1, 3, 2]);
            assert_eq!((first(0).width(), first(0).height()), (5, 5));
            assert!(pictures.get(3).is_err());
        }
    }

    #[test]
    fn a_folder_without_pictures_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Pictures::open(folder.path(), 5, Fit::Crop).unwrap_err().to_string().contains("no pictures in"));
    }
}
