//! MS-COCO: pictures and a file of annotations.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use realign::data::files::read_file;
use realign::plugin::dataset::{Dataset, DatasetConfig, DatasetContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pictures::{Captions, Pictures};

/// `coco`: MS-COCO's pictures with their captions, one of which is drawn whenever a picture is read.
///
/// Source: Lin et al., 2014. Training on 256 pixels takes `train2014` with its 82 783 pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CocoConfig {
    /// Folder or zip of pictures, such as `train2014.zip`.
    pub images: PathBuf,
    /// Annotations of captions, such as `captions_train2014.json`.
    pub annotations: PathBuf,
    /// Leaves out pictures without a caption instead of refusing them.
    pub skip_uncaptioned: bool,
}

impl Default for CocoConfig {
    fn default() -> Self {
        Self {
            images: "data/coco/train2014".into(),
            annotations: "data/coco/annotations/captions_train2014.json".into(),
            skip_uncaptioned: false,
        }
    }
}

/// The parts of an annotation file that captions need.
#[derive(Deserialize)]
struct Annotations {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    caption: String,
}

#[typetag::serde(name = "coco")]
impl DatasetConfig for CocoConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        let open = || {
            for path in [&self.images, &self.annotations] {
                fs::metadata(path).with_context(|| {
                    format!(
                        "the path `{}` cannot be opened; get train2014.zip and annotations_trainval2014.zip from \
                         https://cocodataset.org/#download, or set data.images and data.annotations",
                        path.display()
                    )
                })?;
            }
            let captions = captions(&self.annotations)?;
            Pictures::open(&self.images, captions, &self.annotations, self.skip_uncaptioned, ctx.image_size)
        };
        Ok(Box::new(open().context("data set `coco`")?))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        None
    }

    fn has_captions(&self) -> bool {
        true
    }
}

realign::register!(DatasetConfig as "dataset": CocoConfig);

/// Captions by file name.
fn captions(path: &Path) -> Result<Captions> {
    let read = || -> Result<Captions> {
        let Annotations { images, annotations } = serde_json::from_slice(&read_file(path)?)
            .context("it is no annotation file of captions, with `images` and `annotations`")?;
        let mut by_id = BTreeMap::new();
        for Image { id, file_name } in images {
            if let Some((other, _)) = by_id.insert(id, (file_name, vec![])) {
                bail!("the image id `{id}` is given twice, the first time to `{other}`");
            }
        }
        for Annotation { image_id, caption } in annotations {
            let image = by_id.get_mut(&image_id);
            let (_, captions) =
                image.with_context(|| format!("a caption is of image id `{image_id}`, which is not listed"))?;
            captions.push(caption);
        }
        // An image without a caption is one of the pictures without, which the folder's reader judges.
        let named = by_id.into_values().filter(|(_, captions)| !captions.is_empty());
        let mut captions = Captions::new();
        for (name, texts) in named {
            captions.entry(name).or_default().extend(texts);
        }
        Ok(captions)
    };
    read().with_context(|| format!("annotations `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(case: &str, annotations: &str, skip_uncaptioned: bool) -> Result<Box<dyn Dataset>> {
        let folder = std::env::temp_dir().join(format!("realign-coco-{}-{case}", std::process::id()));
        fs::create_dir_all(folder.join("train2014")).unwrap();
        for (file, gray) in [("train2014/COCO_1.ppm", 10u8), ("train2014/COCO_2.ppm", 20)] {
            fs::write(folder.join(file), [&b"P6 5 5 255 "[..], &[gray; 75]].concat()).unwrap();
        }
        fs::write(folder.join("captions.json"), annotations).unwrap();
        let config = CocoConfig { images: folder.clone(), annotations: folder.join("captions.json"), skip_uncaptioned };
        config.open(&DatasetContext { image_size: 5, seed: 0 })
    }

    const IMAGES: &str = r#""info": {}, "images": [{"id": 7, "file_name": "COCO_2.ppm", "height": 5},
        {"id": 5, "file_name": "COCO_1.ppm"}]"#;

    #[test]
    fn captions_find_their_pictures_by_id() {
        let text = format!(
            r#"{{{IMAGES}, "annotations": [{{"image_id": 7, "id": 1, "caption": "b"}},
               {{"image_id": 5, "id": 2, "caption": "a"}}, {{"image_id": 7, "id": 3, "caption": "c"}}]}}"#
        );
        let data = open("whole", &text, false).unwrap();
        assert_eq!([0, 1].map(|idx| data.get(idx).unwrap().captions), [vec!["a"], vec!["b", "c"]]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let message = |case: &str, annotations: &str| {
            let text = format!(r#"{{{IMAGES}, "annotations": [{annotations}]}}"#);
            format!("{:#}", open(case, &text, false).unwrap_err())
        };
        let unlisted = message("unlisted", r#"{"image_id": 9, "caption": "a"}"#);
        assert!(unlisted.contains("image id `9`, which is not listed"), "{unlisted}");
        let bare = message("bare", r#"{"image_id": 7, "caption": "a"}"#);
        assert!(bare.contains("COCO_1.ppm") && bare.contains("skip_uncaptioned"), "{bare}");
        let text = format!(r#"{{{IMAGES}, "annotations": [{{"image_id": 7, "caption": "a"}}]}}"#);
        assert_eq!(open("skipped", &text, true).unwrap().len(), 1);
        let other = format!("{:#}", open("other", "{}", false).unwrap_err());
        assert!(other.contains("no annotation file of captions"), "{other}");
        let absent = CocoConfig::default().open(&DatasetContext { image_size: 5, seed: 0 }).unwrap_err();
        assert!(format!("{absent:#}").contains("cocodataset.org"), "{absent:#}");
    }
}
