//! Naming pictures and masks on the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use realign::burn::tensor::Device;
use realign::data::{Fit, Pictures};
use realign::eval::spatial_masks::{LEAST_SHARE, is_balanced, read_mask, token_mask};
use realign::ops::{self, DeviceChoice};
use realign::plugin::{Dataset, DatasetConfig, DatasetContext, Example, PatchGrid};
use realign::recipe::Layered;
use realign::registry;
use serde::Deserialize;

/// Where pictures come from, and how they are looked at.
#[derive(Debug, Clone, Args)]
pub struct PictureArgs {
    /// Pictures: a folder or zip (all pictures in it), or a data set as in a recipe: `shapes`, `{type: shapes}`
    #[arg(long, value_name = "SOURCE")]
    pub images: String,
    /// Object masks: a folder or zip of pictures with the names of those of `--images`; not 0 is the object
    #[arg(long, value_name = "FOLDER")]
    pub masks: Option<PathBuf>,
    /// Pictures taken, evenly over the source; 0 takes all
    #[arg(long, default_value_t = 256)]
    pub num: usize,
    /// Side of the pictures that encoders get, in pixels; 256 when left out
    #[arg(long)]
    pub image_size: Option<usize>,
    /// Rows and columns of tokens, for encoders that follow the network's grid; 16 when left out
    #[arg(long)]
    pub grid: Option<usize>,
    /// How pictures become square
    #[arg(long, value_enum, default_value_t = FitChoice::Crop)]
    pub fit: FitChoice,
    /// Pictures encoded at once
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Seed of pictures that are drawn, and of all draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to compute: `auto`, `cpu`, `flex`, `cuda`
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// How pictures become square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FitChoice {
    /// The center, as in training
    Crop,
    /// All of it, stretched, as in iREPA's scripts
    Squash,
}

/// Pictures in their order, with a name each, and masks where there are some.
#[derive(Debug)]
pub struct Source {
    /// The pictures.
    pub dataset: Arc<dyn Dataset>,
    /// Those that are taken.
    pub indices: Vec<usize>,
    /// Their names: files, or numbers.
    pub ids: Vec<String>,
    /// Whether each has a mask.
    pub has_masks: bool,
    /// Pictures left out because object or surroundings have less than a quarter of the tokens, or no mask.
    pub num_without_mask: usize,
    masks: BTreeMap<usize, Vec<u8>>,
}

#[derive(Deserialize)]
struct Typed {
    data: Box<dyn DatasetConfig>,
}

impl PictureArgs {
    /// Side of the pictures, in pixels.
    pub fn image_size(&self) -> usize {
        self.image_size.unwrap_or(256)
    }

    /// Rows and columns of tokens, for encoders that follow the network's grid.
    pub fn grid(&self) -> usize {
        self.grid.unwrap_or(16)
    }

    /// The device.
    ///
    /// # Errors
    /// It is not there.
    pub fn device(&self) -> Result<Device> {
        DeviceChoice::parse(&self.device).and_then(ops::open).context("--device")
    }

    /// Opens the pictures, and reads the masks.
    ///
    /// # Errors
    /// There are none, a size is 0, or no mask has the name of a picture.
    pub fn open(&self) -> Result<Source> {
        let (size, grid) = (self.image_size(), self.grid());
        ensure!((1..=4096).contains(&size), "--image-size {size}: allowed is 1 to 4096");
        ensure!((1..=256).contains(&grid), "--grid {grid}: allowed is 1 to 256");
        ensure!((1..=65_536).contains(&self.batch), "--batch {}: allowed is 1 to 65536", self.batch);
        let fit = if self.fit == FitChoice::Crop { Fit::Crop } else { Fit::Squash };
        let path = Path::new(&self.images);
        let is_section = self.images.starts_with('{') || registry::names("dataset").contains(&self.images.as_str());
        let (dataset, names): (Arc<dyn Dataset>, Vec<String>) = if is_section && !path.exists() {
            (read_dataset("--images", &self.images, size, self.seed)?, vec![])
        } else {
            let pictures = Pictures::open(path, size, fit).context("--images")?;
            let names = pictures.names().to_vec();
            (Arc::new(pictures), names)
        };
        let count = if self.num == 0 { dataset.len() } else { self.num };
        let mut source = Source::evenly(dataset, count)?;
        if !names.is_empty() {
            source.ids = source.indices.iter().filter_map(|&idx| names.get(idx).cloned()).collect();
        }
        if let Some(folder) = &self.masks {
            source.read_masks(folder, size, fit, PatchGrid::new(grid, grid))?;
        }
        Ok(source)
    }
}

/// A data set given as `option text`.
///
/// # Errors
/// Its section is wrong, or the data is absent.
pub fn read_dataset(option: &str, text: &str, image_size: usize, seed: u64) -> Result<Arc<dyn Dataset>> {
    let Typed { data } = Layered::typed(option, "data", text)?.extract()?;
    let opened = data.open(&DatasetContext { image_size, seed }).with_context(|| format!("{option} {text}"))?;
    Ok(opened.into())
}

impl Source {
    /// At most `count` pictures, evenly over a data set; their names are numbers.
    ///
    /// # Errors
    /// There are no pictures, or the first cannot be read.
    pub fn evenly(dataset: Arc<dyn Dataset>, count: usize) -> Result<Self> {
        let all = dataset.len();
        let count = count.min(all);
        let indices: Vec<usize> = (0..count).map(|i| i * all / count.max(1)).collect();
        let ids = indices.iter().map(ToString::to_string).collect();
        let first = *indices.first().context("there are no pictures")?;
        let has_masks = dataset.get(first)?.mask.is_some();
        Ok(Self { dataset, indices, ids, has_masks, num_without_mask: 0, masks: BTreeMap::new() })
    }

    /// Mask of an example, `[grid.tokens()]`; nothing where it has none.
    pub fn mask(&self, idx: usize, example: &Example, grid: PatchGrid) -> Option<Vec<f32>> {
        let mask = self.masks.get(&idx).or(example.mask.as_ref())?;
        Some(token_mask(mask, example.image.width(), grid))
    }

    /// Keeps the pictures whose mask file has their name and leaves a quarter of the tokens on either side.
    fn read_masks(&mut self, folder: &Path, size: usize, fit: Fit, grid: PatchGrid) -> Result<()> {
        let masks = Pictures::open(folder, size, fit).context("--masks")?;
        let stem = |name: &str| name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_string();
        let file = |name: &str| stem(name.rsplit('/').next().unwrap_or(name));
        let by_path: BTreeMap<String, usize> = masks.names().iter().zip(0..).map(|(name, i)| (stem(name), i)).collect();
        let by_file: BTreeMap<String, usize> = masks.names().iter().zip(0..).map(|(name, i)| (file(name), i)).collect();
        let (mut kept, mut ids, mut num_named) = (vec![], vec![], 0);
        for (idx, id) in self.indices.iter().zip(&self.ids) {
            let Some(&found) = by_path.get(&stem(id)).or_else(|| by_file.get(&file(id))) else { continue };
            num_named += 1;
            let mask = read_mask(&masks.bytes(found)?, &masks.names()[found], size, fit)?;
            if is_balanced(&token_mask(&mask, size, grid), LEAST_SHARE) {
                self.masks.insert(*idx, mask);
                kept.push(*idx);
                ids.push(id.clone());
            }
        }
        let [first_mask, first_picture] = [&masks.names()[0], &self.ids[0]];
        ensure!(
            num_named > 0,
            "--masks {}: no mask has the name of a picture; the first mask is `{first_mask}`, the first picture \
             `{first_picture}`",
            folder.display()
        );
        ensure!(
            !kept.is_empty(),
            "--masks {}: in none of {num_named} masks do object and surroundings have a quarter of the tokens each",
            folder.display()
        );
        self.num_without_mask = self.indices.len() - kept.len();
        (self.indices, self.ids, self.has_masks) = (kept, ids, true);
        Ok(())
    }
}
