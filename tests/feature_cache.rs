//! Runs that keep their encoders' features end as those that compute them at every step, bit for bit.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use program::Desk;
use realign::log::Event;
use realign::ops::backend_names;
use realign::recipe::{Layered, Plan};
use realign::train::RunOptions;
use realign_plugins as _;

/// Thirteen examples in steps of four: one of each epoch is dropped, so later batches mix known and new examples.
const SMALL: [&str; 20] = [
    "image_size=16",
    "flip=0",
    "data.num_examples=13",
    "backbone.hidden_size=16",
    "backbone.depth=2",
    "backbone.num_heads=2",
    "backbone.time_scale=1000",
    "alignment.0.encoder_depth=1",
    "train.steps=12",
    "train.global_batch_size=4",
    "train.micro_batch_size=2",
    "train.schedule.warmup_steps=2",
    "log.every=1",
    "log.checkpoint_every=5",
    "log.preview_every=0",
    "log.keep_checkpoints=2",
    "log.classifier=false",
    "sample.num_preview=0",
    "loader.num_workers=1",
    "seed=3",
];
const ENCODERS: [&str; 4] = [
    "{type: hog}",
    "{type: sift, variant: opencv}",
    "{type: vgg, weights: random, seed: 5}",
    "{type: vit, preset: null, weights: random, hidden_size: 16, depth: 2, num_heads: 2, patch_size: 4, mlp_size: 24, position_grid: 4, class_token: false}",
];

/// What a run said and measured.
#[derive(Debug, Default)]
struct Outcome {
    losses: Vec<(u64, Vec<String>)>,
    warnings: Vec<String>,
}

fn plan(desk: &Desk, more: &[String]) -> anyhow::Result<(Layered, Plan)> {
    let sets: Vec<String> = SMALL.iter().map(|set| set.to_string()).chain(more.iter().cloned()).collect();
    let layered = Layered::load(&desk.path("recipes/sit-irepa.yaml"), None, &sets)?;
    let plan = Plan::new(&layered)?;
    Ok((layered, plan))
}

/// Trains in `name`, up to `last_step` where that is below the recipe's.
fn train(desk: &Desk, name: &str, last_step: u64, more: &[String]) -> Outcome {
    let (layered, plan) = plan(desk, more).unwrap();
    let (stop, mut warnings) = (AtomicBool::new(false), vec![]);
    let mut sink = |event: &Event| match event {
        Event::Warning(warning) => warnings.push(warning.clone()),
        Event::Step { step, .. } if *step >= last_step => stop.store(true, Ordering::Relaxed),
        _ => {}
    };
    let options = RunOptions { run_dir: desk.path(name), stop: &stop };
    realign::train::run(&plan, &layered, options, &mut sink).unwrap();
    Outcome { losses: losses(&desk.path(name)), warnings }
}

/// Every line's step and its training numbers as they were written.
fn losses(run_dir: &Path) -> Vec<(u64, Vec<String>)> {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let read = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let numbers = line.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("train/"));
        (line["step"].as_u64().unwrap(), numbers.map(|(key, value)| format!("{key} {value}")).collect())
    };
    text.lines().map(read).collect()
}

fn settings(device: &str, encoder: &str, cache: &str) -> Vec<String> {
    let sets = [format!("device={device}"), format!("alignment.0.encoders=[{encoder}]"), format!("cache={cache}")];
    sets.to_vec()
}

fn devices() -> Vec<&'static str> {
    backend_names().iter().map(|name| if *name == "libtorch" { "cpu" } else { "flex" }).collect()
}

/// The only feature file below a folder.
fn feature_file(folder: PathBuf) -> PathBuf {
    let mut entries = fs::read_dir(&folder).unwrap_or_else(|problem| panic!("{}: {problem}", folder.display()));
    let file = entries.next().unwrap().unwrap().path().join("features.bin");
    assert!(entries.next().is_none() && file.exists(), "{}", folder.display());
    file
}

/// Two pictures have 34 tokens here, and kernels round the last rows of such a number their own way.
#[test]
fn features_that_depend_on_their_place_in_the_batch_are_not_kept_unless_asked_for() {
    let vit = ENCODERS[3].replace("class_token: false", "class_token: true");
    for device in devices() {
        let desk = Desk::new();
        let whole = train(&desk, "off", 12, &settings(device, &vit, "{features: off}"));
        let auto = train(&desk, "auto", 12, &settings(device, &vit, "{features: auto}"));
        assert_eq!(auto.losses, whole.losses, "{device}");
        let asked = train(&desk, "memory", 12, &settings(device, &vit, "{features: memory}"));
        assert_eq!(asked.losses == whole.losses, asked.warnings.is_empty(), "{device}: {:?}", asked.warnings);
    }
}

#[test]
fn losses_are_the_same_bits_with_and_without_cache() {
    for device in devices() {
        for (i, encoder) in ENCODERS.iter().enumerate() {
            if encoder.contains("vgg") && device != devices()[0] {
                continue; // convolutions whose rounding depends on the batch's size are libtorch's
            }
            let desk = Desk::new();
            let whole = train(&desk, "off", 12, &settings(device, encoder, "{features: off}"));
            assert_eq!(whole.losses.len(), 12);
            for storage in ["memory", "disk", "auto", "auto, max_memory_bytes: 0"] {
                let name = format!("{storage}-{i}");
                let kept = train(&desk, &name, 12, &settings(device, encoder, &format!("{{features: {storage}}}")));
                assert_eq!(kept.losses, whole.losses, "{device}, {encoder}, {storage}");
                assert_eq!(kept.warnings, [""; 0], "{device}, {encoder}, {storage}");
                assert_eq!(
                    desk.path(&name).join("features").exists(),
                    !["memory", "auto"].contains(&storage),
                    "{storage}"
                );
            }
        }
    }
}

#[test]
fn a_resumed_run_reads_its_features_and_one_whose_file_was_damaged_makes_them_anew() {
    let desk = Desk::new();
    let settings = |cache: &str| settings(devices()[0], ENCODERS[0], cache);
    let whole = train(&desk, "off", 12, &settings("{features: off}"));
    train(&desk, "run", 7, &settings("{features: disk}"));
    let file = feature_file(desk.path("run/features"));
    let before = fs::read(&file).unwrap();
    assert!(before.iter().any(|byte| *byte != 0));
    let record = before.len() / 13;
    let handle = fs::OpenOptions::new().write(true).open(&file).unwrap();
    for example in [2, 5, 6] {
        handle.write_all_at(&[0xA5; 40], (example * record + record / 2) as u64).unwrap();
    }
    let resumed = train(&desk, "run", 12, &settings("{features: disk}"));
    assert_eq!(resumed.losses, whole.losses);
    assert_eq!(resumed.warnings, [""; 0]);
}

#[test]
fn runs_share_a_folder_and_other_data_or_encoders_have_files_of_their_own() {
    let desk = Desk::new();
    let shared = desk.path("shared");
    let cache = format!("{{features: disk, dir: {}}}", shared.display());
    let with = |name: &str, encoder: &str, more: &str| {
        let mut sets = settings(devices()[0], encoder, &cache);
        sets.push(more.into());
        train(&desk, name, 12, &sets);
        fs::read_dir(&shared).unwrap().count()
    };
    let rate = "train.learning_rate=0.01";
    assert_eq!(with("a", "{type: hog}", rate), 1);
    let written = fs::metadata(feature_file(shared.clone())).unwrap().modified().unwrap();
    assert_eq!(with("b", "{type: hog}", "train.learning_rate=0.02"), 1);
    assert_eq!(fs::metadata(feature_file(shared.clone())).unwrap().modified().unwrap(), written, "nothing was new");
    assert_eq!(with("c", "{type: hog, cells_per_block: 2}", rate), 2);
    assert_eq!(with("d", "{type: hog}", "data.num_examples=14"), 3);
    assert_eq!(with("e", "{type: hog}", "seed=4"), 4);
    assert_eq!(with("f", "{type: hog}", "train.micro_batch_size=4"), 5);
}

#[test]
fn mirrored_pictures_are_never_kept() {
    let desk = Desk::new();
    let sets = |cache: &str| vec!["flip=0.5".into(), format!("cache={cache}")];
    for storage in ["memory", "disk"] {
        let refused = plan(&desk, &sets(&format!("{{features: {storage}}}"))).unwrap_err();
        assert!(format!("{refused:#}").contains("mirrored pictures have other features"), "{refused:#}");
    }
    train(&desk, "run", 12, &sets("{features: auto, max_memory_bytes: 0}"));
    assert!(!desk.path("run/features").exists());
}

#[test]
fn explain_says_where_features_are_kept() {
    let desk = Desk::new();
    let says = |sets: &[&str]| {
        let mut args = vec!["explain", "recipes/sit-irepa.yaml"];
        SMALL.iter().chain(sets).for_each(|set| args.extend(["--set", set]));
        let answer = desk.run(&args);
        answer.assert_done();
        answer.out.lines().find(|line| line.contains("encoder features")).unwrap().trim().to_string()
    };
    assert!(says(&[]).ends_with("in memory, 0.00 GB for 13 examples"), "{}", says(&[]));
    assert!(says(&["data.num_examples=1000"]).ends_with("not kept: no example comes twice"));
    assert!(says(&["cache.max_memory_bytes=0"]).contains("on disk"));
    assert!(says(&["flip=0.5"]).ends_with("not kept: pictures are mirrored at random"));
}
