//! Training steps give the device its work and do not wait for it: the host reads numbers at log steps alone.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use program::project;
use realign::burn::tensor::Device;
use realign::ops::{Recorder, backend_names};
use realign::recipe::{Job, Layered};
use realign::train::{ProgramRun, StepStats, Trainable, Trainer};
use realign_plugins as _;

const SMALL: [&str; 8] = [
    "device=cpu",
    "image_size=16",
    "flip=0.5",
    "train.global_batch_size=8",
    "log.classifier=false",
    "log.preview_every=0",
    "loader.num_workers=0",
    "seed=3",
];
const NETWORK: [&str; 4] =
    ["train.micro_batch_size=4", "backbone.hidden_size=16", "backbone.depth=2", "backbone.num_heads=2"];
const VIT: &str = "alignment.0.encoders=[{type: vit, preset: null, weights: random, hidden_size: 16, depth: 2, \
                   num_heads: 2, patch_size: 4, mlp_size: 24, position_grid: 3}]";
const ALIGNED: [&str; 2] = ["alignment.0.encoder_depth=1", VIT];
/// What a program needs: it takes the whole batch at once.
const ADVERSARY: [&str; 3] =
    ["train.micro_batch_size=8", "program.loss.discriminator.start=0", "program.loss.discriminator.width=3"];

/// A run of a small recipe, one step at a time.
struct Steps {
    step: Box<dyn FnMut() -> StepStats>,
    device: Device,
}

fn steps(recipe: &str, sets: &[&str]) -> Steps {
    let sets: Vec<String> = SMALL.iter().chain(sets).map(|set| set.to_string()).collect();
    let layered = Layered::load(&project().join("recipes").join(recipe), None, &sets).unwrap();
    let program = |mut run: ProgramRun| {
        let device = run.device.clone();
        Steps { step: Box::new(move || run.advance().unwrap()), device }
    };
    match Job::new(&layered).unwrap() {
        Job::Program(plan) => program(ProgramRun::new(&plan).unwrap()),
        Job::Diffusion(plan) => match &plan.recipe.program {
            Some(config) => program(ProgramRun::with_diffusion(&plan, &**config).unwrap()),
            None => {
                let mut trainer = Trainer::new(&plan).unwrap();
                let device = trainer.assembly.device.clone();
                Steps { step: Box::new(move || trainer.step(&plan).unwrap()), device }
            }
        },
    }
}

/// Three steps as the loop does them, of which the last one's numbers are read.
fn assert_waits_once(recipe: &str, sets: &[&[&str]]) {
    if !backend_names().contains(&"libtorch") {
        realign_tests::say_skipped("built without libtorch");
        return;
    }
    let Steps { mut step, device } = steps(recipe, &sets.concat());
    step(); // makes the values of parameters
    let recorder = Recorder::open(&device).unwrap();
    step();
    let last = step();
    assert_eq!(recorder.close().unwrap().waits, [], "{recipe}");
    let recorder = Recorder::open(&device).unwrap();
    assert!(last.read().unwrap().len() > 2);
    assert_eq!(recorder.close().unwrap().waits, [("read".to_string(), 1)], "{recipe}: numbers come in one read");
}

#[test]
fn sit_does_not_wait() {
    assert_waits_once("sit.yaml", &[&NETWORK]);
}

#[test]
fn irepa_with_a_vision_transformer_does_not_wait() {
    assert_waits_once("sit-irepa.yaml", &[&NETWORK, &ALIGNED]);
}

#[test]
fn jit_does_not_wait() {
    assert_waits_once("jit.yaml", &[&NETWORK]);
}

#[test]
fn mean_flow_does_not_wait() {
    assert_waits_once("meanflow.yaml", &[&NETWORK]);
}

#[test]
fn mmdit_does_not_wait() {
    assert_waits_once("mmdit.yaml", &[&NETWORK]);
}

#[test]
fn repa_e_does_not_wait() {
    assert_waits_once("irepa-e.yaml", &[&NETWORK, &ALIGNED, &ADVERSARY]);
}

#[test]
fn training_an_autoencoder_does_not_wait() {
    assert_waits_once("vae.yaml", &[&ADVERSARY]);
}

#[test]
fn an_encoder_that_works_on_the_host_waits_once_for_each_batch_of_pictures() {
    if !backend_names().contains(&"libtorch") {
        realign_tests::say_skipped("built without libtorch");
        return;
    }
    let sets = [&NETWORK[..], &["alignment.0.encoder_depth=1", "alignment.0.encoders=[{type: hog}]"]].concat();
    let Steps { mut step, device } = steps("sit-irepa.yaml", &sets);
    step();
    let recorder = Recorder::open(&device).unwrap();
    step();
    assert_eq!(recorder.close().unwrap().waits, [("read".to_string(), 2)], "two micro-batches");
}
