//! The micro-batch size that fits into memory, and that its passes add up to the whole batch.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use program::{Answer, Desk, project};
use realign::ops::{self, backend_names};
use realign::plugin::{Condition, Draws, ObjectiveInput};
use realign::recipe::{Layered, Plan};
use realign::streams::Streams;
use realign::train::{Gradients, Trainer};
use realign_plugins as _;

/// Large enough for memory to grow by a tenth of a gigabyte from 4 to 8 samples.
const SETS: [&str; 12] = [
    "device=cpu",
    "image_size=64",
    "backbone.hidden_size=192",
    "backbone.depth=4",
    "train.steps=1",
    "train.global_batch_size=8",
    "train.micro_batch_size=auto",
    "train.schedule.shape=linear",
    "log.classifier=false",
    "log.preview_every=0",
    "sample.num_preview=0",
    "seed=3",
];

fn run(desk: &Desk, name: &str, limit: &str) -> Answer {
    let limit = format!("train.memory_limit={limit}");
    let mut args = vec!["run", "recipes/sit.yaml", "--run-dir", name, "--set", &limit];
    SETS.iter().for_each(|set| args.extend(["--set", set]));
    desk.run(&args)
}

fn is_skipped() -> bool {
    let is_skipped = !backend_names().contains(&"libtorch");
    if is_skipped {
        realign_tests::say_skipped("built without libtorch");
    }
    is_skipped
}

#[test]
fn a_limit_between_two_sizes_chooses_the_smaller_which_a_resume_keeps() {
    if is_skipped() {
        return;
    }
    let desk = Desk::new();
    let answer = run(&desk, "all", "1000");
    answer.assert_done();
    assert!(answer.out.contains("train.micro_batch_size: 8, because"), "{}", answer.out);
    // "… because a step takes 0.45 GB with 4 and 0.62 GB with 8 samples …"
    let numbers = answer.out.split(" GB with ").map(|text| text.rsplit(' ').next().unwrap().parse::<f64>());
    let measured: Vec<f64> = numbers.take(2).map(Result::unwrap).collect();
    assert!(measured[1] > measured[0] + 0.05, "{measured:?}");
    let between = format!("{}", (measured[0] + measured[1]) / 2.0);
    let answer = run(&desk, "half", &between);
    answer.assert_done();
    assert!(answer.out.contains("train.micro_batch_size: 4, because"), "{}", answer.out);
    let again = run(&desk, "half", "1000");
    again.assert_done();
    assert!(again.out.contains("train.micro_batch_size: 4, as the run began"), "{}", again.out);
    run(&desk, "none", "0.05").assert_refused(&["train.memory_limit", "one sample alone", "0.05 GB are allowed"]);
}

#[test]
fn a_limit_without_auto_is_refused() {
    let desk = Desk::new();
    let answer = desk.run(&["check", "recipes/sit.yaml", "--set", "train.memory_limit=3"]);
    answer.assert_refused(&["train.memory_limit", "has no effect", "`auto`"]);
}

#[test]
fn two_passes_of_half_a_batch_have_the_gradient_of_the_whole() {
    let sets = ["image_size=16", "backbone.hidden_size=16", "backbone.depth=2", "backbone.num_heads=2", "seed=3"];
    let sets: Vec<String> = sets.into_iter().chain(["train.learning_rate=0.1"]).map(String::from).collect();
    let plan = Plan::new(&Layered::load(&project().join("recipes/sit.yaml"), None, &sets).unwrap()).unwrap();
    let mut trainer = Trainer::new(&plan).unwrap();
    trainer.step(&plan).unwrap(); // a fresh network predicts zero and has gradients in its last layer alone
    let (assembly, model) = (&trainer.assembly, &trainer.model);
    let device = assembly.device.clone().autodiff();
    let shape = [6, plan.latent[0], plan.latent[1], plan.latent[2]];
    let x0 = ops::upload(&Streams::new(1).normal("x0", shape.iter().product()), shape, &device);
    let draws = assembly.objective.draw(shape, &Streams::new(2), &device);
    let [condition, null] = [[0, 3, 5, 2, 7, 1], [plan.num_classes as i64; 6]].map(|l| Condition::labels(&l, &device));
    let loss = |range: std::ops::Range<usize>| {
        let part = Draws {
            noise: draws.noise.clone().slice_dim(0, range.clone()),
            t: draws.t.clone().slice_dim(0, range.clone()),
            r: None,
            drop: draws.drop.clone().map(|drop| drop.slice_dim(0, range.clone())),
        };
        let input = ObjectiveInput {
            x0: x0.clone().slice_dim(0, range.clone()),
            condition: condition.clone().slice(range.clone()),
            null: null.clone().slice(range),
            draws: part,
            taps: &[],
        };
        assembly.objective.loss(&*model.backbone, input).unwrap().loss
    };
    let whole = Gradients::of_loss(model, loss(0..6)).by_name(model);
    let mut halves = Gradients::default();
    halves.add_loss(model, loss(0..3) / 2.0);
    halves.add_loss(model, loss(3..6) / 2.0);
    for (name, half) in halves.by_name(model) {
        let scale = whole[&name].values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (a, b) in half.values.iter().zip(&whole[&name].values) {
            assert!((a - b).abs() <= 1e-5 * scale + 1e-9, "{name}: {a} and {b} of {scale}");
        }
    }
}
