//! The user's own settings file: where things lie on this machine, below every recipe.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use figment::value::{Dict, Tag, Value};

use super::complaint::suggestion;
use super::loading::{parsed, sentence};
use super::origin::Source;
use super::text::read;

/// Locations that a settings file may give; the second says whether a recipe has the key too.
const KEYS: [(&str, bool); 2] = [("runs", false), ("weights_dir", true)];

/// Locations on this machine. A recipe that gives one itself wins.
///
/// ```yaml
/// weights_dir: ~/weights
/// runs: /data/runs
/// ```
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Folder of published weights.
    pub weights_dir: Option<PathBuf>,
    /// Folder that holds the folders of all runs.
    pub runs: Option<PathBuf>,
    /// What belongs into a recipe, and the file.
    layer: Option<(Source, Dict)>,
}

impl Settings {
    /// Reads a settings file; one that is absent or empty says nothing. `home` is what `~` stands for.
    ///
    /// # Errors
    /// `file:line: key: message` for an unknown key, or a value that is no path from the root or from `~`.
    pub fn read(path: &Path, home: Option<&Path>) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = read(path).map_err(|message| anyhow!(message))?;
        if text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')) {
            return Ok(Self::default());
        }
        let (source, section) = parsed(path, text)?;
        let (mut settings, mut layer) = (Self::default(), Dict::new());
        for (key, value) in section {
            let place = source.place(&key);
            let Some((_, is_in_recipes)) = KEYS.iter().find(|(known, _)| *known == key) else {
                let known = KEYS.map(|(known, _)| known);
                bail!("{}{}", sentence(&place, &key, &format!("unknown setting `{key}`")), suggestion(&key, &known));
            };
            let folder = folder(&value, home).map_err(|problem| anyhow!("{}", sentence(&place, &key, &problem)))?;
            if *is_in_recipes {
                layer.insert(key.clone(), Value::String(Tag::Default, folder.display().to_string()));
            }
            match key.as_str() {
                "runs" => settings.runs = Some(folder),
                _ => settings.weights_dir = Some(folder),
            }
        }
        settings.layer = Some((source, layer));
        Ok(settings)
    }

    /// What belongs into a recipe, and the file that says it.
    pub(super) fn layer(&self) -> Option<(Source, Dict)> {
        self.layer.clone()
    }
}

fn folder(value: &Value, home: Option<&Path>) -> Result<PathBuf, String> {
    let text = value.as_str().unwrap_or_default();
    let path = match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    };
    if path.is_absolute() {
        return Ok(path);
    }
    Err(format!("expected a path from the root or from `~/`, because commands start anywhere, found `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::super::Layered;
    use super::*;

    fn read_text(text: &str) -> (tempfile::TempDir, Result<Settings>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.yaml");
        std::fs::write(&path, text).unwrap();
        let settings = Settings::read(&path, Some(Path::new("/home/me")));
        (folder, settings)
    }

    #[test]
    fn locations_are_read_and_a_tilde_is_the_home_folder() {
        let (_folder, settings) = read_text("weights_dir: ~/weights\nruns: /data/runs\n");
        let settings = settings.unwrap();
        assert_eq!(settings.weights_dir.as_deref(), Some(Path::new("/home/me/weights")));
        assert_eq!(settings.runs.as_deref(), Some(Path::new("/data/runs")));
    }

    #[test]
    fn an_absent_or_empty_file_says_nothing() {
        assert!(Settings::read(Path::new("no/such/file.yaml"), None).unwrap().layer().is_none());
        assert!(read_text("# nothing yet\n\n").1.unwrap().weights_dir.is_none());
    }

    #[test]
    fn unknown_keys_and_loose_paths_are_refused_with_their_line() {
        for (text, expected) in [
            (
                "runs: /a\nweigths_dir: /b\n",
                "settings.yaml:2: weigths_dir: unknown setting `weigths_dir`\n  did you mean `weights_dir`? known: runs, weights_dir",
            ),
            ("weights_dir: weights\n", "settings.yaml:1: weights_dir: expected a path from the root"),
            ("runs: 3\n", "settings.yaml:1: runs: expected a path from the root"),
            ("seed: 3\n", "unknown setting `seed`"),
        ] {
            let (_folder, settings) = read_text(text);
            let message = settings.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_recipe_wins_over_the_settings_and_explain_names_the_file() {
        let (folder, settings) = read_text("weights_dir: /data/weights\n");
        let settings = settings.unwrap();
        let recipe = folder.path().join("a.yaml");
        let load = |text: &str| {
            std::fs::write(&recipe, text).unwrap();
            Layered::load_over(&settings, &recipe, Some("none"), &[]).unwrap()
        };
        let layered = load("seed: 3\n");
        assert!(layered.origin_of("weights_dir").ends_with("settings.yaml:1"), "{}", layered.origin_of("weights_dir"));
        assert!(layered.to_yaml().unwrap().contains("weights_dir: /data/weights"));
        let layered = load("weights_dir: own\n");
        assert!(layered.origin_of("weights_dir").ends_with("a.yaml:1"));
        assert!(!layered.to_yaml().unwrap().contains("/data/weights"));
    }
}
