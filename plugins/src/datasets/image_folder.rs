//! Data set of pictures in class folders, in a folder or in a zip that is read in place.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use realign::data::FileTree;
use realign::data::crop::adm_center_crop;
use realign::data::files::{PICTURE_ENDINGS, is_picture};
use realign::data::image::{RgbImage, decode};
use realign::plugin::dataset::{Dataset, DatasetConfig, DatasetContext, Example};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const CLASS_NAMES: &str = "classes.txt";
const MAX_BROKEN_IN_A_ROW: usize = 100; // more than this is a wrong folder, not a damaged file

/// `image_folder`: `<class>/<picture>` below a folder or inside a zip.
///
/// Classes are the subfolders' names in sorted order, pictures are sorted by name inside their class (as in
/// torchvision's `ImageFolder`), and each is center-cropped as ADM does. Hidden files, files without a picture's
/// extension and classes without a picture are left out. A file `classes.txt` at the root (`<folder>`, tab,
/// `<name>` per line) gives classes a name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImageFolderConfig {
    /// Folder or zip archive.
    pub path: PathBuf,
    /// Subfolder that holds the class folders, such as `train` or `val`. Without it, the root holds them; but a
    /// root whose subfolders are exactly `train` and `val` means `train`.
    pub split: Option<String>,
    /// Replaces an unreadable picture by the next readable one and counts it, instead of stopping the run.
    pub skip_broken: bool,
}

#[typetag::serde(name = "image_folder")]
impl DatasetConfig for ImageFolderConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        let is_named = !self.path.as_os_str().is_empty();
        ensure!(is_named, "data set `image_folder`: path is missing; give a folder or zip of `<class>/<picture>`");
        ensure!(ctx.image_size > 0, "data set `image_folder`: image size is `0`; it must be at least 1");
        Ok(Box::new(ImageFolder::open(self, ctx.image_size).context("data set `image_folder`")?))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        None
    }
}

realign::register!(DatasetConfig as "dataset": ImageFolderConfig);

/// The opened data set `image_folder`.
#[derive(Debug)]
pub struct ImageFolder {
    files: FileTree,
    classes: Vec<Class>,
    pictures: Vec<Picture>,
    size: usize,
    skips_broken: bool,
    broken: Mutex<BTreeSet<usize>>,
}

#[derive(Debug)]
struct Class {
    folder: String,
    name: String,
}

#[derive(Debug)]
struct Picture {
    file: usize, // place in the tree's names
    label: usize,
}

impl ImageFolder {
    fn open(config: &ImageFolderConfig, size: usize) -> Result<Self> {
        let files = FileTree::open(&config.path)?;
        let prefix = split_prefix(&files, config.split.as_deref())?;
        let mut classes: Vec<Class> = Vec::new();
        let mut pictures = Vec::new();
        for folder in class_folders(&files, &prefix) {
            let label = classes.len();
            let inside = format!("{prefix}{folder}/");
            let before = pictures.len();
            pictures.extend(
                below(files.names(), &inside)
                    .filter(|&file| is_picture(&files.names()[file]))
                    .map(|file| Picture { file, label }),
            );
            if pictures.len() > before {
                classes.push(Class { name: folder.clone(), folder });
            }
        }
        if pictures.is_empty() {
            bail!(
                "no pictures in `{}`; expected `<class>/<picture>` with one of the extensions {}, or the key `split`",
                files.place(prefix.trim_end_matches('/')),
                PICTURE_ENDINGS.join(", ")
            );
        }
        read_class_names(&files, &mut classes)?;
        let broken = Mutex::new(BTreeSet::new());
        Ok(Self { files, classes, pictures, size, skips_broken: config.skip_broken, broken })
    }

    fn load(&self, idx: usize) -> Result<(RgbImage, usize)> {
        let Some(picture) = self.pictures.get(idx) else {
            bail!("data set `image_folder`: index {idx} of {} examples", self.pictures.len());
        };
        let name = &self.files.names()[picture.file];
        let image = decode(&self.files.read(name)?, &self.files.place(name))?;
        Ok((adm_center_crop(&image, self.size), picture.label))
    }

    /// The first readable picture behind the unreadable `idx`.
    fn replacement(&self, idx: usize, error: anyhow::Error) -> Result<(RgbImage, usize)> {
        self.mark_broken(idx);
        let count = self.pictures.len();
        for step in 1..count.min(MAX_BROKEN_IN_A_ROW) {
            let next = (idx + step) % count;
            match self.load(next) {
                Ok(loaded) => return Ok(loaded),
                Err(_) => self.mark_broken(next),
            }
        }
        Err(error.context(format!("no readable picture among {} in a row", count.min(MAX_BROKEN_IN_A_ROW))))
    }

    fn mark_broken(&self, idx: usize) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(idx);
    }
}

impl Dataset for ImageFolder {
    fn digest(&self) -> Option<String> {
        self.files.digest()
    }

    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn num_classes(&self) -> usize {
        self.classes.len()
    }

    fn class_name(&self, label: usize) -> String {
        self.classes.get(label).map_or_else(|| format!("class {label}"), |class| class.name.clone())
    }

    fn get(&self, idx: usize) -> Result<Example> {
        let (image, label) = match self.load(idx) {
            Err(error) if self.skips_broken && idx < self.pictures.len() => self.replacement(idx, error)?,
            loaded => loaded?,
        };
        Ok(Example { image, label, captions: vec![], mask: None })
    }

    fn num_replaced(&self) -> usize {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// The split's folder with a `/` behind it, or nothing.
fn split_prefix(files: &FileTree, split: Option<&str>) -> Result<String> {
    let top: Vec<&str> = files.folders().iter().map(String::as_str).filter(|folder| !folder.contains('/')).collect();
    let split = match split {
        None if top == ["train", "val"] => "train",
        None => return Ok(String::new()),
        Some(split) => split.trim_matches('/'),
    };
    let is_known = files.folders().binary_search_by(|folder| folder.as_str().cmp(split)).is_ok();
    ensure!(is_known, "split `{split}` is no folder of `{}`; folders there: {}", files.root().display(), shorten(&top));
    Ok(format!("{split}/"))
}

fn shorten(names: &[&str]) -> String {
    let mut list = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 8 {
        list.push_str(", …");
    }
    if list.is_empty() { "none".into() } else { list }
}

fn class_folders(files: &FileTree, prefix: &str) -> Vec<String> {
    let inside = files.folders().iter().filter_map(|folder| folder.strip_prefix(prefix));
    inside.filter(|folder| !folder.contains('/')).map(str::to_string).collect()
}

/// Places of the names that start with `prefix`; they are neighbors, for names are sorted.
fn below(names: &[String], prefix: &str) -> Range<usize> {
    let start = names.partition_point(|name| name.as_str() < prefix);
    start..start + names[start..].partition_point(|name| name.starts_with(prefix))
}

fn read_class_names(files: &FileTree, classes: &mut [Class]) -> Result<()> {
    if files.names().binary_search_by(|name| name.as_str().cmp(CLASS_NAMES)).is_err() {
        return Ok(());
    }
    let place = files.place(CLASS_NAMES);
    let text = String::from_utf8(files.read(CLASS_NAMES)?).with_context(|| format!("`{place}` is not UTF-8"))?;
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
        let Some((folder, name)) = line.split_once('\t') else {
            bail!("{place}:{number}: found `{line}`, expected `<folder>`, a tab, `<name>`");
        };
        for class in classes.iter_mut().filter(|class| class.folder == folder.trim()) {
            class.name = name.trim().to_string();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use realign::data::image::encode_png;
    use std::fs;
    use std::path::Path;

    /// A temporary folder that is removed at the end of its test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("realign-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
            fs::write(path, bytes).unwrap();
        }

        fn open(&self, config: ImageFolderConfig) -> Result<Box<dyn Dataset>> {
            let config = ImageFolderConfig { path: self.0.clone(), ..config };
            config.open(&DatasetContext { image_size: 6, seed: 0 })
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn picture(value: u8) -> Vec<u8> {
        encode_png(&RgbImage::new(13, 9, vec![value; 351]).unwrap()).unwrap()
    }

    fn first_byte(data: &dyn Dataset, idx: usize) -> u8 {
        data.get(idx).unwrap().image.pixels()[0]
    }

    #[test]
    fn classes_and_files_are_sorted_and_odd_files_left_out() {
        let folder = Folder::new("sorted");
        for (name, value) in [("b/2.png", 2), ("a/9.PNG", 9), ("b/1.png", 1), ("a/.x.png", 7), ("top.png", 8)] {
            folder.write(name, &picture(value));
        }
        folder.write("a/notes.txt", b"no picture");
        folder.write("classes.txt", b"b\ta bee\n\n");
        let data = folder.open(ImageFolderConfig::default()).unwrap();
        assert_eq!((data.len(), data.num_classes()), (3, 2));
        assert_eq!([0, 1, 2].map(|idx| first_byte(&*data, idx)), [9, 1, 2]);
        assert_eq!([0, 1].map(|label| data.class_name(label)), ["a", "a bee"]);
        let example = data.get(2).unwrap();
        assert_eq!((example.label, example.image.width(), example.image.height()), (1, 6, 6));
    }

    #[test]
    fn train_is_the_default_split_of_a_root_with_train_and_val() {
        let folder = Folder::new("split");
        folder.write("train/a/1.png", &picture(1));
        folder.write("val/a/2.png", &picture(2));
        assert_eq!(first_byte(&*folder.open(ImageFolderConfig::default()).unwrap(), 0), 1);
        let split = |name: &str| ImageFolderConfig { split: Some(name.into()), ..Default::default() };
        assert_eq!(first_byte(&*folder.open(split("val")).unwrap(), 0), 2);
        let message = format!("{:#}", folder.open(split("test")).unwrap_err());
        assert!(message.contains("`test`") && message.contains("train, val"), "{message}");
    }

    #[test]
    fn an_empty_folder_says_what_is_expected() {
        let folder = Folder::new("empty");
        let message = format!("{:#}", folder.open(ImageFolderConfig::default()).unwrap_err());
        assert!(
            message.contains(&folder.0.display().to_string()) && message.contains("<class>/<picture>"),
            "{message}"
        );
        let missing = ImageFolderConfig::default().open(&DatasetContext { image_size: 6, seed: 0 });
        assert!(missing.unwrap_err().to_string().contains("path is missing"));
    }

    #[test]
    fn a_broken_picture_is_an_error_or_is_replaced_and_counted_once() {
        let folder = Folder::new("broken");
        folder.write("a/1.png", &picture(1));
        folder.write("a/2.png", b"");
        folder.write("b/3.png", &picture(3));
        let strict = folder.open(ImageFolderConfig::default()).unwrap();
        assert!(format!("{:#}", strict.get(1).unwrap_err()).contains("2.png"));
        let lenient = folder.open(ImageFolderConfig { skip_broken: true, ..Default::default() }).unwrap();
        for _ in 0..2 {
            let example = lenient.get(1).unwrap();
            assert_eq!((example.label, example.image.pixels()[0]), (1, 3));
        }
        assert_eq!(lenient.num_replaced(), 1);
    }

    #[test]
    fn a_config_survives_yaml_shaped_values_and_refuses_unknown_keys() {
        let parse = |text: &str| serde_json::from_str::<Box<dyn DatasetConfig>>(text);
        let config = parse(r#"{"type": "image_folder", "path": "x", "split": "val"}"#).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap()["split"], "val");
        assert!(parse(r#"{"type": "image_folder", "paht": "x"}"#).is_err());
    }
}
