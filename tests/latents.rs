//! Caches of latents: made in one go, after kills and on a full disk, trained from, and refused where they do not belong.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Write, stdout};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use program::{Answer, Desk};
use realign::data::image::{RgbImage, encode_png};
use realign::streams::Streams;
use realign_plugins as _;

const RECIPE: &str = "recipes/sit-irepa.yaml";
const NUM_PICTURES: usize = 23;
const NUM_FILES: u32 = 8; // of three latents each, the last of two
const LONGEST: Duration = Duration::from_secs(300); // a stuck program fails the test instead of hanging it
const NUM_ATTEMPTS: u32 = 5; // a busy machine may let a program end before it is killed
const PICTURES: &str = "data={type: image_folder, path: pictures}";
const VAE: &str = "autoencoder={type: sd_vae, size: tiny, weights: {type: random, seed: 0}, latent_norm: {type: \
                   channel_stats, path: cache/latents-stats.safetensors}}";
const SMALL: [&str; 13] = [
    "image_size=32",
    "backbone.hidden_size=16",
    "backbone.depth=2",
    "backbone.num_heads=2",
    "backbone.patch_size=2",
    "alignment.0.encoder_depth=1",
    "train.steps=2",
    "train.global_batch_size=4",
    "train.micro_batch_size=2",
    "train.schedule.warmup_steps=1",
    "log.classifier=false",
    "sample.num_preview=3",
    "sample.sampler.num_steps=2",
];

/// A folder with pictures of three classes.
fn desk() -> Desk {
    let desk = Desk::new();
    for at in 0..NUM_PICTURES {
        let (width, height) = (33 + at, 47);
        let draws = Streams::new(at as u64).uniform("pixels", width * height * 3);
        let pixels = draws.into_iter().map(|draw| (draw * 255.0) as u8).collect();
        let png = encode_png(&RgbImage::new(width, height, pixels).unwrap()).unwrap();
        desk.write(&format!("pictures/{}/{at:02}.png", ["a", "b", "c"][at % 3]), png);
    }
    desk
}

fn with_sets<'a>(mut args: Vec<&'a str>, sets: &[&'a str]) -> Vec<&'a str> {
    SMALL.iter().chain(sets).for_each(|set| args.extend(["--set", set]));
    args
}

fn prepare_args<'a>(out: &'a str, sets: &[&'a str]) -> Vec<&'a str> {
    with_sets(vec!["prepare", "latents", RECIPE, "--out", out, "--batch", "2", "--shard", "3"], sets)
}

fn prepare(desk: &Desk, out: &str) -> Answer {
    desk.run(&prepare_args(out, &[PICTURES, VAE]))
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())).collect()
}

fn assert_equal(desk: &Desk, name: &str) {
    let (found, expected) = (files(&desk.path(name)), files(&desk.path("cache")));
    assert!(found.keys().eq(expected.keys()), "{:?} and {:?}", found.keys(), expected.keys());
    for (file, bytes) in expected {
        assert!(found[&file] == bytes, "`{file}` of `{name}` differs");
    }
}

/// Kills a life when so many files are written, and `delay` later. Returns whether it was still going.
fn is_killed_after(desk: &Desk, name: &str, num_files: u32, delay: Duration) -> bool {
    let mut command = desk.command(&prepare_args(name, &[PICTURES, VAE]));
    let mut life = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let last = match num_files {
        0 => desk.path(name).join("settings.json"),
        count => desk.path(name).join(format!("latents-{:05}.safetensors", count - 1)),
    };
    let begin = Instant::now();
    while !last.exists() && life.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < LONGEST, "the program does not end");
        sleep(Duration::from_micros(200));
    }
    sleep(delay);
    life.kill().unwrap();
    !life.wait().unwrap().success()
}

#[test]
fn a_cache_killed_at_any_moment_ends_bit_equal() {
    let num_kills: u32 = env::var("REALIGN_KILLS").map_or(3, |text| text.parse().expect("REALIGN_KILLS is a number"));
    let desk = desk();
    prepare(&desk, "cache").assert_done();
    let mut num_torn = 0;
    for kill in 0..num_kills {
        let name = format!("killed-{kill}");
        let is_killed = (0..NUM_ATTEMPTS).any(|attempt| {
            let _ = fs::remove_dir_all(desk.path(&name));
            // A fixed sequence, so that a failure can be repeated: after so many files, and a while into the next.
            let num_files = (kill * 3 / (attempt + 1)) % NUM_FILES;
            is_killed_after(&desk, &name, num_files, Duration::from_micros(u64::from(kill) * 700))
        });
        assert!(is_killed, "{NUM_ATTEMPTS} lives ended before they were killed");
        num_torn += files(&desk.path(&name)).keys().filter(|name| name.ends_with(".partial")).count();
        prepare(&desk, &name).assert_done();
        assert_equal(&desk, &name);
    }
    writeln!(stdout(), "{num_kills} kills, {num_torn} left a file half-written: all ended bit-equal").unwrap();
}

#[test]
fn a_full_disk_is_an_error_and_the_same_command_goes_on() {
    let desk = desk();
    prepare(&desk, "cache").assert_done();
    let mut command = desk.command(&prepare_args("full", &[PICTURES, VAE]));
    // SAFETY: both calls are safe between fork and exec. Files longer than 1500 bytes cannot be written: a shard is.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: 1500, rlim_max: 1500 };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    let answer = Answer::from(command.output().unwrap());
    answer.assert_refused(&["cannot write", "latents-00000.safetensors", "free the disk", "same command"]);
    assert!(files(&desk.path("full")).keys().eq(["settings.json"]), "scraps are left");
    prepare(&desk, "full").assert_done();
    assert_equal(&desk, "full");
}

const CACHED: &str = "data={type: latent_cache, path: cache, pictures: {type: image_folder, path: pictures}}";

fn train(desk: &Desk, sets: &[&str]) -> Answer {
    let _ = fs::remove_dir_all(desk.path("run"));
    desk.run(&with_sets(vec!["run", RECIPE, "--run-dir", "run"], sets))
}

#[test]
fn a_network_trains_from_the_cache_with_alignment_and_without_pictures() {
    let desk = desk();
    prepare(&desk, "cache").assert_done();
    prepare(&desk, "cache").assert_done(); // checks every byte
    train(&desk, &[CACHED, VAE]).assert_done();
    train(&desk, &["data={type: latent_cache, path: cache}", VAE, "alignment=[]"]).assert_done();
    let without = train(&desk, &["data={type: latent_cache, path: cache}", VAE]);
    without.assert_refused(&["alignment needs pictures", "data.pictures"]);
}

#[test]
fn a_cache_that_does_not_belong_to_the_run_is_refused() {
    let desk = desk();
    prepare(&desk, "cache").assert_done();
    let other = VAE.replace("seed: 0", "seed: 1");
    train(&desk, &[CACHED, &other]).assert_refused(&["made by an autoencoder with weights", "prepare a cache"]);
    desk.run(&prepare_args("cache", &[PICTURES, &other])).assert_refused(&["autoencoder_digest", "another folder"]);
    train(&desk, &[CACHED, VAE, "flip=0.5"]).assert_refused(&["flip", "set it to 0"]);
    train(&desk, &[CACHED, VAE, "image_size=64"]).assert_refused(&["`cache`", "[4, 8, 8]"]);

    // Statistics of other latents: those of the cache, one turned around.
    let stats = realign::weights::read_safetensors(&desk.path("cache/latents-stats.safetensors")).unwrap();
    let mut swapped = stats.clone();
    swapped.get_mut("latents_scale").unwrap().values.iter_mut().for_each(|scale| *scale = 1.0 / *scale * 100.0);
    realign::weights::write_safetensors(&desk.path("other-stats.safetensors"), &swapped).unwrap();
    let with_other = VAE.replace("cache/latents-stats", "other-stats");
    train(&desk, &[CACHED, &with_other]).assert_refused(&["statistics", "cache/latents-stats.safetensors"]);

    // Pictures in another order.
    fs::rename(desk.path("pictures/a/00.png"), desk.path("pictures/a/99.png")).unwrap();
    train(&desk, &[CACHED, VAE]).assert_refused(&["is not the one that latent"]);
}

#[test]
fn a_cache_with_a_missing_cut_or_damaged_shard_is_refused_and_mended_by_the_same_command() {
    let desk = desk();
    prepare(&desk, "cache").assert_done();
    let shard = desk.path("cache/latents-00002.safetensors");
    let whole = fs::read(&shard).unwrap();
    let remedy = ["latents-00002.safetensors", "delete", "again"];

    fs::remove_file(&shard).unwrap();
    train(&desk, &[CACHED, VAE]).assert_refused(&remedy);
    fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    train(&desk, &[CACHED, VAE]).assert_refused(&remedy);

    fs::write(&shard, &whole).unwrap();
    let shards: Vec<_> = (0..NUM_FILES).map(|at| format!("cache/latents-{at:05}.safetensors")).collect();
    for (name, count) in shards.iter().zip([3, 3, 3, 3, 3, 3, 3, 2]) {
        // The moments of its examples, 512 bytes each, lie before 16 bytes of digests each.
        let mut bytes = fs::read(desk.path(name)).unwrap();
        let end = bytes.len() - 16 * count;
        bytes[end - 512 * count..end].iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(desk.path(name), bytes).unwrap();
    }
    train(&desk, &[CACHED, VAE]).assert_refused(&["is not what was written", "delete"]);
    prepare(&desk, "cache").assert_refused(&["damaged", "delete"]);

    shards.iter().for_each(|name| fs::remove_file(desk.path(name)).unwrap());
    prepare(&desk, "cache").assert_done();
    assert_eq!(fs::read(&shard).unwrap(), whole);
    train(&desk, &[CACHED, VAE]).assert_done();
}

#[test]
fn prepared_pictures_have_the_latents_of_the_originals() {
    let desk = desk();
    desk.run(&["prepare", "images", "pictures", "--out", "crops.zip", "--image-size", "32"]).assert_done();
    prepare(&desk, "cache").assert_done();
    desk.run(&prepare_args("of-crops", &["data={type: image_folder, path: crops.zip}", VAE])).assert_done();
    assert_equal(&desk, "of-crops");
}

#[test]
fn an_autoencoder_without_latents_and_a_missing_file_are_named() {
    let desk = desk();
    let pixels = desk.run(&prepare_args("cache", &[PICTURES]));
    pixels.assert_refused(&["`identity`", "no latents"]);
    let published = desk.run(&prepare_args("cache", &[PICTURES, "autoencoder={type: sd_vae}"]));
    published.assert_refused(&["sdvae-ft-mse-f8d4.pt", "curl -fL --create-dirs"]);
    let unfinished = train(&desk, &[CACHED, VAE]);
    unfinished.assert_refused(&["realign prepare latents"]);
}

#[test]
fn a_tiny_network_steps_at_512_pixels() {
    let sets = [
        "data={type: shapes, num_examples: 4}",
        "autoencoder={type: sd_vae, size: tiny, weights: {type: random}, latent_norm: {type: fixed_scale}}",
        "conditioner.num_classes=16",
        "backbone.size=null",
        "backbone.hidden_size=16",
        "backbone.depth=2",
        "backbone.num_heads=2",
        "backbone.patch_size=2",
        "alignment.0.encoders=[{type: hog}]",
        "alignment.0.encoder_depth=1",
        "sample.sampler.num_steps=2",
    ];
    let mut args = vec!["check", RECIPE, "--profile", "imagenet512"];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    let answer = Desk::new().run(&args);
    answer.assert_done();
    assert!(answer.out.contains("samples [4, 64, 64], grid 32x32"), "{}", answer.out);
    assert!(answer.out.contains("loads, builds, steps and samples"), "{}", answer.out);
}
