//! The published encoders, read from the table beside this file.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_yaml::Mapping;

/// A published encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// Its name in recipes: that of the reference.
    pub name: String,
    /// The method's name.
    pub title: String,
    /// Keys of a recipe with the published values.
    pub settings: Mapping,
    /// Parameters that the features depend on.
    pub parameters: usize,
    /// Row in the paper's comparison of 27 encoders, from 1.
    pub rank: Option<usize>,
    /// Address of the weights.
    pub url: String,
    /// Whether their license must be accepted on the page of the files before they can be had.
    pub is_gated: bool,
    /// License of the weights.
    pub license: String,
    /// Layouts in which they are published; every one is accepted.
    pub layouts: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    title: String,
    address: String,
    license: String,
    #[serde(default)]
    is_gated: bool,
    layouts: String,
    settings: Mapping,
    presets: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    file: String,
    parameters: usize,
    rank: Option<usize>,
    #[serde(flatten)]
    settings: Mapping,
}

/// All presets, family by family.
pub fn presets() -> &'static [Preset] {
    static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(|| {
        let families = serde_yaml::from_str::<Vec<Family>>(include_str!("presets.yaml"));
        families.unwrap_or_default().into_iter().flat_map(Family::presets).collect() // a test reads the same bytes
    });
    &PRESETS
}

impl Preset {
    /// The preset of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        presets().iter().find(|preset| preset.name == name)
    }

    /// Name of the weight file on disk. Files that are all called `model` get the name of their repository.
    pub fn file(&self) -> &str {
        let mut parts = self.url.rsplit('/');
        match parts.next() {
            Some("model.safetensors") => parts.nth(2).unwrap_or(&self.name),
            Some(file) => file,
            None => &self.name,
        }
    }
}

impl Family {
    fn presets(self) -> impl Iterator<Item = Preset> {
        let Self { title, address, license, is_gated, layouts, settings, presets } = self;
        presets.into_iter().map(move |row| Preset {
            name: row.name,
            title: title.clone(),
            settings: settings.clone().into_iter().chain(row.settings).collect(),
            parameters: row.parameters,
            rank: row.rank,
            url: format!("{address}{}", row.file),
            is_gated,
            license: license.clone(),
            layouts: layouts.clone(),
        })
    }
}
