//! Pictures of a folder or zip, each with its captions.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use realign::data::FileTree;
use realign::data::crop::adm_center_crop;
use realign::data::files::is_picture;
use realign::data::image::decode;
use realign::plugin::dataset::{Dataset, Example};

/// Captions by the name of their picture's file.
pub type Captions = BTreeMap<String, Vec<String>>;

/// The opened data sets of this folder.
#[derive(Debug)]
pub struct Pictures {
    files: FileTree,
    examples: Vec<Captioned>,
    size: usize,
}

#[derive(Debug)]
struct Captioned {
    file: usize, // place in the tree's names
    captions: Vec<String>,
}

impl Pictures {
    /// Joins the pictures below `path` with captions that `source` gives them. A picture is named by its path below
    /// the folder, or by its file's name where that is unique.
    ///
    /// # Errors
    /// The folder cannot be read; a caption is empty or has no picture; a picture has no caption, unless
    /// `skips_uncaptioned`; there is none left.
    pub fn open(path: &Path, captions: Captions, source: &Path, skips_uncaptioned: bool, size: usize) -> Result<Self> {
        ensure!(size > 0, "image size is `0`; it must be at least 1");
        let files = FileTree::open(path)?;
        let is_picture: Vec<bool> = files.names().iter().map(|name| is_picture(name)).collect();
        let names = Names::new(files.names(), &is_picture);
        let (mut examples, mut lost) = (BTreeMap::<usize, Vec<String>>::new(), vec![]);
        for (name, captions) in captions {
            let is_empty = |caption: &String| caption.trim().is_empty();
            ensure!(!captions.is_empty() && !captions.iter().any(is_empty), "a caption of `{name}` is empty");
            match names.find(&name)? {
                Some(file) => examples.entry(file).or_default().extend(captions),
                None => lost.push(name),
            }
        }
        if !lost.is_empty() {
            bail!(
                "`{}` has captions of {} that are not in `{}`: {}",
                source.display(),
                counted(lost.len()),
                path.display(),
                shortened(lost.iter().map(String::as_str))
            );
        }
        let bare: Vec<&str> = (0..is_picture.len())
            .filter(|file| is_picture[*file] && !examples.contains_key(file))
            .map(|file| files.names()[file].as_str())
            .collect();
        if !bare.is_empty() && !skips_uncaptioned {
            bail!(
                "{} in `{}` without a caption in `{}`: {}; caption them, or set skip_uncaptioned to leave them out",
                counted(bare.len()),
                path.display(),
                source.display(),
                shortened(bare.into_iter())
            );
        }
        ensure!(!examples.is_empty(), "no captioned pictures: `{}` names none", source.display());
        let examples = examples.into_iter().map(|(file, captions)| Captioned { file, captions }).collect();
        Ok(Self { files, examples, size })
    }
}

impl Dataset for Pictures {
    fn len(&self) -> usize {
        self.examples.len()
    }

    fn num_classes(&self) -> usize {
        1
    }

    fn class_name(&self, _label: usize) -> String {
        "picture".into()
    }

    /// The first captions of the pictures in turn, whatever the class.
    fn prompt(&self, idx: u64, _label: usize) -> Option<String> {
        let example = &self.examples[(idx % self.examples.len() as u64) as usize];
        example.captions.first().cloned()
    }

    fn get(&self, idx: usize) -> Result<Example> {
        let example = self.examples.get(idx);
        let example = example.with_context(|| format!("index {idx} of {} examples", self.examples.len()))?;
        let name = &self.files.names()[example.file];
        let image = decode(&self.files.read(name)?, &self.files.place(name))?;
        let image = adm_center_crop(&image, self.size);
        Ok(Example { image, label: 0, captions: example.captions.clone(), mask: None })
    }
}

/// Where pictures lie, by path and by file name.
struct Names<'a> {
    paths: &'a [String],
    is_picture: &'a [bool],
    by_name: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Names<'a> {
    fn new(paths: &'a [String], is_picture: &'a [bool]) -> Self {
        let mut by_name = BTreeMap::<&str, Vec<usize>>::new();
        for (file, path) in paths.iter().enumerate().filter(|(file, _)| is_picture[*file]) {
            by_name.entry(path.rsplit('/').next().unwrap_or(path)).or_default().push(file);
        }
        Self { paths, is_picture, by_name }
    }

    fn find(&self, name: &str) -> Result<Option<usize>> {
        let at = self.paths.binary_search_by(|path| path.as_str().cmp(name)).ok();
        if let Some(file) = at.filter(|file| self.is_picture[*file]) {
            return Ok(Some(file));
        }
        match self.by_name.get(name).map(Vec::as_slice) {
            Some([file]) => Ok(Some(*file)),
            Some([a, b, ..]) => bail!(
                "`{name}` may be `{}` or `{}`; give captions the path below the folder",
                self.paths[*a],
                self.paths[*b]
            ),
            _ => Ok(None),
        }
    }
}

fn counted(count: usize) -> String {
    if count == 1 { "1 picture".into() } else { format!("{count} pictures") }
}

fn shortened<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5; // the whole list of a wrong folder would fill the screen
    let mut list: Vec<&str> = names.by_ref().take(SHOWN).collect();
    list.extend(names.next().map(|_| "…"));
    list.join(", ")
}
