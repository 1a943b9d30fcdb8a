//! Runs that are killed, stopped and damaged end as the uninterrupted run does, byte for byte.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use program::Desk;

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
const LONGEST: Duration = Duration::from_secs(120); // a stuck program fails the test instead of hanging it

fn start(desk: &Desk, run_dir: &str) -> Command {
    let mut args = vec!["run", "recipes/sit-irepa.yaml", "--run-dir", run_dir];
    for set in &SMALL {
        args.extend(["--set", set]);
    }
    let mut command = desk.command(&args);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finish(desk: &Desk, run_dir: &str) {
    let output = start(desk, run_dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The files of the last checkpoint that decide how a run goes on.
fn last_checkpoint(desk: &Desk, run_dir: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = desk.path(run_dir).join("checkpoints/step-0000024");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
    let named = files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()));
    named.collect()
}

/// Loss by step as logged; a step twice is a failure.
fn losses(desk: &Desk, run_dir: &str) -> Vec<(u64, String)> {
    let text = fs::read_to_string(desk.path(run_dir).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| (line["step"].as_u64().unwrap(), line["train/loss"].to_string())).collect()
}

fn assert_equal(desk: &Desk, run_dir: &str) {
    assert_eq!(losses(desk, run_dir), losses(desk, "whole"), "{run_dir}");
    let (found, expected) = (last_checkpoint(desk, run_dir), last_checkpoint(desk, "whole"));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in expected {
        assert!(found[&name] == bytes, "`{name}` of `{run_dir}` differs");
    }
}

/// Whether a save is under way.
fn is_saving(run_dir: &Path) -> bool {
    let entries = fs::read_dir(run_dir.join("checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".writing-step"))
}

/// Waits for the moment, then kills with SIGKILL. Returns whether the run was still going.
fn kill_when(mut child: Child, mut is_time: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if is_time() {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        assert!(begin.elapsed() < LONGEST, "the run does not end");
        sleep(Duration::from_micros(200));
    }
}

#[test]
fn a_run_killed_at_any_moment_ends_bit_equal() {
    let desk = Desk::new();
    let begin = Instant::now();
    finish(&desk, "whole");
    let whole = begin.elapsed();
    let kills: u32 = env::var("REALIGN_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let (mut random, mut saving) = (0, 0);
    for kill in 0..kills {
        let name = format!("killed-{kill}");
        let run_dir = desk.path(&name);
        let child = start(&desk, &name).spawn().unwrap();
        // Every other kill waits for a save, the first, second, third ... of its run.
        let was_killed = if kill % 2 == 0 {
            let mut left = kill / 2 % 7;
            let mut was_saving = false;
            let hit = kill_when(child, || {
                let now = is_saving(&run_dir);
                let begins = now && !was_saving;
                was_saving = now;
                if begins && left > 0 {
                    left -= 1;
                    return false;
                }
                begins
            });
            saving += u32::from(hit);
            hit
        } else {
            // A fixed sequence that covers the run's length evenly, so that a failure can be repeated.
            let fraction = (f64::from(kill) * 0.618_033_988).fract();
            let moment = Instant::now() + whole.mul_f64(fraction);
            let hit = kill_when(child, || Instant::now() >= moment);
            random += u32::from(hit);
            hit
        };
        let _ = was_killed; // a run that ended first is equal all the same
        finish(&desk, &name);
        assert_equal(&desk, &name);
    }
    assert!(random + saving > 0, "every run ended before it was killed");
    writeln!(stdout(), "{kills} runs, killed {random} at a moment and {saving} in a save: all ended bit-equal")
        .unwrap();
}

#[test]
fn a_terminated_run_saves_and_goes_on() {
    let desk = Desk::new();
    finish(&desk, "whole");
    let mut child = start(&desk, "stopped").spawn().unwrap();
    let metrics = desk.path("stopped").join("metrics.jsonl");
    let begin = Instant::now();
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 2 {
        assert!(begin.elapsed() < LONGEST && child.try_wait().unwrap().is_none(), "the run did not begin");
        sleep(Duration::from_millis(1));
    }
    // SAFETY: a signal to our own child, which has not been waited for.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
    assert!(child.wait().unwrap().success());
    finish(&desk, "stopped");
    assert_equal(&desk, "stopped");
}

#[test]
fn a_damaged_checkpoint_is_skipped_for_the_one_before() {
    let desk = Desk::new();
    finish(&desk, "whole");
    finish(&desk, "damaged");
    let newest = desk.path("damaged/checkpoints/step-0000024/model.safetensors");
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    finish(&desk, "damaged");
    assert_equal(&desk, "damaged");
}

#[test]
fn two_runs_of_one_second_have_their_own_event_files() {
    let desk = Desk::new();
    finish(&desk, "twice");
    finish(&desk, "twice");
    let entries = fs::read_dir(desk.path("twice")).unwrap().map(|entry| entry.unwrap().file_name());
    let events = entries.filter(|name| name.to_string_lossy().contains("tfevents")).count();
    assert_eq!(events, 2);
}
