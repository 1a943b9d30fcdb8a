//! Generators of other projects, into a run and out of one.

use std::fs;

use realign::weights::read_weights;

use crate::program::{Answer, Desk};

const TINY: [&str; 8] = [
    "train.global_batch_size=2",
    "train.micro_batch_size=2",
    "train.schedule.warmup_steps=0",
    "backbone.depth=2",
    "sample.num_preview=0",
    "sample.sampler.num_steps=1",
    "log.every=1",
    "log.classifier=false",
];

/// A command about this recipe at a tiny size.
fn with_recipe(desk: &Desk, start: &[&str], more: &[&str], sets: &[&str]) -> Answer {
    let mut args: Vec<&str> = start.iter().chain(more).copied().collect();
    for set in TINY.iter().chain(sets) {
        args.extend(["--set", set]);
    }
    desk.run(&args)
}

/// Trains one step in `a`, exports it as `layout`, imports that into `b`, and compares weights and samples.
fn go_there_and_back(recipe: &str, layout: &str, file: &str, sets: &[&str]) -> Desk {
    let desk = Desk::new();
    let one_step: Vec<&str> = sets.iter().copied().chain(["train.steps=1"]).collect();
    with_recipe(&desk, &["run", recipe], &["--run-dir", "a"], &one_step).assert_done();
    desk.run(&["export", "a", file, "--layout", layout]).assert_done();
    let into = ["--layout", layout, "--recipe", recipe, "--run-dir", "b"];
    let answer = with_recipe(&desk, &["import", file], &into, &one_step);
    answer.assert_done();
    assert!(answer.out.contains("optimizer: fresh"), "{}", answer.out);
    let tensors = |run: &str, step: u64| {
        let folder = desk.path(run).join(format!("checkpoints/step-{step:07}"));
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let is_weights = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name == "model.safetensors" || name.starts_with("ema-")
        };
        let mut files: Vec<_> = files.filter(is_weights).collect();
        files.sort();
        files.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(tensors("a", 1), tensors("b", 0), "{layout}");
    assert!(tensors("a", 1).len() >= 2, "{layout}: no average was compared");
    let sample = |run: &str| {
        let out = format!("{run}.npz");
        desk.run(&["sample", run, "--num", "2", "--out", &out]).assert_done();
        fs::read(desk.path(&out)).unwrap()
    };
    assert_eq!(sample("a"), sample("b"), "{layout}");
    // The new run trains on.
    with_recipe(&desk, &["run", recipe], &["--run-dir", "b"], &one_step).assert_done();
    assert!(desk.path("b/checkpoints/step-0000001").exists());
    desk
}

#[test]
fn the_original_sit_goes_there_and_back_with_its_time_reversed_and_its_variance() {
    let desk = go_there_and_back("recipes/sit.yaml", "sit", "sit.pt", &["backbone.time_reversed=true"]);
    let (ours, theirs) = (
        read_weights(&desk.path("a/checkpoints/step-0000001/model.safetensors")).unwrap(),
        read_weights(&desk.path("sit.pt")).unwrap(),
    );
    let rows = |dict: &realign::weights::StateDict, name: &str| dict[name].shape[0];
    assert_eq!(rows(&theirs, "ema.final_layer.linear.weight"), 2 * rows(&ours, "final_layer.linear.weight"));
    let upright = with_recipe(
        &desk,
        &["import", "sit.pt"],
        &["--layout", "sit", "--recipe", "recipes/sit.yaml", "--run-dir", "c"],
        &[],
    );
    upright.assert_refused(&["backbone.time_reversed `true`, found `false`", "--set backbone.time_reversed=true"]);
}

#[test]
fn repa_and_repa_e_go_there_and_back_under_their_names_of_projectors() {
    let desk = go_there_and_back("recipes/sit-repa.yaml", "repa", "repa.pth", &[]);
    let dict = read_weights(&desk.path("repa.pth")).unwrap();
    assert!(dict.contains_key("ema.projectors.0.4.weight") && dict.contains_key("model.blocks.1.attn.qkv.bias"));
    let desk = go_there_and_back("recipes/sit-repa.yaml", "repa-e", "repa-e.pt", &[]);
    assert!(read_weights(&desk.path("repa-e.pt")).unwrap().contains_key("ema.bn.running_var"));
    let stats = read_weights(&desk.path("b/latents-stats.safetensors")).unwrap();
    assert!(stats["latents_scale"].values.iter().all(|scale| *scale == 1.0));
}

#[test]
fn irepa_goes_there_and_back_as_safetensors() {
    let desk = go_there_and_back("recipes/sit-irepa.yaml", "irepa", "irepa.safetensors", &[]);
    assert!(
        read_weights(&desk.path("irepa.safetensors")).unwrap().contains_key("ema.projectors.0.projection_layer.bias")
    );
    // A file without projectors leaves them as the seed draws them; a recipe without alignment leaves the file's out.
    let into = ["--layout", "irepa", "--recipe", "recipes/sit.yaml", "--run-dir", "plain"];
    let plain = with_recipe(&desk, &["import", "irepa.safetensors"], &into, &[]);
    plain.assert_done();
    assert!(plain.out.contains("its projectors are left out"), "{}", plain.out);
    desk.run(&["export", "plain", "plain.pt", "--layout", "irepa"]).assert_done();
    let into = ["--layout", "irepa", "--recipe", "recipes/sit-irepa.yaml", "--run-dir", "drawn"];
    let drawn = with_recipe(&desk, &["import", "plain.pt"], &into, &[]);
    drawn.assert_done();
    assert!(drawn.out.contains("as the recipe's seed draws them"), "{}", drawn.out);
}

#[test]
fn jit_goes_there_and_back_with_both_averages() {
    let desk = go_there_and_back("recipes/jit-irepa.yaml", "jit", "jit.pth", &[]);
    let dict = read_weights(&desk.path("jit.pth")).unwrap();
    for section in ["model", "model_ema1", "model_ema2"] {
        assert!(dict.contains_key(&format!("{section}.net.blocks.0.mlp.w12.weight")), "{section}");
    }
}

#[test]
fn mistakes_in_an_exchange_are_answered() {
    let desk = Desk::new();
    let into = |layout, recipe, run_dir| {
        let more = ["--layout", layout, "--recipe", recipe, "--run-dir", run_dir];
        with_recipe(&desk, &["import", "w.pt"], &more, &[])
    };
    into("irep", "recipes/sit.yaml", "a").assert_refused(&["unknown layout `irep`", "did you mean `irepa`"]);
    into("jit", "recipes/sit.yaml", "a").assert_refused(&["layout `jit` is of backbone `jit`", "has `sit`"]);
    into("irepa", "recipes/sit.yaml", "a").assert_refused(&["w.pt"]);
    desk.write("w.pt", "<html>");
    into("irepa", "recipes/sit.yaml", "a").assert_refused(&["w.pt", "web page"]);
    fs::write(desk.path("w.pt"), fs::read(crate::program::project().join("tests/fixtures/weights/views.pt")).unwrap())
        .unwrap();
    into("irepa", "recipes/sit.yaml", "a").assert_refused(&["none of its names is of this layout"]);
    assert!(!desk.path("a/checkpoints/step-0000000").exists());
    desk.write("a/checkpoints/step-0000003/state.json", "{}");
    into("irepa", "recipes/sit.yaml", "a").assert_refused(&["`a` holds a run already", "--run-dir"]);
    desk.run(&["export", "no-run", "x.pt", "--layout", "sit"]).assert_refused(&["`no-run` is not a run folder"]);
}
