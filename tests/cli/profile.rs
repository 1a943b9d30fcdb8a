//! What a step costs, as `profile` and `explain --measure-memory` say it.

use realign::ops::backend_names;
use serde_json::Value;

use crate::program::Desk;

const SMALL: [&str; 8] = [
    "device=cpu",
    "image_size=16",
    "backbone.hidden_size=16",
    "backbone.depth=2",
    "backbone.num_heads=2",
    "alignment.0.encoder_depth=1",
    "train.global_batch_size=4",
    "train.micro_batch_size=2",
];

fn with_small<'a>(command: &[&'a str]) -> Vec<&'a str> {
    let sets = SMALL.into_iter().flat_map(|set| ["--set", set]);
    command.iter().copied().chain(sets).collect()
}

#[test]
fn a_profile_shows_every_phase_what_waited_and_the_memory() {
    let desk = Desk::new();
    let args = with_small(&["profile", "recipes/sit-irepa.yaml", "--steps", "2", "--json", "profile.json"]);
    let answer = desk.run(&args);
    if !backend_names().contains(&"libtorch") {
        return answer.assert_refused(&["device"]);
    }
    answer.assert_done();
    let waits = "2 of `read` a step"; // hog describes each micro-batch on the host
    for words in ["images/s", waits, "GB of tensors", "between operations", "aten::", "realign::", "backward", "update"]
    {
        assert!(answer.out.contains(words), "`{words}`: {}", answer.out);
    }
    let report: Value = serde_json::from_slice(&std::fs::read(desk.path("profile.json")).unwrap()).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap();
    let ops = report["ops"].as_array().unwrap();
    let ms = |phase: &str| -> f64 {
        ops.iter().filter(|op| op["phase"] == phase).map(|op| op["own_ms_per_step"].as_f64().unwrap()).sum()
    };
    let all = ms("forward") + ms("backward") + ms("update");
    assert!(ms("forward") > 0.0 && ms("backward") > 0.0 && ms("update") > 0.0);
    assert!(all <= number("recorded_step_ms"), "{all} ms of operations");
    assert_eq!(report["host_waits_per_step"], serde_json::json!({ "read": 2.0 }));
    assert_eq!((number("steps"), number("global_batch_size")), (2.0, 4.0));
    // The weights, their average, gradients of two passes and both moments, at the least.
    assert!(number("peak_memory_bytes") > 6.0 * 4.0 * 10_000.0);
    assert!(!desk.path("runs").exists(), "nothing is kept");
}

#[test]
fn measured_memory_stands_beside_the_estimate() {
    let answer = Desk::new().run(&with_small(&["explain", "recipes/sit-irepa.yaml", "--measure-memory"]));
    if !backend_names().contains(&"libtorch") {
        return answer.assert_refused(&["device"]);
    }
    answer.assert_done();
    assert!(
        answer.out.contains("(estimate, without encoders)") && answer.out.contains("measured in one step"),
        "{}",
        answer.out
    );
    assert!(answer.out.contains("GB of them kept between steps"), "{}", answer.out);
}

#[test]
fn a_size_that_is_left_to_the_run_is_told_with_its_reason() {
    if !backend_names().contains(&"libtorch") {
        return realign_tests::say_skipped("built without libtorch");
    }
    let auto = ["--set", "train.micro_batch_size=auto", "--set", "train.memory_limit=100"];
    for command in
        [&["explain", "recipes/sit-irepa.yaml", "--measure-memory"][..], &["profile", "recipes/sit-irepa.yaml"]]
    {
        let answer = Desk::new().run(&[&with_small(command)[..], &auto].concat());
        answer.assert_done();
        let words = "train.micro_batch_size: 4, because a step takes";
        assert!(answer.out.contains(words) && answer.out.contains("100.00 GB are allowed"), "{}", answer.out);
    }
}
