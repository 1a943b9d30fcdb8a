//! Which profile a run uses: the file `profiles/NAME.yaml` that belongs to a recipe.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::complaint::suggestion;
use super::text::{folder_of, shown, yaml_files};

/// The profile used when none is asked for.
const DEFAULT: &str = "demo";
/// The word that switches profiles off.
const NONE: &str = "none";

/// The profile of a run.
#[derive(Debug, PartialEq)]
pub(super) struct Profile {
    /// Name; `none` when no profile is used.
    pub name: String,
    /// Its file; absent when only the recipe's own `profiles:` section has it.
    pub file: Option<PathBuf>,
}

/// Finds the profile that was asked for, or the default one.
///
/// `own` are the names in the recipe's `profiles:` section. A recipe without a `profiles/` folder stands alone
/// and needs no file.
///
/// # Errors
/// A profile that neither the folder nor the recipe has.
pub(super) fn choose(recipe: &Path, asked: Option<&str>, own: &[String]) -> Result<Profile> {
    let folder = folder_for(recipe);
    let files: Vec<String> = match &folder {
        Some(folder) => {
            yaml_files(folder).iter().filter_map(|file| file.strip_suffix(".yaml")).map(str::to_string).collect()
        }
        None => vec![],
    };
    let has = |name: &str| files.iter().chain(own).any(|known| known == name);
    let name = match asked {
        Some(NONE) => NONE,
        Some(name) if has(name) || (folder.is_none() && name == DEFAULT) => name,
        Some(name) => {
            let mut known: Vec<&str> = files.iter().chain(own).map(String::as_str).chain([NONE]).collect();
            known.sort_unstable();
            known.dedup();
            let place = match &folder {
                Some(folder) => format!("in `{}`", shown(folder)),
                None => format!("beside `{}`, which has no folder `profiles`", shown(recipe)),
            };
            bail!("--profile {name}: unknown profile `{name}`: no such file {place}{}", suggestion(name, &known));
        }
        None if has(DEFAULT) || folder.is_none() => DEFAULT,
        None => NONE,
    };
    let has_file = name != NONE && files.iter().any(|known| known == name);
    let file = folder.filter(|_| has_file).map(|folder| folder.join(format!("{name}.yaml")));
    Ok(Profile { name: name.to_string(), file })
}

/// `profiles/` beside the recipe, or one folder up.
fn folder_for(recipe: &Path) -> Option<PathBuf> {
    let beside = folder_of(recipe);
    [beside.join("profiles"), beside.join("..").join("profiles")].into_iter().find(|folder| folder.is_dir()).map(
        |folder| {
            // `./profiles` reads better without its dot.
            folder.strip_prefix(".").map(Path::to_path_buf).unwrap_or(folder)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(profiles: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("recipes/mine")).unwrap();
        for profile in profiles {
            std::fs::create_dir_all(folder.path().join("recipes/profiles")).unwrap();
            std::fs::write(folder.path().join(format!("recipes/profiles/{profile}.yaml")), "a: 1").unwrap();
        }
        folder
    }

    #[test]
    fn profiles_lie_beside_the_recipe_or_one_folder_up() {
        let folder = folder(&["demo", "imagenet256"]);
        for recipe in ["recipes/a.yaml", "recipes/mine/a.yaml"] {
            let profile = choose(&folder.path().join(recipe), Some("imagenet256"), &[]).unwrap();
            assert!(profile.file.is_some_and(|file| file.is_file()), "{recipe}");
        }
    }

    #[test]
    fn the_default_is_demo_where_there_is_one_and_none_otherwise() {
        let with_demo = folder(&["demo"]);
        assert_eq!(choose(&with_demo.path().join("recipes/a.yaml"), None, &[]).unwrap().name, "demo");
        let without = folder(&["imagenet256"]);
        let expected = Profile { name: "none".into(), file: None };
        assert_eq!(choose(&without.path().join("recipes/a.yaml"), None, &[]).unwrap(), expected);
        let none = choose(&with_demo.path().join("recipes/a.yaml"), Some("none"), &[]).unwrap();
        assert_eq!(none, expected);
    }

    #[test]
    fn a_recipe_without_a_folder_stands_alone() {
        let folder = folder(&[]);
        let recipe = folder.path().join("recipes/mine/a.yaml");
        assert_eq!(choose(&recipe, None, &[]).unwrap(), Profile { name: "demo".into(), file: None });
        assert_eq!(choose(&recipe, Some("big"), &["big".into()]).unwrap().name, "big");
        assert!(choose(&recipe, Some("big"), &[]).is_err());
    }

    #[test]
    fn an_unknown_profile_lists_the_known_ones() {
        let folder = folder(&["demo", "imagenet256"]);
        let recipe = folder.path().join("recipes/a.yaml");
        let message = choose(&recipe, Some("imagnet256"), &["own".into()]).unwrap_err().to_string();
        assert!(message.contains("did you mean `imagenet256`? known: demo, imagenet256, none, own"), "{message}");
        assert!(choose(&recipe, Some("../a"), &[]).is_err());
    }
}
