//! Published weights: where each file comes from, where it is expected, and under which terms.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::plugin::encoder::WeightFile;
use crate::registry::{inventory, nearest};

/// A file of weights that others published.
///
/// A plugin that reads some submits their list beside its registration; then `weights list` shows them, `weights get`
/// fetches them and `weights verify` checks them.
///
/// ```
/// use realign::weights::PublishedWeights;
/// fn published() -> Vec<PublishedWeights> {
///     let vit_b = PublishedWeights::new("my-vit-b", "my_vit_b.pth", "https://example.org/my_vit_b.pth", "timm", "MIT");
///     vec![vit_b]
/// }
/// realign::publish_weights!(published);
/// let file = published()[0].file_at(None, "pretrained_models".as_ref());
/// assert!(file.command.starts_with("curl "));
/// # fn main() {}
/// ```
#[derive(Debug, Clone)]
pub struct PublishedWeights {
    /// Name for the command line: `dinov2-vit-b`.
    pub name: String,
    /// Where it is expected, below the folder of published weights.
    pub file: String,
    /// The address that gives it.
    pub url: String,
    /// Whose names its tensors have: `Meta`, `Hugging Face`.
    pub layout: String,
    /// License of the weights.
    pub license: String,
    /// Whether the license must be accepted on the source's page before a download.
    pub is_gated: bool,
    /// Size of the file, where it is known.
    pub num_bytes: Option<u64>,
    /// Parameters of the network that reads it, where they are known.
    pub num_parameters: Option<usize>,
    /// SHA-256 of the file in hexadecimal digits, where it is known.
    pub sha256: Option<String>,
    /// Fills the network from a file, for `weights verify`; returns the number of its parameters.
    pub fit: Option<Fit>,
}

/// Fills the network of these weights from a file and returns the number of its parameters.
pub type Fit = fn(&PublishedWeights, &Path) -> Result<usize>;

/// A list of one plugin, as `inventory` keeps it.
#[doc(hidden)]
pub struct PublishedList(pub fn() -> Vec<PublishedWeights>);
inventory::collect!(PublishedList);

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-~".contains(letter);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Submits a function that lists [`PublishedWeights`](crate::weights::PublishedWeights).
#[macro_export]
macro_rules! publish_weights {
    ($list:path) => {
        $crate::registry::inventory::submit! { $crate::weights::PublishedList($list) }
    };
}

impl PublishedWeights {
    /// An open file of which no size and no hash is known.
    pub fn new(name: &str, file: &str, url: &str, layout: &str, license: &str) -> Self {
        Self {
            name: name.into(),
            file: file.into(),
            url: url.into(),
            layout: layout.into(),
            license: license.into(),
            is_gated: false,
            num_bytes: None,
            num_parameters: None,
            sha256: None,
            fit: None,
        }
    }

    /// The file that a plugin reads: `own` where the recipe names one, else the expected place; with the command that
    /// gets it.
    pub fn file_at(&self, own: Option<&Path>, weights_dir: &Path) -> WeightFile {
        let path = own.map_or_else(|| self.path(weights_dir), Path::to_path_buf);
        WeightFile { command: self.command(&path), path }
    }

    /// Where it is expected.
    pub fn path(&self, weights_dir: &Path) -> PathBuf {
        weights_dir.join(&self.file)
    }

    /// The exact command that writes the file to `path`.
    pub fn command(&self, path: &Path) -> String {
        let (path, url) = (quoted(path), &self.url);
        match self.is_gated {
            true => format!(
                "curl -fL --create-dirs -H \"Authorization: Bearer $HF_TOKEN\" -o {path} '{url}' # accept its license at {} first",
                self.page()
            ),
            false => format!("curl -fL --create-dirs -o {path} '{url}'"),
        }
    }

    /// The page where a license is accepted: that of the repository on the hub, else the address itself.
    pub fn page(&self) -> &str {
        self.url.split_once("/resolve/").map_or(&self.url, |(page, _)| page)
    }
}

/// All published weights that plugins know, by name.
pub fn published_weights() -> Vec<PublishedWeights> {
    let mut all: Vec<_> = inventory::iter::<PublishedList>.into_iter().flat_map(|list| (list.0)()).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

/// The published weights of this name.
///
/// # Errors
/// There are none; names the nearest.
pub fn find_published(name: &str) -> Result<PublishedWeights> {
    let all = published_weights();
    let names: Vec<&str> = all.iter().map(|weights| weights.name.as_str()).collect();
    let Some(at) = names.iter().position(|known| *known == name) else {
        let hint =
            nearest(name, names.iter().copied()).map_or(String::new(), |near| format!("did you mean `{near}`? "));
        bail!("no published weights are called `{name}`\n  {hint}known: {}", names.join(", "))
    };
    Ok(all[at].clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_quote_paths_that_a_shell_would_take_apart() {
        let file = PublishedWeights::new("a", "a.pth", "https://example.org/a.pth", "timm", "MIT");
        let command = |path: &str| file.command(Path::new(path));
        assert!(command("w/a-1_b.pth").contains(" -o w/a-1_b.pth 'https:"));
        assert!(command("my w/it's.pth").contains(" -o 'my w/it'\\''s.pth' 'https:"), "{}", command("my w/it's.pth"));
    }

    #[test]
    fn the_command_names_the_place_where_the_file_is_expected_and_where_its_license_is_accepted() {
        let url = "https://huggingface.co/owner/name/resolve/main/model.safetensors";
        let mut weights = PublishedWeights::new("a", "a/b.safetensors", url, "Hugging Face", "custom");
        let file = weights.file_at(None, Path::new("w"));
        assert_eq!(file.path, Path::new("w/a/b.safetensors"));
        assert_eq!(file.command, format!("curl -fL --create-dirs -o w/a/b.safetensors '{url}'"));
        assert!(weights.file_at(Some(Path::new("own.pt")), Path::new("w")).command.contains("-o own.pt "));
        weights.is_gated = true;
        let command = weights.command(Path::new("x"));
        assert!(
            command.contains("Bearer $HF_TOKEN") && command.ends_with("at https://huggingface.co/owner/name first")
        );
    }
}
