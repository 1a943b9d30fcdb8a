//! The precision policy on whole networks and runs.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use std::fs;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::DType;
use program::Desk;
use realign::data::loader::{Batch, Loader, LoaderConfig};
use realign::eval::tap_features;
use realign::log::Event;
use realign::ops::{Precision, backend_names};
use realign::recipe::{Layered, Plan};
use realign::streams::Streams;
use realign::train::{Gradients, RunOptions, Trainer, images};
use realign::weights::{StateDict, load_state_dict, state_dict, to_host};
use realign_plugins as _;

/// A network of four blocks and 64 tokens, on a batch of four.
const SMALL: [&str; 18] = [
    "device=cpu",
    "image_size=16",
    "backbone.hidden_size=48",
    "backbone.depth=4",
    "backbone.num_heads=3",
    "backbone.patch_size=2",
    "alignment.0.encoder_depth=2",
    "train.steps=3",
    "train.global_batch_size=4",
    "train.micro_batch_size=4",
    "train.schedule={shape: constant, warmup_steps: 0}",
    "log.every=1",
    "log.checkpoint_every=1",
    "log.preview_every=0",
    "log.classifier=false",
    "sample.num_preview=0",
    "loader.num_workers=0",
    "seed=3",
];
/// Added to every parameter: gates that start at zero would hide what lies behind them.
const SHAKE: f32 = 0.02;
/// Most that bf16 changes all gradients together: an operand loses 2⁻⁹ (2e-3) of its value at most, and the networks here were
/// measured to lose 1.5e-3 to 1.7e-3 of their gradients.
const MOST: f64 = 3.5e-3;

fn plan(desk: &Desk, recipe: &str, more: &[&str]) -> anyhow::Result<(Layered, Plan)> {
    let sets: Vec<String> = SMALL.iter().chain(more).map(ToString::to_string).collect();
    let layered = Layered::load(&desk.path(&format!("recipes/{recipe}.yaml")), None, &sets)?;
    let plan = Plan::new(&layered)?;
    Ok((layered, plan))
}

fn has_libtorch() -> bool {
    let has = backend_names().contains(&"libtorch");
    if !has {
        realign_tests::say_skipped("bf16 needs libtorch");
    }
    has
}

/// A run with shaken weights, and its first batch.
fn shaken(plan: &Plan) -> (Trainer, Batch) {
    let mut trainer = Trainer::new(plan).unwrap();
    let mut weights = state_dict(&trainer.model);
    for (name, tensor) in weights.iter_mut().filter(|(name, _)| *name != "pos_embed") {
        let draws = Streams::new(2).normal(name, tensor.values.len());
        tensor.values.iter_mut().zip(draws).for_each(|(value, draw)| *value += SHAKE * draw);
    }
    trainer.model = load_state_dict(trainer.model.clone(), weights).unwrap();
    let config = LoaderConfig {
        batch_size: 4,
        micro_batches_per_step: 1,
        num_workers: 0,
        prefetch: 1,
        seed: plan.recipe.seed,
        flip: 0.0,
        start_step: 0,
    };
    let batch = Loader::new(trainer.assembly.dataset.clone(), config).unwrap().next().unwrap();
    (trainer, batch)
}

/// Loss and gradients of the first step; without a policy where none is given.
fn differentiate(trainer: &Trainer, batch: &Batch, precision: Option<Precision>) -> (f32, StateDict) {
    let work = || {
        let loss = trainer.assembly.loss(&trainer.model, batch, &Streams::new(3).at(0, 0)).unwrap();
        assert_eq!(loss.total.dtype(), DType::F32);
        let value = to_host(loss.total.clone().detach())[0];
        let mut gradients = Gradients::default();
        gradients.add(&trainer.model, loss.total.backward());
        (value, gradients.by_name(&trainer.model))
    };
    match precision {
        Some(precision) => precision.scope(work),
        None => work(),
    }
}

/// `|found − expected| / |expected|` over all values together.
fn relative_error<'a>(pairs: impl Iterator<Item = (&'a [f32], &'a [f32])>) -> f64 {
    let (mut gap, mut size) = (0.0, 0.0);
    for (found, expected) in pairs {
        gap += found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
        size += expected.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    }
    (gap / size).sqrt()
}

#[test]
fn gradients_in_bf16_are_near_those_in_f32_for_every_method() {
    if !has_libtorch() {
        return;
    }
    let jit = ["backbone.context_start=1", "backbone.bottleneck_size=24"];
    let methods: [(&str, &[&str]); 4] =
        [("sit-irepa", &[]), ("jit-irepa", &jit), ("mmdit-irepa", &[]), ("meanflow-irepa", &[])];
    for (recipe, more) in methods {
        let desk = Desk::new();
        let (trainer, batch) = shaken(&plan(&desk, recipe, more).unwrap().1);
        let (loss, exact) = differentiate(&trainer, &batch, None);
        for (is_equal, policy) in [(true, Precision::F32), (false, Precision::Bf16)] {
            let (found_loss, found) = differentiate(&trainer, &batch, Some(policy));
            assert!(found.keys().eq(exact.keys()));
            let pairs = exact.iter().map(|(name, exact)| (&found[name].values[..], &exact.values[..]));
            let error = relative_error(pairs);
            writeln!(stdout(), "{recipe} in {}: {error:.2e}, loss {found_loss} for {loss}", policy.name()).unwrap();
            match is_equal {
                true => assert!(found == exact && found_loss == loss, "{recipe}"),
                false => assert!(error > 1e-4 && error < MOST, "{recipe}: {error}"),
            }
        }
    }
}

#[test]
fn a_run_in_bf16_says_so_and_goes_on_bit_equal() {
    if !has_libtorch() {
        return;
    }
    let desk = Desk::new();
    let train = |name: &str, sets: &[&str]| {
        let (layered, plan) = plan(&desk, "sit-irepa", sets).unwrap();
        let options = RunOptions { run_dir: desk.path(name), stop: &AtomicBool::new(false) };
        realign::train::run(&plan, &layered, options, &mut |_: &Event| {}).unwrap();
    };
    train("whole", &["precision=bf16"]);
    train("resumed", &["precision=bf16", "train.steps=2"]);
    train("resumed", &["precision=bf16"]);
    train("f32", &[]);
    let file = |run: &str, name: &str| fs::read(desk.path(run).join("checkpoints/step-0000003").join(name)).unwrap();
    for name in ["model.safetensors", "ema-ema.safetensors", "optimizer.safetensors"] {
        assert!(file("whole", name) == file("resumed", name), "{name}");
        assert!(file("whole", name) != file("f32", name), "{name} is that of f32");
    }
    assert_eq!([about(&desk.path("resumed")), about(&desk.path("f32"))], ["bf16", "f32"]);
}

fn about(run_dir: &Path) -> String {
    let text = fs::read_to_string(run_dir.join("run.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["precision"].as_str().unwrap().into()
}

/// What samplers and measurements call, outside of a step.
#[test]
fn a_network_is_evaluated_in_the_precision_that_it_is_trained_in() {
    if !has_libtorch() {
        return;
    }
    let desk = Desk::new();
    let tokens = |precision: &str| {
        let (_, plan) = plan(&desk, "sit-irepa", &[&format!("precision={precision}")]).unwrap();
        let (trainer, batch) = shaken(&plan);
        let (assembly, model) = (&trainer.assembly, trainer.weights("model").unwrap());
        let pictures = images(&batch, &assembly.device).unwrap();
        let found = tap_features(&plan, assembly, &model, pictures, &[3], 0.3, &Streams::new(0)).unwrap();
        to_host(found[0].clone())
    };
    let error = relative_error([(&tokens("bf16")[..], &tokens("f32")[..])].into_iter());
    assert!(error > 1e-4 && error < 1e-2, "{error}");
}

#[test]
fn the_precision_belongs_to_the_digest_and_f32_to_that_of_older_runs() {
    let desk = Desk::new();
    let digest = |sets: &[&str]| plan(&desk, "sit-irepa", sets).unwrap().1.digest().unwrap();
    assert_eq!(digest(&[]), digest(&["precision=f32"]));
    assert_ne!(digest(&[]), digest(&["precision=bf16"]));
}

#[test]
fn what_cannot_be_computed_is_refused_at_its_line() {
    let desk = Desk::new();
    let refused = |sets: &[&str]| {
        let sets = SMALL.iter().chain(sets).flat_map(|set| ["--set", set]);
        let answer = desk.run(&["run", "recipes/sit-irepa.yaml"].into_iter().chain(sets).collect::<Vec<_>>());
        assert_eq!(answer.code, 1, "{}", answer.out);
        answer.err
    };
    let unknown = refused(&["precision=bf61"]);
    assert!(
        unknown.contains("--set precision=bf61") && unknown.contains("did you mean `bf16`? known: f32, tf32, bf16")
    );
    let flex = refused(&["precision=bf16", "device=flex"]);
    assert!(flex.contains("precision: flex") && flex.contains("set precision to f32"), "{flex}");
    if has_libtorch() {
        let cpu = refused(&["precision=tf32"]);
        assert!(cpu.contains("libtorch cpu") && cpu.contains("`tf32`"), "{cpu}");
    }
}
