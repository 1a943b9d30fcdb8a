//! Data set of pictures in a folder or zip with captions in a JSON, JSON-lines or CSV file.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use realign::plugin::dataset::{Dataset, DatasetConfig, DatasetContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pictures::Pictures;
use super::table;

/// `captioned_folder`: pictures below a folder or inside a zip, with captions in a file beside them.
///
/// The file is a `.json` object of file name to caption or list of captions, or a list of objects; a `.jsonl` with one
/// object per line; or a `.csv` with a header. Objects and columns have `file_name` (or `image`) and `caption` (or
/// `text`); a picture that is named several times has several captions, one of which is drawn whenever it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CaptionedFolderConfig {
    /// Folder or zip of pictures.
    pub path: PathBuf,
    /// File of captions.
    pub captions: PathBuf,
    /// Leaves out pictures without a caption instead of refusing them.
    pub skip_uncaptioned: bool,
}

#[typetag::serde(name = "captioned_folder")]
impl DatasetConfig for CaptionedFolderConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        let open = || {
            for (key, path) in [("path", &self.path), ("captions", &self.captions)] {
                ensure!(!path.as_os_str().is_empty(), "{key} is missing; give a path of pictures and one of captions");
            }
            let captions = table::read(&self.captions)?;
            Pictures::open(&self.path, captions, &self.captions, self.skip_uncaptioned, ctx.image_size)
        };
        Ok(Box::new(open().context("data set `captioned_folder`")?))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        None
    }

    fn has_captions(&self) -> bool {
        true
    }
}

realign::register!(DatasetConfig as "dataset": CaptionedFolderConfig);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder with two pictures and this file of captions.
    fn open(name: &str, text: &str, skip_uncaptioned: bool) -> Result<Box<dyn Dataset>> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("realign-captions-{}-{number}", std::process::id()));
        fs::create_dir_all(folder.join("pictures/b")).unwrap();
        for (file, gray) in [("pictures/a.ppm", 10u8), ("pictures/b/c.ppm", 20)] {
            fs::write(folder.join(file), [&b"P6 5 5 255 "[..], &[gray; 75]].concat()).unwrap();
        }
        fs::write(folder.join(name), text).unwrap();
        let config =
            CaptionedFolderConfig { path: folder.join("pictures"), captions: folder.join(name), skip_uncaptioned };
        let opened = config.open(&DatasetContext { image_size: 5, seed: 0 });
        fs::remove_dir_all(folder.join(name)).ok();
        opened
    }

    fn message(name: &str, text: &str) -> String {
        format!("{:#}", open(name, text, false).unwrap_err())
    }

    #[test]
    fn every_format_of_captions_says_the_same() {
        let expected = [vec!["one", "uno"], vec!["two, \"too\""]];
        for (name, text) in [
            ("a.json", r#"{"a.ppm": ["one", "uno"], "b/c.ppm": "two, \"too\""}"#),
            (
                "b.json",
                r#"[{"image": "a.ppm", "caption": "one"}, {"file_name": "c.ppm", "text": "two, \"too\""},
                   {"image": "a.ppm", "caption": "uno"}]"#,
            ),
            (
                "c.jsonl",
                "{\"file_name\": \"a.ppm\", \"text\": [\"one\", \"uno\"]}\n\n{\"file_name\": \"c.ppm\", \"text\": \"two, \\\"too\\\"\"}\n",
            ),
            ("d.csv", "image,caption\r\na.ppm,one\r\nb/c.ppm,\"two, \"\"too\"\"\"\r\na.ppm,uno\r\n"),
        ] {
            let data = open(name, text, false).unwrap();
            let captions: Vec<_> = (0..2).map(|idx| data.get(idx).unwrap().captions).collect();
            assert_eq!(captions, expected, "{name}");
            assert_eq!((data.len(), data.get(1).unwrap().image.pixels()[0]), (2, 20));
            assert_eq!(data.prompt(3, 0).unwrap(), "two, \"too\"");
        }
    }

    #[test]
    fn captions_and_pictures_without_each_other_are_named() {
        let lost = message("a.json", r#"{"a.ppm": "one", "c.ppm": "two", "x.ppm": "three"}"#);
        assert!(
            lost.contains("a.json") && lost.contains("1 picture that are not in") && lost.contains("x.ppm"),
            "{lost}"
        );
        let bare = message("a.json", r#"{"a.ppm": "one"}"#);
        assert!(
            bare.contains("1 picture in") && bare.contains("b/c.ppm") && bare.contains("skip_uncaptioned"),
            "{bare}"
        );
        assert_eq!(open("a.json", r#"{"a.ppm": "one"}"#, true).unwrap().len(), 1);
        assert!(message("a.json", r#"{"a.ppm": " ", "c.ppm": "two"}"#).contains("a caption of `a.ppm` is empty"));
        assert!(format!("{:#}", open("a.json", "{}", true).unwrap_err()).contains("names none"));
    }

    #[test]
    fn files_that_are_no_captions_are_named_with_the_line() {
        assert!(message("a.json", "{").contains("a.json"));
        assert!(message("a.json", r#"[{"image": "a.ppm"}]"#).contains("entry 1"));
        assert!(message("a.jsonl", "{\"image\": \"a.ppm\", \"text\": \"x\"}\n{").contains("line 2"));
        assert!(message("a.csv", "image,words\na.ppm,one").contains("`caption`"));
        assert!(message("a.csv", "image,caption\na.ppm").contains("line 2"));
        assert!(message("a.csv", "image,caption\na.ppm,\"one").contains("quote"));
        assert!(message("a.txt", "").contains("json, jsonl, csv"));
        let missing = CaptionedFolderConfig::default().open(&DatasetContext { image_size: 6, seed: 0 });
        assert!(format!("{:#}", missing.unwrap_err()).contains("path is missing"));
    }
}
