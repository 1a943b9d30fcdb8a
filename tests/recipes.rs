//! Every file in `recipes/` says where it comes from, resolves in every profile and steps where nothing is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use realign::recipe::{Job, Layered, Missing, Plan};
use realign::weights::published_weights;
use realign_plugins as _;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} has no recipe");
    files
}

/// Recipes that take captions: they have the profile `coco` in place of those whose data has none.
fn takes_text(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mmdit"))
}

const TAKES_TEXT: &str = "`mmdit` takes text";

fn profiles() -> Vec<String> {
    yaml_files("recipes/profiles").iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

/// `weights list` and `weights get` know every file that a recipe asks for.
fn assert_published(missing: &[Missing]) {
    let known = published_weights();
    for missing in missing {
        if let Missing::Weights(file) = missing {
            assert!(known.iter().any(|known| file.path.ends_with(&known.file)), "{}", file.path.display());
        }
    }
}

#[test]
fn every_recipe_begins_with_its_claim_source_cost_and_command() {
    for path in yaml_files("recipes") {
        let text = std::fs::read_to_string(&path).unwrap();
        let header: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        let name = path.file_name().unwrap().to_string_lossy();
        for word in ["Claim: ", "paper", "Cost: ", &format!("Run: cargo xtask run recipes/{name}")] {
            assert!(header.contains(word), "{name}: its header does not say `{word}`");
        }
    }
}

#[test]
fn every_recipe_fits_together_in_every_profile_whose_data_is_here() {
    for path in yaml_files("recipes") {
        for profile in profiles() {
            let sets = match profile.as_str() {
                // Any data set with labels shows that the shapes fit.
                "tiny-imagenet" => vec!["data.type=shapes".to_string()],
                _ => vec![],
            };
            if takes_text(&path) && profile != "demo" {
                continue; // refused, as the next test shows
            }
            let job = Layered::load(&path, Some(&profile), &sets).and_then(|layered| Job::new(&layered));
            let missing = match job.unwrap_or_else(|error| panic!("{} in {profile}: {error:#}", path.display())) {
                Job::Diffusion(plan) => plan.missing,
                Job::Program(plan) => plan.missing,
            };
            assert_eq!(missing.is_empty(), !profile.starts_with("imagenet"), "{} in {profile}", path.display());
            assert_published(&missing);
        }
    }
}

#[test]
fn recipes_that_take_text_fit_together_on_coco_and_name_every_missing_file() {
    let mut num_found = 0;
    for path in yaml_files("recipes").into_iter().filter(|path| takes_text(path)) {
        let plan = Layered::load(&path, Some("coco"), &[]).and_then(|layered| Plan::new(&layered));
        let plan = plan.unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        assert_eq!((plan.backbone.hidden_size, plan.backbone.depth, plan.latent), (768, 24, [4, 32, 32]));
        assert_published(&plan.missing);
        let missing = plan.missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for word in ["train2014", "clip-vit-large-patch14/model.safetensors", "tokenizer.json", "sdvae"] {
            assert!(missing.contains(word), "{}: `{word}` is not among {missing}", path.display());
        }
        for (profile, words) in [
            ("tiny-imagenet", "`image_folder` has no captions"),
            ("imagenet256", TAKES_TEXT),
            ("imagenet512", TAKES_TEXT),
        ] {
            let plan = Layered::load(&path, Some(profile), &[]).and_then(|layered| Plan::new(&layered));
            let message = format!("{:#}", plan.unwrap_err());
            assert!(message.contains(words), "{} in {profile}: {message}", path.display());
        }
        num_found += 1;
    }
    assert_eq!(num_found, 4);
}

#[test]
fn the_two_arms_of_the_ablation_change_one_thing_each() {
    let leaves = |name: &str| {
        let layered = Layered::load(&root().join("recipes").join(name), Some("demo"), &[]).unwrap();
        layered.leaves().into_iter().map(|(key, value, _)| (key, value)).collect::<Vec<_>>()
    };
    let full = leaves("sit-irepa.yaml");
    for (arm, part) in [("sit-irepa-no-conv.yaml", "projector"), ("sit-irepa-no-spatial-norm.yaml", "normalizer")] {
        let arm = leaves(arm);
        let changed: Vec<_> = full
            .iter()
            .filter(|leaf| !arm.contains(leaf))
            .chain(arm.iter().filter(|leaf| !full.contains(leaf)))
            .collect();
        assert!(!changed.is_empty());
        assert!(changed.iter().all(|(key, _)| key.starts_with(&format!("alignment.0.{part}."))), "{changed:?}");
    }
}

#[test]
fn every_recipe_loads_builds_steps_and_samples_in_the_demo() {
    for path in yaml_files("recipes") {
        let mut command = Command::new(env!("CARGO_BIN_EXE_realign-under-test"));
        command.arg("check").arg(&path).current_dir(root());
        let job = Job::new(&Layered::load(&path, None, &[]).unwrap()).unwrap();
        if matches!(job, Job::Diffusion(_)) {
            command.args(["--set", "sample.sampler.num_steps=2"]);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("loads, builds, steps and samples"),
            "{}: {text}",
            path.display()
        );
    }
}
