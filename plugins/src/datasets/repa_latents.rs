//! Data set of latents as REPA's preprocessing writes them.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use realign::data::FileTree;
use realign::data::crop::adm_center_crop;
use realign::data::files::is_picture;
use realign::data::image::{RgbImage, decode};
use realign::data::latent_cache::{CachedLatents, LatentsInfo};
use realign::data::npy::read_npy;
use realign::plugin::dataset::{Dataset, DatasetConfig, DatasetContext, Example};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const LABELS: &str = "dataset.json";
const MAX_CLASSES: usize = 1 << 24;

/// `repa_latents`: one array per picture and a list of labels, as REPA's and EDM2's `dataset_tools.py` write them.
///
/// `latents` holds `<folder>/img-mean-std-<number>.npy` of shape `[2 · channels, height, width]` and `dataset.json` with
/// `{"labels": [[name, class], …]}`; `pictures` holds the pictures. Both are taken in the order of their names. Source:
/// REPA `dataset.py`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepaLatentsConfig {
    /// Folder or zip of the arrays, such as `vae-sd`.
    pub path: PathBuf,
    /// Folder or zip of the pictures, such as `images`; needed for alignment.
    pub pictures: Option<PathBuf>,
    /// What the second half of an array is; it cannot be told by looking.
    pub format: ArrayFormat,
}

/// What the second half of an array is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArrayFormat {
    /// The standard deviation (REPA, iREPA, REPA-E).
    #[default]
    MeanStd,
    /// The logarithm of the variance (U-ViT's and zhuyu's caches).
    MeanLogVariance,
}

#[typetag::serde(name = "repa_latents")]
impl DatasetConfig for RepaLatentsConfig {
    fn open(&self, ctx: &DatasetContext) -> Result<Box<dyn Dataset>> {
        let is_named = !self.path.as_os_str().is_empty();
        ensure!(is_named, "data set `repa_latents`: path is missing; give a folder such as `vae-sd`");
        Ok(Box::new(RepaLatents::open(self, ctx.image_size).context("data set `repa_latents`")?))
    }

    fn num_classes_hint(&self) -> Option<usize> {
        None
    }
}

realign::register!(DatasetConfig as "dataset": RepaLatentsConfig);

#[derive(Debug)]
struct RepaLatents {
    arrays: Files,
    pictures: Option<Files>,
    labels: Vec<usize>,
    num_classes: usize,
    image_size: usize,
    format: ArrayFormat,
    info: LatentsInfo,
}

/// The files of a tree that belong to examples, in their order.
#[derive(Debug)]
struct Files {
    tree: FileTree,
    names: Vec<String>,
}

impl Files {
    fn open(path: &std::path::Path, is_wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let tree = FileTree::open(path)?;
        let names = tree.names().iter().filter(|name| is_wanted(name)).cloned().collect();
        Ok(Self { tree, names })
    }

    fn read(&self, idx: usize) -> Result<(Vec<u8>, String)> {
        let name = self.names.get(idx).with_context(|| format!("index {idx} of {} examples", self.names.len()))?;
        Ok((self.tree.read(name)?, self.tree.place(name)))
    }
}

#[derive(Deserialize)]
struct LabelList {
    labels: Option<Vec<(String, usize)>>,
}

impl RepaLatents {
    fn open(config: &RepaLatentsConfig, image_size: usize) -> Result<Self> {
        let arrays = Files::open(&config.path, |name| name.ends_with(".npy"))?;
        let place = config.path.display().to_string();
        ensure!(!arrays.names.is_empty(), "`{place}` has no `.npy` file");
        let labels = labels(&arrays)?;
        let pictures = config.pictures.as_ref().map(|path| Files::open(path, is_picture)).transpose()?;
        if let (Some(pictures), count) = (&pictures, arrays.names.len()) {
            let found = pictures.names.len();
            ensure!(found == count, "there are {found} pictures and {count} latents");
        }
        let (bytes, first) = arrays.read(0)?;
        let (shape, _) = read_npy(&bytes).with_context(|| format!("`{first}`"))?;
        // Some files keep a leading axis for the batch of one that made them.
        let [channels, height, width] = match shape.as_slice() {
            [channels, height, width] | [1, channels, height, width] if channels % 2 == 0 => {
                [channels / 2, *height, *width]
            }
            _ => bail!("`{first}` is of shape {shape:?}, expected [2 · channels, height, width]"),
        };
        let info = LatentsInfo {
            place,
            shape: [channels, height, width],
            image_size: None,
            autoencoder: None,
            statistics: None,
            has_pictures: pictures.is_some(),
        };
        let num_classes = labels.iter().max().map_or(1, |largest| largest + 1);
        Ok(Self { arrays, pictures, labels, num_classes, image_size, format: config.format, info })
    }
}

/// Class of each array, in their order.
fn labels(arrays: &Files) -> Result<Vec<usize>> {
    let place = arrays.tree.place(LABELS);
    let text = arrays.tree.read(LABELS)?;
    let list: LabelList = serde_json::from_slice(&text).with_context(|| format!("`{place}` is no list of labels"))?;
    let list = list.labels.with_context(|| format!("`{place}` has no labels"))?;
    let by_name: HashMap<String, usize> =
        list.into_iter().map(|(name, label)| (name.replace('\\', "/"), label)).collect();
    let label = |name: &String| {
        let label = by_name.get(name).copied().with_context(|| format!("`{place}` has no label of `{name}`"))?;
        ensure!(
            label < MAX_CLASSES,
            "`{place}`: label {label} of `{name}` is out of range; allowed is 0 to {}",
            MAX_CLASSES - 1
        );
        Ok(label)
    };
    arrays.names.iter().map(label).collect()
}

impl Dataset for RepaLatents {
    fn len(&self) -> usize {
        self.arrays.names.len()
    }

    fn num_classes(&self) -> usize {
        self.num_classes
    }

    fn class_name(&self, label: usize) -> String {
        format!("class {label}")
    }

    fn get(&self, idx: usize) -> Result<Example> {
        let label = *self.labels.get(idx).with_context(|| format!("index {idx} of {} latents", self.labels.len()))?;
        let image = match &self.pictures {
            Some(pictures) => {
                let (bytes, place) = pictures.read(idx)?;
                adm_center_crop(&decode(&bytes, &place)?, self.image_size)
            }
            None => RgbImage::new(1, 1, vec![0; 3])?, // nobody looks at it: alignment without pictures is refused
        };
        Ok(Example { image, label, captions: vec![], mask: None })
    }

    fn latents(&self) -> Option<&dyn CachedLatents> {
        Some(self)
    }
}

impl CachedLatents for RepaLatents {
    fn info(&self) -> &LatentsInfo {
        &self.info
    }

    fn moments(&self, idx: usize) -> Result<Vec<f32>> {
        let (bytes, place) = self.arrays.read(idx)?;
        let (shape, mut values) = read_npy(&bytes).with_context(|| format!("`{place}`"))?;
        let half: usize = self.info.shape.iter().product();
        let [channels, height, width] = self.info.shape;
        let is_alike = shape.ends_with(&[2 * channels, height, width]) && values.len() == 2 * half;
        ensure!(is_alike, "`{place}` is of shape {shape:?}, and the first is [{}, {height}, {width}]", 2 * channels);
        if self.format == ArrayFormat::MeanLogVariance {
            for value in &mut values[half..] {
                *value = (value.clamp(-30.0, 20.0) / 2.0).exp();
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn array(values: &[f32]) -> Vec<u8> {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 3), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    fn write(folder: &Path, labels: &str) -> RepaLatentsConfig {
        for (at, class) in [(0u8, 7f32), (1, 9.0)] {
            let path = folder.join(format!("0000{at}/img-mean-std-0000000{at}.npy"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, array(&[class, 0.0, 0.0, 0.0, 2.0, 0.0])).unwrap();
        }
        fs::write(folder.join(LABELS), labels).unwrap();
        RepaLatentsConfig { path: folder.into(), ..Default::default() }
    }

    const CTX: DatasetContext = DatasetContext { image_size: 6, seed: 0 };

    #[test]
    fn arrays_and_labels_are_matched_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let labels = r#"{"labels": [["00001/img-mean-std-00000001.npy", 4], ["00000/img-mean-std-00000000.npy", 2]]}"#;
        let config = write(folder.path(), labels);
        let data = config.open(&CTX).unwrap();
        assert_eq!((data.len(), data.num_classes(), data.get(0).unwrap().label), (2, 5, 2));
        let latents = data.latents().unwrap();
        assert_eq!(latents.info().shape, [1, 1, 3]);
        assert_eq!(latents.moments(1).unwrap(), [9.0, 0.0, 0.0, 0.0, 2.0, 0.0]);
        let logarithms = RepaLatentsConfig { format: ArrayFormat::MeanLogVariance, ..config };
        let data = logarithms.open(&CTX).unwrap();
        assert_eq!(data.latents().unwrap().moments(0).unwrap()[3..], [1.0, 1f32.exp(), 1.0]);
    }

    #[test]
    fn a_missing_label_or_picture_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let config = write(folder.path(), r#"{"labels": [["00000/img-mean-std-00000000.npy", 2]]}"#);
        let message = |config: &RepaLatentsConfig| format!("{:#}", config.open(&CTX).unwrap_err());
        assert!(message(&config).contains("00001/img-mean-std-00000001.npy"));
        let config = write(folder.path(), r#"{"labels": null}"#);
        assert!(message(&config).contains("no labels"));
        let labels = r#"{"labels": [["00001/img-mean-std-00000001.npy", 4], ["00000/img-mean-std-00000000.npy", 2]]}"#;
        let empty = tempfile::tempdir().unwrap();
        let config = RepaLatentsConfig { pictures: Some(empty.path().into()), ..write(folder.path(), labels) };
        assert!(message(&config).contains("0 pictures and 2 latents"));
    }
}
