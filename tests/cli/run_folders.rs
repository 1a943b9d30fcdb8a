//! Run folders that cannot be used, and a run that loses nothing when its disk fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::program::{Answer, Desk};

const TINY: [&str; 18] = [
    "--set",
    "train.steps=2",
    "--set",
    "train.global_batch_size=4",
    "--set",
    "train.micro_batch_size=4",
    "--set",
    "train.schedule.warmup_steps=0",
    "--set",
    "backbone.depth=2",
    "--set",
    "sample.num_preview=0",
    "--set",
    "log.every=1",
    "--set",
    "log.classifier=false",
    "--set",
    "log.checkpoint_every=1",
];

fn args<'a>(run_dir: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let start = ["run", "recipes/sit.yaml", "--run-dir", run_dir];
    start.into_iter().chain(TINY).chain(more.iter().copied()).collect()
}

fn run(desk: &Desk, run_dir: &str, more: &[&str]) -> Answer {
    desk.run(&args(run_dir, more))
}

fn num_checkpoints(desk: &Desk, run_dir: &str) -> usize {
    let entries = fs::read_dir(desk.path(run_dir).join("checkpoints"));
    entries.map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("step-")).count()
    })
}

#[test]
fn a_network_that_takes_text_draws_what_prompts_say() {
    let desk = Desk::new();
    let train = |recipe: &str, run_dir: &str| {
        let args: Vec<&str> = ["run", recipe, "--run-dir", run_dir].into_iter().chain(TINY).collect();
        desk.run(&args).assert_done();
    };
    train("recipes/mmdit.yaml", "text");
    train("recipes/sit.yaml", "labels");
    let sample = |run: &str, prompt: &str, out: &str| {
        desk.run(&[
            "sample",
            run,
            "--num",
            "3",
            "--set",
            "sample.sampler.num_steps=2",
            "--prompt",
            prompt,
            "--out",
            out,
        ])
    };
    sample("text", "a red ring", "red.npz").assert_done();
    sample("text", "a blue ring", "blue.npz").assert_done();
    let bytes = |name: &str| fs::read(desk.path(name)).unwrap();
    assert!(bytes("red.npz") != bytes("blue.npz"), "the text changes nothing");
    sample("text", "a red rign", "x.npz").assert_refused(&["`rign`", "did you mean `ring`?"]);
    sample("labels", "a red ring", "x.npz").assert_refused(&[
        "--prompt",
        "`class_labels`",
        "takes no text",
        "--labels",
    ]);
    desk.run(&["sample", "text", "--num", "16", "--set", "sample.sampler.num_steps=1"]).assert_done();
}

#[test]
fn the_folder_of_another_recipe_is_refused_and_left_alone() {
    let desk = Desk::new();
    run(&desk, "a", &[]).assert_done();
    let before = num_checkpoints(&desk, "a");
    run(&desk, "a", &["--set", "train.learning_rate=0.5"]).assert_refused(&[
        "a/checkpoints",
        "another recipe",
        "use another folder",
    ]);
    assert_eq!(num_checkpoints(&desk, "a"), before);
    run(&desk, "a", &[]).assert_done();
}

#[test]
fn sample_says_its_result_and_nothing_else_when_piped() {
    let desk = Desk::new();
    run(&desk, "a", &[]).assert_done();
    let sets = ["--set", "sample.sampler.num_steps=1", "--out", "three.npz"];
    let answer = desk.run(&[&["sample", "a", "--num", "3", "--batch", "2"], sets.as_slice()].concat());
    answer.assert_done();
    assert_eq!((answer.out.as_str(), answer.err.as_str()), ("3 pictures of step 2 in three.npz\n", ""));
    let elsewhere = desk.run(&["sample", "a", "--set", "device=cuda:99"]);
    elsewhere.assert_refused(&["--set device=cuda:99: device: "]);
}

#[test]
fn a_run_folder_that_is_a_file_is_refused() {
    let desk = Desk::new();
    desk.write("file", "not a folder");
    run(&desk, "file/run", &[]).assert_refused(&["file/run"]);
}

#[test]
fn a_folder_without_permission_is_refused() {
    let desk = Desk::new();
    fs::create_dir(desk.path("locked")).unwrap();
    fs::set_permissions(desk.path("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(desk.path("locked/probe"), "").is_ok() {
        realign_tests::say_skipped("this user may write into read-only folders");
        return;
    }
    run(&desk, "locked/run", &[]).assert_refused(&["locked/run"]);
}

#[test]
fn a_file_size_limit_stops_the_save_and_keeps_the_checkpoint_before_it() {
    let desk = Desk::new();
    run(&desk, "a", &[]).assert_done();
    let before = num_checkpoints(&desk, "a");
    assert!(before > 0);
    let mut command = desk.command(&args("b", &[]));
    let limit = libc::rlimit { rlim_cur: 200_000, rlim_max: 200_000 };
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let answer = Answer::from(command.output().unwrap());
    answer.assert_refused(&["checkpoint was not saved", "b/checkpoints"]);
    // The save after the first step failed as well, and training went on.
    assert!(answer.out.contains("warning: the checkpoint was not saved"), "{}", answer.out);
    assert_eq!(num_checkpoints(&desk, "b"), 0);
    run(&desk, "b", &[]).assert_done();
    assert_eq!(num_checkpoints(&desk, "b"), before);
}

#[test]
fn a_full_disk_is_an_error_of_its_own_words() {
    let desk = Desk::new();
    fs::create_dir(desk.path("full")).unwrap();
    // A file system of 256 KiB in a mount namespace of its own.
    let program = desk.command(&[]);
    let words = args("full/run", &[]).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let script = format!("mount -t tmpfs -o size=256k none full && exec '{}' {words}", program.get_program().display());
    let mut command = std::process::Command::new("unshare");
    let output = command.args(["--mount", "--map-root-user", "sh", "-c", &script]).current_dir(desk.path("")).output();
    let Some(answer) =
        output.ok().map(Answer::from).filter(|answer| answer.err.starts_with("error:") || answer.code == 0)
    else {
        realign_tests::say_skipped("this machine gives no mount namespace to fill");
        return;
    };
    answer.assert_refused(&["full/run", "No space left"]);
}

#[test]
fn a_second_program_in_one_folder_is_refused() {
    let desk = Desk::new();
    fs::create_dir(desk.path("a")).unwrap();
    let first = fs::File::create(desk.path("a/.lock")).unwrap();
    first.lock().unwrap();
    run(&desk, "a", &[]).assert_refused(&["another program trains in `a`", "--run-dir"]);
    drop(first);
    run(&desk, "a", &[]).assert_done();
}

#[test]
fn a_run_at_a_constant_rate_can_be_extended_and_others_cannot() {
    let desk = Desk::new();
    let constant = ["--set", "train.schedule.shape=constant", "--set", "train.schedule.decay_from=0"];
    let longer = [&constant[..], &["--set", "train.steps=3"]].concat();
    run(&desk, "a", &constant).assert_done();
    let answer = run(&desk, "a", &longer);
    answer.assert_done();
    assert!(answer.out.contains("going on from step 2"), "{}", answer.out);
    run(&desk, "b", &[]).assert_done();
    run(&desk, "b", &["--set", "train.steps=3"]).assert_refused(&["another recipe"]);
}

#[test]
fn what_was_trained_before_unreadable_data_is_saved() {
    let desk = Desk::new();
    for (at, name) in ["a/1", "a/2", "a/3", "b/4", "b/5", "b/6"].into_iter().enumerate() {
        let picture = image::RgbImage::from_pixel(40, 40, image::Rgb([at as u8 * 40, 90, 9]));
        fs::create_dir_all(desk.path("data").join(&name[..1])).unwrap();
        picture.save(desk.path("data").join(name).with_extension("png")).unwrap();
    }
    let whole = fs::read(desk.path("data/b/5.png")).unwrap();
    desk.write("data/b/5.png", &whole[..whole.len() / 2]);
    let data = ["data.type=image_folder", "data.path=data", "train.global_batch_size=1", "train.micro_batch_size=1"];
    let more = ["train.steps=8", "log.checkpoint_every=0", "log.every=100"];
    let sets: Vec<&str> = data.iter().chain(&more).flat_map(|set| ["--set", set]).collect();
    let answer = run(&desk, "a", &sets);
    answer.assert_refused(&["training ended after step ", "5.png"]);
    assert_eq!(num_checkpoints(&desk, "a"), 1, "{}\n{}", answer.out, answer.err);
    desk.write("data/b/5.png", whole);
    let answer = run(&desk, "a", &sets);
    answer.assert_done();
    assert!(answer.out.contains("going on from step "), "{}", answer.out);
}

#[test]
fn a_network_of_one_run_is_the_target_of_another() {
    let desk = Desk::new();
    let aligned = |encoder: &str| {
        let encoders = format!("alignment.0.encoders=[{encoder}]");
        let more = ["--set", &encoders, "--set", "alignment.0.encoder_depth=1"];
        desk.run(&[&["run", "recipes/sit-irepa.yaml", "--run-dir", "b"], TINY.as_slice(), &more].concat())
    };
    let target = "{type: checkpoint, run: a, time: 0.1}";
    aligned(target).assert_refused(&["`a/recipe.yaml` is missing", "--run-dir a"]);
    run(&desk, "a", &[]).assert_done();
    aligned("{type: checkpoint, run: a, layer: 3}").assert_refused(&["layer is `3`", "blocks 1 to 2"]);
    aligned("{type: checkpoint, run: a, weights: emma}").assert_refused(&["ema-emma.safetensors"]);
    aligned(target).assert_done();
    let metrics = fs::read_to_string(desk.path("b/metrics.jsonl")).unwrap();
    assert!(metrics.contains("train/align_loss"), "{metrics}");
}
