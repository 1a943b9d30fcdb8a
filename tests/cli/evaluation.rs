//! `eval` and `sample --npz`: the same pictures give the same numbers, and what cannot be measured is said.

use std::fs;

use realign::sample::NpzWriter;
use serde_json::Value;

use crate::program::Desk;

const TINY: [&str; 10] = [
    "train.steps=2",
    "train.global_batch_size=4",
    "train.micro_batch_size=4",
    "train.schedule.warmup_steps=0",
    "backbone.depth=2",
    "sample.num_preview=0",
    "sample.sampler.num_steps=2",
    "log.classifier=false",
    "log.checkpoint_every=1",
    "evaluation.num_reference=40",
];

/// A folder with a run of two steps, `run`.
fn trained() -> Desk {
    let desk = Desk::new();
    let sets = TINY.into_iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["run", "recipes/sit.yaml", "--run-dir", "run"].into_iter().chain(sets).collect();
    desk.run(&args).assert_done();
    desk
}

fn json(desk: &Desk, path: &str) -> Value {
    serde_json::from_slice(&fs::read(desk.path(path)).unwrap()).unwrap()
}

fn write_pictures(desk: &Desk, name: &str, [num, height, width]: [usize; 3]) {
    let mut writer = NpzWriter::create(&desk.path(name), num, height, width).unwrap();
    writer.write(&(0..num * height * width * 3).map(|i| (i * i / 7 % 256) as u8).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_run_its_file_of_samples_and_a_saved_reference_give_the_same_numbers() {
    let desk = trained();
    let few = ["--num-samples", "30", "--bootstrap", "20"];
    let eval = |args: &[&str]| {
        let answer = desk.run(&["eval"].iter().chain(args).chain(&few).copied().collect::<Vec<_>>());
        answer.assert_done();
        answer
    };
    let answer = eval(&["run", "--out", "of_run.json", "--save-reference", "reference.npz"]);
    assert!(answer.out.contains("30 pictures of step 2, seed 0, compared with data"), "{}", answer.out);
    desk.run(&["sample", "run", "--num", "30", "--npz", "samples.npz"]).assert_done();
    let common = ["--reference", "reference.npz", "--features", "shapes_net"];
    eval(&[&["samples.npz", "--out", "of_file.json"], &common[..]].concat());
    let (of_run, of_file) = (json(&desk, "of_run.json"), json(&desk, "of_file.json"));
    assert_eq!(of_run["metrics"], of_file["metrics"]);
    let names: Vec<&String> = of_run["metrics"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["fd_shapes_net", "precision_shapes_net", "recall_shapes_net", "shapes_net_score"]);
    assert!(!of_run["metrics"].to_string().contains("fid"));
    let fd = &of_run["metrics"]["fd_shapes_net"];
    assert!(fd["low"].as_f64() < fd["value"].as_f64() && fd["value"].as_f64() < fd["high"].as_f64());
    let settings = &of_run["settings"];
    assert_eq!(settings["sample"]["cfg_scale"], 3.0);
    assert_eq!((&settings["num_samples"], &settings["bootstrap"]), (&30.into(), &20.into()));
    assert_eq!(settings["reference"]["num_images"], 40);
    assert_eq!(settings["features"][0]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(settings["features"], of_file["settings"]["features"]);
}

#[test]
fn every_checkpoint_and_several_seeds_leave_a_file_each() {
    let desk = trained();
    let few = ["--set", "evaluation.num_samples=12", "--metric", "frechet_distance"];
    let eval = |args: &[&str]| {
        desk.run(&["eval", "run"].iter().chain(args).chain(&few).copied().collect::<Vec<_>>()).assert_done();
    };
    eval(&["--step", "all", "--seeds", "3"]);
    let mut files: Vec<String> = fs::read_dir(desk.path("run/eval"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files[0].starts_with("step-0000001-") && files[1].starts_with("step-0000002-"), "{files:?}");
    let found = json(&desk, &format!("run/eval/{}", files[1]));
    let fd = &found["metrics"]["fd_shapes_net"];
    assert_eq!((found["step"].as_u64(), fd["by_seed"].as_array().unwrap().len()), (Some(2), 3));
    assert!(fd["spread"].as_f64().unwrap() > 0.0);
    assert_eq!(found["settings"]["seeds"], serde_json::json!([0, 1, 2]));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let desk = trained();
    write_pictures(&desk, "few.npz", [3, 32, 32]);
    write_pictures(&desk, "many.npz", [20, 32, 32]);
    desk.write("cut.npz", &fs::read(desk.path("many.npz")).unwrap()[..900]);
    let mut statistics = NpzWriter::empty(&desk.path("statistics.npz")).unwrap();
    statistics.write_f64("mu", &[2048], &[0.0; 2048]).unwrap();
    statistics.write_f64("sigma", &[2, 2], &[1.0; 4]).unwrap();
    statistics.finish().unwrap();
    let refused = |args: &[&str], words: &[&str]| {
        desk.run(&["eval"].iter().chain(args).copied().collect::<Vec<_>>()).assert_refused(words);
    };
    let shapes_net = ["--features", "shapes_net"];
    let with = |args: &[&'static str]| [args, &shapes_net[..]].concat();
    refused(&["none"], &["`none` does not exist"]);
    refused(&["many.npz", "--reference", "few.npz"], &["--features shapes_net"]);
    refused(&with(&["many.npz"]), &["--reference is missing"]);
    refused(&with(&["many.npz", "--reference", "none.npz"]), &["--reference `none.npz` does not exist"]);
    refused(&with(&["many.npz", "--reference", "cut.npz"]), &["cut.npz", "cut"]);
    refused(&with(&["many.npz", "--reference", "few.npz"]), &["more than 3 pictures", "found 3"]);
    refused(&with(&["many.npz", "--reference", "statistics.npz"]), &["are not those of `shapes_net`"]);
    refused(&with(&["many.npz", "--reference", "few.npz", "--num-samples", "21"]), &["21 pictures", "there are 20"]);
    refused(&with(&["many.npz", "--reference", "few.npz", "--step", "2"]), &["no run folder"]);
    refused(&with(&["run", "--metric", "fid"]), &["unknown metric `fid`", "frechet_distance"]);
    refused(&with(&["run", "--metric", "discrepancy"]), &["--metric", "none of the networks", "shapes_net"]);
    refused(&with(&["run", "--features", "shapes_net"]), &["--features", "`shapes_net` is measured twice"]);
    refused(&["run", "--num-samples", "1000000000000"], &["--num-samples", "out of range"]);
    refused(&["run", "--seeds", "1000000000000"], &["--seeds", "out of range"]);
    refused(&["run", "--features", "inception"], &["pt_inception", "curl"]);
    refused(&["run", "--set", "evaluation.features.0.type=shape_net"], &["did you mean `shapes_net`"]);
    refused(&["run", "--step", "newest"], &["`newest` is neither a step nor `all`"]);
    desk.run(&["sample", "run", "--npz", "folder"]).assert_refused(&["must end in `.npz`"]);
}

#[test]
fn statistics_of_inception_must_be_whole_for_what_is_asked() {
    let desk = Desk::new();
    write_pictures(&desk, "many.npz", [6, 16, 16]);
    let mut statistics = NpzWriter::create(&desk.path("statistics.npz"), 5, 16, 16).unwrap();
    statistics.write(&[9; 5 * 16 * 16 * 3]).unwrap();
    statistics.write_f64("mu", &[3], &[0.0; 3]).unwrap();
    statistics.write_f64("sigma", &[2, 2], &[1.0; 4]).unwrap();
    statistics.write_f64("mu_s", &[3], &[0.0; 3]).unwrap();
    statistics.finish().unwrap();
    let weights = realign::weights::state_dict(&realign_plugins::feature_networks::inception::Inception::new(
        &realign::nn::ParamBuilder::new(&realign::burn::tensor::Device::flex(), 0),
    ));
    let published = realign_plugins::feature_networks::inception::Inception::layout().export(weights, "").unwrap();
    realign::weights::write_safetensors(&desk.path("inception.safetensors"), &published).unwrap();
    let refused = |metric: &str, words: &[&str]| {
        let network = "{type: inception, weights: inception.safetensors}";
        desk.run(&["eval", "many.npz", "--reference", "statistics.npz", "--features", network, "--metric", metric])
            .assert_refused(words);
    };
    refused("spatial_frechet_distance", &["has no array `sigma_s`, which `sfid` needs"]);
    refused("frechet_distance", &["array `sigma`", "[2, 2]", "[3, 3]"]);
}

#[test]
fn numbers_of_other_settings_get_files_of_their_own_that_say_which() {
    let desk = trained();
    let eval = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let few = ["eval", "run", "--num-samples", "12", "--metric", "frechet_distance"].into_iter();
        let answer = desk.run(&few.chain(sets).collect::<Vec<_>>());
        answer.assert_done();
        json(&desk, answer.out.split("result: ").nth(1).unwrap().trim())["settings"].clone()
    };
    let [plain, seed, precision] = [&[][..], &["seed=5"], &["precision=bf16"]].map(eval);
    assert_eq!(fs::read_dir(desk.path("run/eval")).unwrap().count(), 3);
    assert_eq!((&plain["overrides"], &seed["overrides"]), (&serde_json::json!([]), &serde_json::json!(["seed=5"])));
    assert_eq!((&plain["precision"], &precision["precision"]), (&"f32".into(), &"bf16".into()));
    assert_eq!(plain["recipe"], serde_json::json!(["sit", "demo"]));
}

#[test]
fn statistics_of_one_network_are_not_taken_for_anothers() {
    let desk = Desk::new();
    write_pictures(&desk, "many.npz", [12, 32, 32]);
    write_pictures(&desk, "others.npz", [9, 32, 32]);
    let fd = |reference: &str, network: &str, more: &[&str]| {
        let args = ["eval", "many.npz", "--reference", reference, "--features", network, "--out", "out.json"];
        desk.run(&[&args[..], &["--metric", "frechet_distance"], more].concat()).assert_done();
        json(&desk, "out.json")["metrics"].as_object().unwrap().values().next().unwrap()["value"].as_f64().unwrap()
    };
    let hog = |grid: usize| format!("{{type: encoder, encoder: {{type: hog}}, grid: {grid}}}");
    let coarse = fd("others.npz", &hog(4), &["--save-reference", "saved.npz"]);
    assert_eq!(fd("saved.npz", &hog(4), &[]), coarse);
    assert_eq!(fd("saved.npz", &hog(8), &[]), fd("others.npz", &hog(8), &[]));
}

#[test]
fn a_damaged_checkpoint_and_a_folder_without_its_recipe_are_refused() {
    let desk = trained();
    let path = "run/checkpoints/step-0000002/ema-ema.safetensors";
    let mut bytes = fs::read(desk.path(path)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    desk.write(path, bytes);
    let named = ["sample", "run", "--step", "2", "--num", "1", "--npz", "x.npz"];
    desk.run(&named).assert_refused(&["step-0000002", "`ema-ema.safetensors` is not what was written"]);
    desk.run(&["eval", "run", "--step", "all"]).assert_refused(&["is not what was written"]);
    fs::remove_file(desk.path("run/recipe.yaml")).unwrap();
    desk.run(&["eval", "run"]).assert_refused(&["no `recipe.yaml`"]);
}
