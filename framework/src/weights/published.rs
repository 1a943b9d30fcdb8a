//! Published weights: where each file comes from, where it is expected, and under which terms.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{KeyMap, ParamInfo};
use crate::plugin::encoder::WeightFile;
use crate::registry::{inventory, nearest};

/// A file of weights that others published.
///
/// A plugin that reads one submits it beside its registration; then `weights list` shows it, `weights get` fetches it and
/// `weights verify` checks it.
///
/// ```
/// use realign::weights::{PublishedWeights, WeightSource};
/// pub static VIT_B: PublishedWeights = PublishedWeights {
///     name: "my-vit-b",
///     file: "my_vit_b.pth",
///     source: WeightSource::Url("https://example.org/my_vit_b.pth"),
///     layout: "timm",
///     license: "MIT",
///     gated: false,
///     num_bytes: None,
///     sha256: None,
///     expects: None,
/// };
/// realign::publish_weights!(VIT_B);
/// let file = VIT_B.file_at(None, "pretrained_models".as_ref());
/// assert!(file.command.starts_with("curl "));
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct PublishedWeights {
    /// Name for the command line: `dinov2-vitb14`.
    pub name: &'static str,
    /// Where it is expected, below the folder of published weights.
    pub file: &'static str,
    /// Where it comes from.
    pub source: WeightSource,
    /// Whose names its tensors have: `facebookresearch`, `Hugging Face`.
    pub layout: &'static str,
    /// License of the weights.
    pub license: &'static str,
    /// Whether the license must be accepted on the source's page before a download.
    pub gated: bool,
    /// Size of the file, where it is known.
    pub num_bytes: Option<u64>,
    /// SHA-256 of the file in hexadecimal digits, where it is known.
    pub sha256: Option<&'static str>,
    /// Layout and parameters of the network that reads it, for `weights verify`; makes no values.
    pub expects: Option<fn() -> Result<Expectation>>,
}

/// Layout and parameters of a network.
pub type Expectation = (KeyMap, Vec<ParamInfo>);

/// Where a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightSource {
    /// An address that gives the file.
    Url(&'static str),
    /// A file of a repository on the Hugging Face hub.
    Hub {
        /// `owner/name`.
        repo: &'static str,
        /// Path in the repository.
        file: &'static str,
    },
    /// A page that says how to get the file: a form, a drive.
    Page(&'static str),
}

/// A reference to one, so that `inventory` and the plugin share one static.
#[doc(hidden)]
pub struct Published(pub &'static PublishedWeights);
inventory::collect!(Published);

/// Submits a static [`PublishedWeights`].
#[macro_export]
macro_rules! publish_weights {
    ($($weights:path),+ $(,)?) => {
        $($crate::registry::inventory::submit! { $crate::weights::Published(&$weights) })+
    };
}

/// Published weights that a plugin reads from a table of its own.
#[doc(hidden)]
pub struct PublishedTable(pub fn() -> &'static [PublishedWeights]);
inventory::collect!(PublishedTable);

/// Submits a function that returns a table of [`PublishedWeights`].
#[macro_export]
macro_rules! publish_weight_table {
    ($table:path) => {
        $crate::registry::inventory::submit! { $crate::weights::PublishedTable($table) }
    };
}

impl PublishedWeights {
    /// The file that a plugin reads: `own` where the recipe names one, else the expected place; with the command that
    /// gets it.
    pub fn file_at(&self, own: Option<&Path>, weights_dir: &Path) -> WeightFile {
        let path = own.map_or_else(|| self.path(weights_dir), Path::to_path_buf);
        WeightFile { command: self.command(&path), path }
    }

    /// Where it is expected.
    pub fn path(&self, weights_dir: &Path) -> PathBuf {
        weights_dir.join(self.file)
    }

    /// The exact command that writes the file to `path`, or what to do where there is none.
    pub fn command(&self, path: &Path) -> String {
        let Some(url) = self.url() else { return format!("{}, to be saved as {}", self.page(), path.display()) };
        let token = if self.gated { "-H \"Authorization: Bearer $HF_TOKEN\" " } else { "" };
        format!("curl -fL --create-dirs {token}-o {} '{url}'", path.display())
    }

    /// The address that gives the file.
    pub fn url(&self) -> Option<String> {
        match self.source {
            WeightSource::Url(url) => Some(url.to_string()),
            WeightSource::Hub { repo, file } => Some(format!("https://huggingface.co/{repo}/resolve/main/{file}")),
            WeightSource::Page(_) => None,
        }
    }

    /// The page where a license is accepted or a form is filled in.
    pub fn page(&self) -> String {
        match self.source {
            WeightSource::Url(page) | WeightSource::Page(page) => page.to_string(),
            WeightSource::Hub { repo, .. } => format!("https://huggingface.co/{repo}"),
        }
    }
}

/// All published weights that plugins know, by name.
pub fn published_weights() -> Vec<&'static PublishedWeights> {
    let mut all: Vec<_> = inventory::iter::<Published>.into_iter().map(|entry| entry.0).collect();
    all.extend(inventory::iter::<PublishedTable>.into_iter().flat_map(|table| (table.0)()));
    all.sort_by_key(|weights| weights.name);
    all
}

/// The published weights of this name.
///
/// # Errors
/// There are none; names the nearest.
pub fn find_published(name: &str) -> Result<&'static PublishedWeights> {
    let all = published_weights();
    if let Some(found) = all.iter().find(|weights| weights.name == name) {
        return Ok(found);
    }
    let names: Vec<&str> = all.iter().map(|weights| weights.name).collect();
    let hint = nearest(name, names.iter().copied()).map_or(String::new(), |near| format!("did you mean `{near}`? "));
    bail!("no published weights are called `{name}`\n  {hint}known: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATED: PublishedWeights = PublishedWeights {
        name: "gated",
        file: "a/b.safetensors",
        source: WeightSource::Hub { repo: "owner/name", file: "model.safetensors" },
        layout: "Hugging Face",
        license: "custom",
        gated: true,
        num_bytes: None,
        sha256: None,
        expects: None,
    };

    #[test]
    fn the_command_names_the_place_where_the_file_is_expected() {
        let file = GATED.file_at(None, Path::new("w"));
        assert_eq!(file.path, Path::new("w/a/b.safetensors"));
        assert_eq!(
            file.command,
            "curl -fL --create-dirs -H \"Authorization: Bearer $HF_TOKEN\" -o w/a/b.safetensors \
             'https://huggingface.co/owner/name/resolve/main/model.safetensors'"
        );
        assert!(GATED.file_at(Some(Path::new("own.pt")), Path::new("w")).command.contains("-o own.pt "));
    }
}
