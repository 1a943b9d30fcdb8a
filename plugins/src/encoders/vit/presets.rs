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
    pub fn file(&self) -> String {
        let mut parts = self.url.rsplit('/');
        match (parts.next(), parts.nth(2)) {
            (Some("model.safetensors"), Some(repository)) => format!("{repository}.safetensors"),
            (file, _) => file.unwrap_or(&self.name).to_string(),
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

#[cfg(test)]
mod tests {
    use realign::burn::tensor::Device;
    use realign::nn::ParamBuilder;
    use realign::weights::parameters;

    use super::super::architecture::{Architecture, QkvBias};
    use super::super::config::VitConfig;
    use super::super::network::VisionTransformer;
    use super::*;

    fn architecture(preset: &Preset) -> Architecture {
        let settings = VitConfig::preset(&preset.name).settings();
        settings.unwrap_or_else(|problem| panic!("{}: {problem:#}", preset.name)).architecture
    }

    #[test]
    fn the_table_is_read_whole_and_has_the_papers_27_rows() {
        let families: Vec<Family> = serde_yaml::from_str(include_str!("presets.yaml")).unwrap();
        let rows: usize = families.iter().map(|family| family.presets.len()).sum();
        assert_eq!((presets().len(), rows), (55, 55));
        let mut ranks: Vec<usize> = presets().iter().filter_map(|preset| preset.rank).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, (1..=27).collect::<Vec<_>>());
        let mut names: Vec<_> = presets().iter().map(|preset| &preset.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 55);
    }

    #[test]
    fn keys_of_presets_are_keys_of_recipes() {
        for preset in presets() {
            let read = serde_yaml::from_value::<VitConfig>(preset.settings.clone().into());
            read.unwrap_or_else(|problem| panic!("{}: {problem}", preset.name));
        }
    }

    /// `tests/python/encoder_parameter_counts.py` compares the same numbers with transformers and timm.
    #[test]
    fn every_preset_declares_the_parameters_of_its_reference_class() {
        for preset in presets() {
            let architecture = architecture(preset);
            assert_eq!(architecture.num_parameters(), preset.parameters, "{}", preset.name);
            let network =
                VisionTransformer::new(&architecture, architecture.depth, &ParamBuilder::new(&Device::flex(), 0));
            let is_constant = |name: &str| name.starts_with("rope_embed.") || name.starts_with("input_conditioner.");
            let declared = parameters(&network).into_iter().filter(|param| !is_constant(&param.name));
            let declared: usize = declared.map(|param| param.shape.iter().product::<usize>()).sum();
            // The bias of keys is a row of zeros here.
            let zeros =
                if architecture.qkv_bias == QkvBias::NoKey { architecture.depth * architecture.hidden_size } else { 0 };
            assert_eq!(declared - zeros, preset.parameters, "{}", preset.name);
        }
    }

    #[test]
    fn weight_files_have_names_of_their_own() {
        let file = |name: &str| Preset::find(name).unwrap().file();
        assert_eq!(file("dinov2-vit-b"), "dinov2_vitb14_pretrain.pth");
        assert_eq!(file("siglip2-vit-g"), "siglip2-giant-opt-patch16-256.safetensors");
        for preset in presets() {
            let same_file = presets().iter().filter(|other| other.file() == preset.file());
            assert!(same_file.clone().all(|other| other.url == preset.url), "{}", preset.name);
            assert!(preset.file().contains('.'), "{}", preset.file());
        }
    }
}
