//! Tables run again: what is missing is done once, also by two programs at a time and after a kill.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use realign::recipe::Settings;
use realign_experiments::evaluation::result::{Evaluation, EvaluationSettings, Measured, ReferenceUsed, SCHEMA};
use realign_experiments::reproduce::{Assessment, Scale, Tables, trainings};

use crate::program::{Answer, Desk, project};

/// Two methods, two steps, two pictures.
const TABLE: &str = "
title: Two steps
source: a test
metrics: [fid]
arms: {REPA: sit-repa.yaml, iREPA: sit-irepa.yaml}
sample: {cfg_scale: 1.0}
pictures: 2
rows:
  - {label: REPA, arm: REPA, paper: '20.5'}
  - {label: iREPA, arm: iREPA, paper: '10.5'}
";
/// Three encoders, with a correlation that is measured and one that is not.
const FIGURE: &str = "
title: Three encoders
source: a test
metrics: [fid]
arms: {REPA: sit-repa.yaml}
sample: {cfg_scale: 1.0}
pictures: 2
rows:
  - {label: HOG, arm: REPA, encoder: {type: hog}, everywhere: true}
  - {label: HOG-32, arm: REPA, encoder: {type: hog, channels: 32}, everywhere: true}
  - {label: SIFT, arm: REPA, encoder: {type: sift}, everywhere: true}
correlations:
  - {x: lds, y: fid, paper: '|r| = 0.852'}
  - {x: linear_probe, y: fid, paper: '|r| = 0.260'}
";
const SETS: [&str; 10] = [
    "train.global_batch_size=4",
    "train.micro_batch_size=4",
    "train.schedule.warmup_steps=0",
    "backbone.depth=2",
    "backbone.hidden_size=64",
    "alignment.0.encoder_depth=1",
    "sample.num_preview=0",
    "sample.sampler.num_steps=1",
    "log.classifier=false",
    "log.checkpoint_every=2",
];

fn desk() -> Desk {
    let desk = Desk::new();
    desk.write("table.yaml", TABLE);
    desk
}

fn args<'a>(steps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let sets = SETS.iter().flat_map(|set| ["--set", set]);
    ["reproduce", "table.yaml", "--set", steps].into_iter().chain(sets).chain(more.iter().copied()).collect()
}

/// The run folders and results of the table, as the program names them.
fn results(desk: &Desk, steps: &str, seeds: u64) -> Vec<Assessment> {
    let tables = Tables::read().unwrap();
    let (_, table) = tables.table(desk.path("table.yaml").to_str().unwrap()).unwrap();
    let sets: Vec<String> = [steps].iter().chain(&SETS).map(|set| set.to_string()).collect();
    let (settings, recipes, runs) = (Settings::default(), desk.path("recipes"), desk.path("runs/reproduce"));
    let scale = Scale {
        settings: &settings,
        recipes: &recipes,
        runs: &runs,
        profile: "demo",
        is_paper: false,
        sets: &sets,
        other: vec![],
    };
    let (runs, _) = trainings(&table.entries(&tables, false).unwrap(), &scale, seeds).unwrap();
    runs.into_iter().flat_map(|run| run.stages).flat_map(|stage| stage.assessments).collect()
}

/// Writes results as `eval` would, so that a test need not wait for it; `values` are those of the rows.
fn evaluated(desk: &Desk, steps: &str, seeds: u64, values: &[f64]) {
    for (result, value) in results(desk, steps, seeds).iter().zip(values) {
        let number = Measured {
            value: *value,
            low: Some(value - 0.5),
            high: Some(value + 0.5),
            convention: "shapes_net".into(),
            by_seed: vec![*value],
            spread: None,
        };
        let settings = EvaluationSettings {
            recipe: None,
            recipe_digest: None,
            sample: None,
            autoencoder: None,
            overrides: vec![],
            precision: None,
            num_samples: 7,
            seeds: vec![0],
            picture_size: [32, 32],
            features: vec![],
            reference: ReferenceUsed { source: "data".into(), digest: None, num_images: None },
            bootstrap: 9,
            realign: "0".into(),
            libtorch: None,
            device: "a test".into(),
        };
        let metrics = [("fd_shapes_net".to_string(), number)].into();
        let found = Evaluation { schema: SCHEMA, source: "run".into(), step: Some(2), metrics, settings };
        fs::create_dir_all(result.result.parent().unwrap()).unwrap();
        found.write(&result.result).unwrap();
    }
}

/// The one report there is, in a folder of its own because of the overrides.
fn report_dir(desk: &Desk) -> String {
    let names = fs::read_dir(desk.path("runs/reproduce")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    let found: Vec<&String> = names.iter().filter(|name| name.starts_with("table-demo-")).collect();
    let [name] = found[..] else { panic!("{names:?}") };
    format!("runs/reproduce/{name}")
}

fn report(desk: &Desk, ending: &str) -> String {
    fs::read_to_string(desk.path(&report_dir(desk)).join(ending)).unwrap()
}

/// How often each run was trained: the lines with which a child began.
fn num_trained(run_dir: &Path) -> usize {
    let log = fs::read_to_string(run_dir.join("reproduce.log")).unwrap_or_default();
    log.lines().filter(|line| line.starts_with("realign run ")).count()
}

fn run_dirs(results: &[Assessment]) -> Vec<PathBuf> {
    results.iter().map(|one| one.result.parent().unwrap().parent().unwrap().to_path_buf()).collect()
}

#[test]
fn a_table_is_run_once_and_reported_beside_the_paper() {
    let (desk, steps) = (desk(), "train.steps=2");
    evaluated(&desk, steps, 1, &[9.0, 4.0]);
    let answer = desk.run(&args(steps, &[]));
    answer.assert_done();
    assert!(answer.out.contains("2 runs, 0 of them finished before"), "{}", answer.out);
    assert!(answer.out.contains("iREPA better than REPA: holds"), "{}", answer.out);
    let page = report(&desk, "report.html");
    for words in [
        "small-scale repetition",
        "`fd_shapes_net` is not FID".replace('`', "").as_str(),
        "One seed",
        "7 samples",
        "10.5 &lt; 20.5",
        "class=\"holds\"",
        "data:image/png;base64",
        "<svg",
        "hog, block 1 of 2",
        "-48.8 %",
    ] {
        let plain = page.replace("<code>", "").replace("</code>", "");
        assert!(plain.contains(words), "{words}: {plain}");
    }
    assert!(
        !page.contains("<script") && !page.contains("src=\"http") && !page.contains("href"),
        "it needs other files"
    );
    let table = report(&desk, "results.csv");
    assert!(table.lines().any(|line| line.contains(",iREPA,fid,10.5,")), "{table}");
    assert!(table.lines().any(|line| line.contains(",iREPA,fd_shapes_net,,4,")), "{table}");
    assert!(report(&desk, "report.md").contains("![fd_shapes_net of each run](runs.svg)"));
    // The same command again has nothing to do.
    let answer = desk.run(&args(steps, &[]));
    answer.assert_done();
    assert!(answer.out.contains("2 runs, 2 of them finished before"), "{}", answer.out);
    let folders = run_dirs(&results(&desk, steps, 1));
    assert_eq!(folders.iter().map(|folder| num_trained(folder)).collect::<Vec<_>>(), [1, 1]);
    let answer = desk.run(&["plot", "runs/reproduce", "--metric", "train/loss", "--out", "curves.svg"]);
    answer.assert_done();
    assert!(fs::read_to_string(desk.path("curves.svg")).unwrap().contains("sit-irepa-demo"));
    desk.run(&["plot", "runs/reproduce", "--metric", "train/los"]).assert_refused(&["did you mean `train/loss`?"]);
    desk.run(&["plot", "recipes"]).assert_refused(&["`recipes`", "metrics.jsonl"]);
}

#[test]
fn a_figure_measures_its_encoders_and_draws_their_correlation() {
    let (desk, steps) = (Desk::new(), "train.steps=2");
    desk.write("table.yaml", FIGURE);
    evaluated(&desk, steps, 1, &[9.0, 8.0, 4.0]);
    desk.run(&args(steps, &[])).assert_done();
    let report_text = report(&desk, "report.md");
    let line = |name: &str| report_text.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap();
    assert!(line("lds").contains("| r = ") && line("lds").ends_with("| 3 |"), "{report_text}");
    assert!(line("linear_probe").ends_with("| – | fd_shapes_net | 0 |"), "{report_text}");
    assert!(desk.path(&report_dir(&desk)).join("correlations.png").is_file());
    let csv = report(&desk, "encoders.csv");
    assert!(csv.starts_with("encoder,fd_shapes_net,lds\n") && csv.contains("SIFT,4,"), "{csv}");
    let answer = desk.run(&["correlate", &format!("{}/encoders.csv", report_dir(&desk)), "--y", "fd_shapes_net"]);
    answer.assert_done();
    assert!(answer.out.contains("lds"), "{}", answer.out);
    // What is known is not measured again.
    let known = report(&desk, "structure.json");
    desk.write(&format!("{}/structure.json", report_dir(&desk)), known.replacen("\"lds\": ", "\"lds\": 7", 1));
    desk.run(&args(steps, &[])).assert_done();
    assert!(report(&desk, "encoders.csv").contains("HOG,9,7"), "{}", report(&desk, "encoders.csv"));
}

#[test]
fn an_order_within_noise_and_one_that_is_reversed_are_called_so() {
    let (desk, steps) = (desk(), "train.steps=2");
    for (values, words) in [([9.0, 8.6], "within noise"), ([4.0, 9.0], "does not hold"), ([9.0, 4.0], "holds")] {
        evaluated(&desk, steps, 1, &values);
        let answer = desk.run(&args(steps, &["--report"]));
        answer.assert_done();
        assert!(answer.out.contains(&format!("iREPA better than REPA: {words}\n")), "{}", answer.out);
    }
    assert!(report(&desk, "report.md").contains("2 of 2 runs are not finished"));
    // Three seeds of each row: REPA 9, 8, 7 and iREPA 6, 5, 4.
    evaluated(&desk, steps, 3, &[9.0, 6.0, 8.0, 5.0, 7.0, 4.0]);
    let answer = desk.run(&args(steps, &["--report", "--seeds", "3"]));
    assert!(answer.out.contains("8.000 ± 1.000") && answer.out.contains("REPA: holds"), "{}", answer.out);
}

#[test]
fn a_killed_table_goes_on_where_it_was_and_trains_nothing_twice() {
    let (desk, steps) = (desk(), "train.steps=60");
    evaluated(&desk, steps, 1, &[9.0, 4.0]);
    let folders = run_dirs(&results(&desk, steps, 1));
    let start = |more: &[&str]| desk.command(&args(steps, more)).stdout(Stdio::null()).spawn().unwrap();
    let has_begun = |folder: &Path| {
        let mut entries = fs::read_dir(folder.join("checkpoints")).into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name().to_string_lossy().starts_with("step-"))
    };
    let mut child = start(&["--jobs", "1"]);
    let began = Instant::now();
    while !has_begun(&folders[0]) && began.elapsed() < Duration::from_secs(120) {
        std::thread::yield_now();
    }
    // As Ctrl-C does, the run below is told to save and end.
    assert!(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(folders[0].join("reproduce.log")).unwrap();
    assert!(log.contains("stopped and saved") || log.contains("60/60"), "{log}");
    // Two programs at once share what is left.
    let (mut one, mut two) = (start(&[]), start(&[]));
    assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
    let answer = desk.run(&args(steps, &[]));
    answer.assert_done();
    assert!(answer.out.contains("2 of them finished before"), "{}", answer.out);
    let counts: Vec<usize> = folders.iter().map(|folder| num_trained(folder)).collect();
    assert!(counts[0] <= 2 && counts[1] == 1, "{counts:?}");
    for folder in &folders {
        let metrics = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        let steps: Vec<u64> = metrics
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64())
            .collect();
        assert!(steps.windows(2).all(|pair| pair[0] <= pair[1]), "a step was lost or trained twice: {steps:?}");
        assert_eq!(steps.last(), Some(&60));
    }
}

#[test]
fn a_run_that_fails_is_told_and_does_not_stop_the_others() {
    let (desk, steps) = (desk(), "train.steps=2");
    evaluated(&desk, steps, 1, &[9.0, 4.0]);
    let folders = run_dirs(&results(&desk, steps, 1));
    desk.write(
        &format!("runs/reproduce/{}/recipe.yaml/in-the-way", folders[0].file_name().unwrap().to_str().unwrap()),
        "",
    );
    let answer = desk.run(&args(steps, &[]));
    assert_eq!(answer.code, 1, "{}", answer.out);
    assert!(answer.out.contains("failed: REPA") && answer.out.contains("recipe.yaml"), "{}", answer.out);
    assert!(folders[1].join("checkpoints/step-0000002").is_dir());
    assert!(report(&desk, "report.md").contains("Failed: REPA"));
}

#[test]
fn a_report_names_the_methods_that_their_own_target_measures() {
    let measured_by = |network: &str| {
        let desk = desk();
        let features = format!("evaluation.features=[{network}]");
        desk.run(&args("train.steps=2", &["--report", "--set", &features])).assert_done();
        report(&desk, "report.md").contains("is also the target of REPA, iREPA")
    };
    assert!(measured_by("{type: encoder, encoder: {type: hog}}"));
    assert!(!measured_by("{type: encoder, encoder: {type: hog, pixels_per_cell: 8}}"));
    assert!(!measured_by("{type: shapes_net}"));
}

#[test]
fn an_evaluation_that_outlives_its_program_is_waited_for_and_counts() {
    let desk = desk();
    let few =
        ["--jobs", "1", "--rows", "1", "--set", "evaluation.num_samples=60", "--set", "evaluation.num_reference=300"];
    let args = args("train.steps=2", &few);
    let mut first = desk.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with(": evaluating")));
    std::thread::sleep(Duration::from_millis(300)); // until the evaluation is a program of its own
    first.kill().unwrap();
    first.wait().unwrap();
    drop(lines);
    desk.run(&args).assert_done();
    let runs = fs::read_dir(desk.path("runs/reproduce")).unwrap().map(|entry| entry.unwrap().path());
    let logs: Vec<String> = runs.filter_map(|run| fs::read_to_string(run.join("reproduce.log")).ok()).collect();
    assert_eq!(logs.concat().matches("realign eval ").count(), 1, "{logs:?}");
}

#[test]
fn mistakes_are_answered_with_what_is_right() {
    let desk = desk();
    let refused = |words: &[&str], says: &[&str]| desk.run(&[&["reproduce"], words].concat()).assert_refused(says);
    refused(&["tabel2"], &["unknown table `tabel2`", "did you mean `table2`?"]);
    refused(&["table2", "--rows", "irepaa"], &["--rows irepaa", "did you mean `iREPA`?", "1 to 4"]);
    refused(&["table2", "--other", "kernel"], &["--other kernel", "conv_kernel"]);
    refused(&["table2", "--profile", "imagenet512"], &["imagenet512", "`imagenet256`", "`demo`"]);
    refused(&["table2", "--set", "train.stepps=3"], &["train.stepps", "did you mean `steps`?"]);
    refused(&["table2", "--profile", "imagenet256"], &["sit-repa.yaml", "data/imagenet/train", "sdvae"]);
    desk.write("wrong.yaml", TABLE.replace("arm: iREPA", "arm: iRPA"));
    refused(&["wrong.yaml"], &["a test: row 2 `iREPA`", "`iRPA` is none of the table's arms"]);
    desk.write("empty.yaml", "{title: t, source: s, metrics: [fid], arms: {REPA: sit-repa.yaml}, rows: []}");
    refused(&["empty.yaml", "--plan"], &["table `empty`", "rows: the list is empty"]);
    refused(&["table2", "--seeds", "4294967296"], &["--seeds", "out of range"]);
    let network = "evaluation.features=[{type: inception}]";
    refused(&["table2", "--set", network], &["pt_inception", "curl"]);
}

#[test]
fn a_plan_says_hours_disk_and_downloads_and_runs_nothing() {
    let desk = Desk::new();
    let answer: Answer = desk.run(&["reproduce", "--plan", "table4"]);
    answer.assert_done();
    for words in [
        "imagenet256",
        "8 runs, 32 evaluations",
        "GPU h",
        "GB of checkpoints",
        "dinov2_vitb14_pretrain.pth",
        "pt_inception-2015-12-05-6726825d.pth",
        "138 GB",
        "TFLOP/s in bf16; not measured here",
        "profile demo",
        "the fastest of 3 steps measured now of `",
    ] {
        assert!(answer.out.contains(words), "{words}: {}", answer.out);
    }
    assert!(!desk.path("runs").exists());
    // A table about CMMD needs CLIP to measure it.
    let answer = desk.run(&["reproduce", "--plan", "table8", "--rows", "1", "--profile", "imagenet256"]);
    assert!(answer.out.contains("clip-vit-large-patch14-336"), "{}{}", answer.out, answer.err);
    let list = desk.run(&["reproduce"]).out;
    assert!(list.contains("table2") && list.contains("fig28") && list.lines().count() == 31, "{list}");
    assert!(project().join("docs/reproduce.md").is_file());
}
