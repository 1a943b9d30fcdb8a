//! Runs that are killed, stopped and damaged end as the uninterrupted run does, byte for byte.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Write, stdout};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use program::Desk;
use realign::checkpoint::checkpoints;
use realign::log::Event;
use realign::recipe::{Layered, Plan};
use realign::train::RunOptions;
use realign_plugins as _;

const RECIPE: &str = "recipes/sit-irepa.yaml";
/// A run of a second: 24 steps, a checkpoint every third.
const SMALL: [&str; 19] = [
    "image_size=16",
    "backbone.hidden_size=16",
    "backbone.depth=2",
    "backbone.num_heads=2",
    "backbone.time_scale=1000",
    "alignment.0.encoder_depth=1",
    "train.steps=24",
    "train.global_batch_size=4",
    "train.micro_batch_size=2",
    "train.schedule.warmup_steps=2",
    "log.every=1",
    "log.checkpoint_every=3",
    "log.preview_every=0",
    "log.keep_checkpoints=2",
    "log.classifier=false",
    "sample.num_preview=0",
    "loader.num_workers=1",
    "flip=0.5",
    "seed=3",
];
const LAST_STEP: u64 = 24;
const LAST_CHECKPOINT: &str = "checkpoints/step-0000024";
const LONGEST: Duration = Duration::from_secs(300); // a stuck program fails the test instead of hanging it
const NUM_ATTEMPTS: u32 = 5; // a busy machine may let a run end before it is killed

/// One life of a run, killed when the test is done with it.
struct Life(Child);

impl Life {
    /// Starts the program; what it says goes to `<name>.log`.
    fn start(desk: &Desk, name: &str, more: &[&str]) -> Self {
        Self::start_of(RECIPE, desk, name, more)
    }

    fn start_of(recipe: &str, desk: &Desk, name: &str, more: &[&str]) -> Self {
        let sets: Vec<&str> = SMALL.iter().chain(more).copied().collect();
        Self::start_with(recipe, desk, name, &sets)
    }

    fn start_with(recipe: &str, desk: &Desk, name: &str, sets: &[&str]) -> Self {
        let mut args = vec!["run", recipe, "--run-dir", name];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        let log = File::create(desk.path(&format!("{name}.log"))).unwrap();
        let mut command = desk.command(&args);
        Self(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    /// Waits for the end, or for the moment, which is `None`.
    fn wait_until(&mut self, mut is_time: impl FnMut() -> bool) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            if is_time() {
                return None;
            }
            assert!(begin.elapsed() < LONGEST, "the run does not end");
            sleep(Duration::from_micros(200));
        }
    }

    /// Waits for the moment, then kills with SIGKILL. Returns whether the run was still going.
    fn kill_when(mut self, is_time: impl FnMut() -> bool) -> bool {
        match self.wait_until(is_time) {
            Some(status) => assert!(status.success(), "the run failed before it was killed: {status}"),
            None => return true, // by the drop
        }
        false
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts and runs to the end; returns what the program said.
fn finish(desk: &Desk, name: &str) -> String {
    let status = Life::start(desk, name, &[]).wait_until(|| false).unwrap();
    let said = said(desk, name);
    assert!(status.success(), "{said}");
    said
}

fn said(desk: &Desk, name: &str) -> String {
    fs::read_to_string(desk.path(&format!("{name}.log"))).unwrap()
}

/// What a run leaves: its last checkpoint's files, and the loss of every step as logged.
struct Outcome {
    files: BTreeMap<String, Vec<u8>>,
    losses: Vec<(u64, String)>,
}

impl Outcome {
    fn of(run_dir: &Path) -> Self {
        let entries = fs::read_dir(run_dir.join(LAST_CHECKPOINT)).unwrap().map(|entry| entry.unwrap());
        let named =
            |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap());
        Self { files: entries.map(named).collect(), losses: losses(run_dir) }
    }
}

fn losses(run_dir: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    // Accuracies on held-out pictures have lines of their own.
    let of_training = lines.filter(|line| line.get("train/loss").is_some());
    of_training.map(|line| (line["step"].as_u64().unwrap(), line["train/loss"].as_f64().unwrap().to_string())).collect()
}

/// The uninterrupted run, and how long it took.
fn whole() -> &'static (Outcome, Duration) {
    static WHOLE: OnceLock<(Outcome, Duration)> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let (desk, begin) = (Desk::new(), Instant::now());
        finish(&desk, "whole");
        let (outcome, elapsed) = (Outcome::of(&desk.path("whole")), begin.elapsed());
        assert!(outcome.losses.iter().map(|(step, _)| *step).eq(1..=LAST_STEP), "each step is logged once");
        for name in ["model", "ema-ema", "optimizer"] {
            assert!(outcome.files.contains_key(&format!("{name}.safetensors")), "`{name}` is not saved");
        }
        (outcome, elapsed)
    })
}

fn assert_equal(desk: &Desk, name: &str) {
    let (found, expected) = (Outcome::of(&desk.path(name)), &whole().0);
    assert_eq!(found.losses, expected.losses, "{name}");
    assert!(found.files.keys().eq(expected.files.keys()), "`{name}` holds other files");
    for (file, bytes) in &expected.files {
        assert!(found.files[file] == *bytes, "`{file}` of `{name}` differs");
    }
}

/// Whether a save is under way, or was when the run was killed.
fn is_saving(run_dir: &Path) -> bool {
    let entries = fs::read_dir(run_dir.join("checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".writing-step"))
}

/// Kills a run after `delay`, and its next life in a save after `num_spared` saves. Returns whether both hit.
fn is_killed_twice(desk: &Desk, name: &str, delay: Duration, mut num_spared: u32) -> bool {
    let moment = Instant::now() + delay;
    if !Life::start(desk, name, &[]).kill_when(|| Instant::now() >= moment) {
        return false;
    }
    // What the first kill left of a save is no save of the second life.
    let mut was_saving = is_saving(&desk.path(name));
    Life::start(desk, name, &[]).kill_when(|| {
        let is_saving = is_saving(&desk.path(name));
        let begins = is_saving && !was_saving;
        was_saving = is_saving;
        let is_spared = begins && num_spared > 0;
        num_spared -= u32::from(is_spared);
        begins && !is_spared
    })
}

#[test]
fn a_run_killed_at_any_moment_ends_bit_equal() {
    let desk = Desk::new();
    let num_kills: u32 = env::var("REALIGN_KILLS").map_or(6, |text| text.parse().expect("REALIGN_KILLS is a number"));
    let mut num_torn = 0;
    for pair in 0..num_kills.div_ceil(2) {
        // A fixed sequence that covers the run's length evenly, so that a failure can be repeated.
        let fraction = (f64::from(pair + 1) * 0.618_033_988).fract();
        let hit =
            (0..NUM_ATTEMPTS).map(|attempt| (attempt, format!("killed-{pair}-{attempt}"))).find(|(attempt, name)| {
                let (sooner, num_spared) = (0.5_f64.powi(*attempt as i32), if *attempt == 0 { pair % 4 } else { 0 });
                let is_hit = is_killed_twice(&desk, name, whole().1.mul_f64(fraction * sooner), num_spared);
                num_torn += u32::from(is_hit && is_saving(&desk.path(name)));
                finish(&desk, name);
                assert_equal(&desk, name);
                is_hit
            });
        assert!(hit.is_some(), "{NUM_ATTEMPTS} runs ended before they were killed");
    }
    let num_kills = num_kills.div_ceil(2) * 2;
    writeln!(stdout(), "{num_kills} kills, {num_torn} left a save half-written: all ended bit-equal").unwrap();
}

#[test]
fn a_terminated_run_saves_once_says_so_once_and_goes_on() {
    let desk = Desk::new();
    let is_stopped = |name: &str| {
        let mut life = Life::start(&desk, name, &[]);
        let metrics = desk.path(name).join("metrics.jsonl");
        let has_begun = || fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 2);
        if life.wait_until(has_begun).is_none() {
            // SAFETY: a signal to our own child, which has not been waited for.
            unsafe { libc::kill(i32::try_from(life.0.id()).unwrap(), libc::SIGTERM) };
        }
        assert_eq!(life.wait_until(|| false).unwrap().code(), Some(0), "{}", said(&desk, name));
        !desk.path(name).join(LAST_CHECKPOINT).exists()
    };
    let name = (0..NUM_ATTEMPTS).map(|attempt| format!("asked-{attempt}")).find(|name| is_stopped(name));
    let name = name.expect("a run that is asked to stop before its last step");
    let stopped_at = losses(&desk.path(&name)).last().unwrap().0;
    assert_eq!(checkpoints(&desk.path(&name).join("checkpoints")).last().unwrap().step, stopped_at);
    assert_eq!(said(&desk, &name).matches("stopped").count(), 1, "{}", said(&desk, &name));
    assert!(finish(&desk, &name).contains(&format!("going on from step {stopped_at}")));
    assert_equal(&desk, &name);
}

/// Every objective, backbone and program draws and trains the same after a kill as without one.
#[test]
fn runs_of_other_recipes_that_are_killed_end_bit_equal_too() {
    let jit = ["backbone.context_start=1", "backbone.bottleneck_size=8"];
    let program = ["program.loss.discriminator.start=4", "program.loss.discriminator.lecam_weight=0.1"];
    let has_section = |set: &&str, names: &[&str]| names.iter().any(|name| set.starts_with(name));
    let small = |more: &[&'static str]| SMALL.iter().chain(more).copied().collect::<Vec<_>>();
    // A program of its own has no diffusion model.
    let alone = small(&program).into_iter().filter(|set| !has_section(set, &["backbone.", "alignment.", "sample."]));
    let alone = alone.map(|set| if set == "train.micro_batch_size=2" { "train.micro_batch_size=4" } else { set });
    let whole_batch = ["train.micro_batch_size=4"];
    let encoder = "program.encoder={type: vit, preset: null, weights: random, hidden_size: 16, depth: 2, num_heads: 2, \
                   patch_size: 4, mlp_size: 24, position_grid: 3}";
    let recipes: [(&str, Vec<&str>); 8] = [
        ("recipes/meanflow-irepa.yaml", small(&[])),
        ("recipes/jit-irepa.yaml", small(&jit)),
        ("recipes/jit-meanflow-irepa.yaml", small(&jit)),
        // The text encoder trains with the network, and captions are drawn.
        ("recipes/mmdit-irepa.yaml", small(&[])),
        ("recipes/mmdit-meanflow-irepa.yaml", small(&[])),
        ("recipes/irepa-e.yaml", small(&program).into_iter().chain(whole_batch).collect()),
        ("recipes/vae.yaml", alone.clone().chain(["program.num_statistics=64"]).collect()),
        ("recipes/classification.yaml", alone.filter(|set| !set.contains("loss.")).chain([encoder]).collect()),
    ];
    for (recipe, sets) in recipes {
        let desk = Desk::new();
        let finish = |name: &str| {
            let status = Life::start_with(recipe, &desk, name, &sets).wait_until(|| false).unwrap();
            assert!(status.success(), "{recipe}: {}", said(&desk, name));
            Outcome::of(&desk.path(name))
        };
        let whole = finish("whole");
        let is_early = || desk.path("killed/checkpoints/step-0000006").exists();
        let mut life = Life::start_with(recipe, &desk, "killed", &sets);
        assert!(life.wait_until(is_early).is_none(), "{recipe}: {}", said(&desk, "killed"));
        drop(life);
        let killed = finish("killed");
        assert_eq!(whole.losses, killed.losses, "{recipe}");
        assert!(whole.files == killed.files, "{recipe}: the last checkpoints differ");
    }
}

#[test]
fn a_stop_that_comes_while_a_step_is_logged_still_saves() {
    let desk = Desk::new();
    let layered = Layered::load(&desk.path(RECIPE), None, &SMALL.map(String::from)).unwrap();
    let (plan, stop) = (Plan::new(&layered).unwrap(), AtomicBool::new(false));
    // Step 4 is logged and not due for a save.
    let mut sink = |event: &Event| {
        let is_step = matches!(event, Event::Step { step: 4, .. });
        stop.fetch_or(is_step, Ordering::Relaxed);
    };
    let options = RunOptions { run_dir: desk.path("stopped"), stop: &stop };
    let trainer = realign::train::run(&plan, &layered, options, &mut sink).unwrap();
    assert!(trainer.step < LAST_STEP);
    assert_eq!(checkpoints(&desk.path("stopped/checkpoints")).last().unwrap().step, trainer.step);
    finish(&desk, "stopped");
    assert_equal(&desk, "stopped");
}

#[test]
fn the_folder_of_another_recipe_is_refused_with_the_reason_and_left_alone() {
    let desk = Desk::new();
    finish(&desk, "taken");
    let recipe = || fs::read(desk.path("taken/recipe.yaml")).unwrap();
    let before = recipe();
    let refusal = || {
        let status = Life::start(&desk, "taken", &["train.learning_rate=0.5"]).wait_until(|| false).unwrap();
        assert_eq!(status.code(), Some(1));
        said(&desk, "taken")
    };
    let with_checkpoints = refusal();
    assert!(with_checkpoints.contains("is of another recipe (digest "), "{with_checkpoints}");
    assert_equal(&desk, "taken");
    fs::remove_dir_all(desk.path("taken/checkpoints")).unwrap();
    let without = refusal();
    assert!(without.contains("holds a run of another recipe") && without.contains("--run-dir"), "{without}");
    assert!(recipe() == before, "the refused run wrote its recipe");
}

#[test]
fn a_damaged_checkpoint_is_skipped_with_a_warning_for_the_one_before() {
    let desk = Desk::new();
    finish(&desk, "damaged");
    for (name, is_cut) in [("model.safetensors", true), ("ema-ema.safetensors", false)] {
        let path = desk.path("damaged").join(LAST_CHECKPOINT).join(name);
        let mut bytes = fs::read(&path).unwrap();
        match is_cut {
            true => bytes.truncate(bytes.len() / 2),
            false => *bytes.last_mut().unwrap() ^= 1,
        }
        fs::write(&path, bytes).unwrap();
        let said = finish(&desk, "damaged");
        let warning = format!("warning: skipped `damaged/{LAST_CHECKPOINT}`: `{name}` is not what was written");
        assert!(said.contains(&warning) && said.contains("going on from step 21"), "{said}");
        assert_equal(&desk, "damaged");
    }
    // Where none is whole, to begin anew would cost what is left: the run's logs.
    let metrics = fs::read(desk.path("damaged/metrics.jsonl")).unwrap();
    for entry in fs::read_dir(desk.path("damaged/checkpoints")).unwrap() {
        fs::write(entry.unwrap().path().join("manifest.json"), "{").unwrap();
    }
    let status = Life::start(&desk, "damaged", &[]).wait_until(|| false).unwrap();
    assert!(!status.success() && said(&desk, "damaged").contains("error: no checkpoint is whole"));
    assert_eq!(fs::read(desk.path("damaged/metrics.jsonl")).unwrap(), metrics);
}

#[test]
fn two_runs_started_in_the_same_second_have_different_event_files() {
    let desk = Desk::new();
    // `events.out.tfevents.<unix seconds>.<host>.<process>.<counter>`
    let seconds = |name: &str| -> Vec<String> {
        let entries = fs::read_dir(desk.path(name)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| Some(name.strip_prefix("events.out.tfevents.")?.split('.').next()?.into())).collect()
    };
    for attempt in 0..NUM_ATTEMPTS {
        let name = format!("twice-{attempt}");
        let (mut first, _second) = (Life::start(&desk, &name, &[]), Life::start(&desk, &name, &[]));
        first.wait_until(|| seconds(&name).len() == 2);
        if matches!(seconds(&name).as_slice(), [one, other] if one == other) {
            return;
        }
    }
    realign_tests::say_skipped("this machine is too busy to start two runs in one second");
}
