//! Blocks that are computed again in the backward pass change no number and save memory.

use std::path::Path;
use std::process::Command;

use realign::ops::Recorder;
use realign::plugin::{BackboneConfig, BackboneContext, ObjectiveConfig};
use realign::recipe::{Layered, Plan};
use realign::train::{StepStats, Trainer};

use super::fitting::step;
use super::{build_for, config, context, devices, of_kind, shaken};

fn plan(recipe: &str, sets: &[&str]) -> anyhow::Result<Plan> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes").join(recipe);
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Plan::new(&Layered::load(&path, Some("demo"), &sets)?)
}

/// Every objective on every backbone whose blocks can be computed again, with and without alignment.
#[test]
fn blocks_that_are_computed_again_have_the_same_gradients_bit_for_bit() {
    let Some(device) = devices().into_iter().find(realign::ops::on_libtorch) else {
        return realign_tests::say_skipped("built without libtorch");
    };
    let (device, mut num_pairs) = (device.autodiff(), 0);
    let conv = of_kind("projector").into_iter().find(|plugin| (plugin.name)() == "conv").unwrap();
    let pairs = of_kind("backbone").into_iter().flat_map(|b| of_kind("objective").into_iter().map(move |o| (b, o)));
    for (backbone, plugin) in pairs {
        let (objective, network): (Box<dyn ObjectiveConfig>, Box<dyn BackboneConfig>) =
            (config(plugin), config(backbone));
        let context = BackboneContext { has_interval: objective.has_interval(), ..context(backbone) };
        if !network.can_recompute() || (context.has_interval && !network.accepts_interval()) {
            continue;
        }
        num_pairs += 1;
        for is_aligned in [false, true] {
            let [kept, recomputed] = [false, true].map(|recomputes| {
                let context = BackboneContext { recomputes, ..context };
                let model = shaken(build_for(&context, backbone, conv, &device, 1));
                step(&model, backbone, &*objective.build(), &context, is_aligned, &device)
            });
            let differs = |(name, _): &(&String, _)| kept.1[*name] != recomputed.1[*name];
            let different: Vec<_> = kept.1.iter().filter(differs).map(|(name, _)| name).collect();
            assert!(
                kept.0 == recomputed.0 && different.is_empty(),
                "{} on {}, aligned {is_aligned}: {different:?}",
                (plugin.name)(),
                (backbone.name)()
            );
        }
    }
    assert!(num_pairs >= 8, "{num_pairs} pairs");
}

/// Losses and moments, which hold the gradients of every step, of whole recipes with convolution projector.
#[test]
fn three_steps_with_and_without_recomputation_are_the_same_bits() {
    if !devices().iter().any(realign::ops::on_libtorch) {
        return realign_tests::say_skipped("built without libtorch");
    }
    for recipe in ["sit-irepa.yaml", "jit-irepa.yaml", "mmdit-irepa.yaml", "meanflow-irepa.yaml"] {
        let [kept, recomputed] = ["false", "true"].map(|recomputes| {
            let set = format!("train.activation_checkpointing={recomputes}");
            let small = ["train.global_batch_size=6", "train.micro_batch_size=3", "loader.num_workers=0"];
            let plan = plan(recipe, &[&small[..], &[&set]].concat()).unwrap();
            let mut trainer = Trainer::new(&plan).unwrap();
            let step = |_| trainer.step(&plan).and_then(StepStats::read).unwrap();
            let scalars: Vec<_> = (0..3).map(step).collect();
            (plan.digest().unwrap(), scalars, trainer.optimizer.state_dict())
        });
        assert_eq!(kept.0, recomputed.0, "{recipe}: the digest");
        assert_eq!(kept.1, recomputed.1, "{recipe}: scalars");
        let different: Vec<_> = kept.2.0.iter().filter(|(name, list)| recomputed.2.0[*name] != **list).collect();
        assert!(different.is_empty(), "{recipe}: {:?}", different.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
}

#[test]
fn what_cannot_be_computed_again_is_refused_with_what_can() {
    let refusal = |recipe: &str, sets: &[&str]| {
        let sets = [&["train.activation_checkpointing=true"], sets].concat();
        let message = format!("{:#}", plan(recipe, &sets).unwrap_err());
        assert!(message.contains("train.activation_checkpointing"), "{message}");
        message
    };
    let message = refusal("sit.yaml", &["backbone.type=one_time"]);
    assert!(message.contains("`one_time` cannot") && message.contains("jit, mmdit, sit"), "{message}");
    let message = refusal("sit.yaml", &["device=flex"]);
    assert!(message.contains("needs libtorch") && message.contains("`flex`"), "{message}");
    let message = refusal("irepa-e.yaml", &[]);
    assert!(message.contains("no effect on the networks of a program"), "{message}");
}

/// Tells this test's own processes whether to recompute.
const RECOMPUTES: &str = "REALIGN_TEST_RECOMPUTES";
const PEAK: &str = "peak bytes: ";

/// One step of a deep and narrow network, whose memory is mostly activations, in a process of its own each, because all
/// tensors of a process count.
#[test]
fn recomputation_saves_three_quarters_of_the_memory_of_a_deep_network() {
    let Some(device) = devices().into_iter().find(realign::ops::on_libtorch) else {
        return realign_tests::say_skipped("built without libtorch");
    };
    if let Ok(recomputes) = std::env::var(RECOMPUTES) {
        let set = format!("train.activation_checkpointing={recomputes}");
        let deep = ["backbone.depth=24", "train.global_batch_size=64", "train.micro_batch_size=64", "train.ema=[]"];
        let plan = plan("sit.yaml", &[&deep[..], &["sample.weights=model", &set]].concat()).unwrap();
        let recorder = Recorder::open(&device).unwrap();
        Trainer::new(&plan).unwrap().step(&plan).and_then(StepStats::read).unwrap();
        return println!("{PEAK}{}", recorder.memory().unwrap()[1]);
    }
    let [kept, recomputed] = ["false", "true"].map(|recomputes| {
        let test = "recomputation::recomputation_saves_three_quarters_of_the_memory_of_a_deep_network";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args([test, "--exact", "--nocapture"]).env(RECOMPUTES, recomputes).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let peak = text.lines().find_map(|line| line.split_once(PEAK)).and_then(|(_, bytes)| bytes.parse::<u64>().ok());
        peak.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    });
    // Weights, their moments and gradients are in both.
    assert!(recomputed * 4 < kept, "{recomputed} bytes with recomputation, {kept} without");
}
