//! Published weights on the command line, and the user's own settings.

use std::fs;

use crate::program::{Desk, project};

#[test]
fn published_weights_are_listed_with_their_place_and_state() {
    let desk = Desk::new();
    let line = |answer: &str| answer.lines().find(|line| line.starts_with("sit-xl-2-256 ")).unwrap().to_string();
    let answer = desk.run(&["weights", "list"]);
    answer.assert_done();
    let expected = ["MIT", "missing", "pretrained_models/SiT-XL-2-256x256.pt"];
    assert!(expected.iter().all(|word| line(&answer.out).contains(word)), "{}", answer.out);
    desk.write("w/SiT-XL-2-256x256.pt", "x");
    let answer = desk.run(&["weights", "list", "--weights-dir", "w"]);
    assert!(line(&answer.out).contains(" there "), "{}", answer.out);
    let answer = desk.run(&["weights", "list", "--json"]);
    let all: Vec<serde_json::Value> = serde_json::from_str(&answer.out).unwrap();
    assert!(all.iter().all(|entry| entry["command"].as_str().is_some_and(|command| !command.is_empty())));
}

#[test]
fn getting_prints_the_exact_command_and_fails_when_the_program_cannot_download() {
    let desk = Desk::new();
    let answer = desk.run(&["weights", "get", "sit-xl-2-256"]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(
        answer.out.contains("curl -fL --create-dirs -o pretrained_models/SiT-XL-2-256x256.pt 'https://"),
        "{}",
        answer.out
    );
    desk.run(&["weights", "get", "sit-xl-2-265"]).assert_refused(&["did you mean `sit-xl-2-256`"]);
}

#[test]
fn verifying_reads_the_file_and_says_what_is_in_it() {
    let desk = Desk::new();
    desk.run(&["weights", "verify", "sit-xl-2-256"]).assert_refused(&["is missing; get it with `curl"]);
    let fixture = fs::read(project().join("tests/fixtures/weights/views.pt")).unwrap();
    desk.write("pretrained_models/SiT-XL-2-256x256.pt", &fixture);
    let answer = desk.run(&["weights", "verify", "sit-xl-2-256"]);
    answer.assert_done();
    assert!(answer.out.contains("torch.save (zip)") && answer.out.contains("12 (1 BF16, 1 F16"), "{}", answer.out);
    desk.write("pretrained_models/SiT-XL-2-256x256.pt", &fixture[..fixture.len() / 2]);
    desk.run(&["weights", "verify", "sit-xl-2-256"]).assert_refused(&["no whole zip archive"]);
}

#[test]
fn the_users_settings_say_where_weights_and_runs_lie() {
    let desk = Desk::new();
    let (weights, runs) = (desk.path("my/weights"), desk.path("my/runs"));
    desk.write(
        "config/realign/settings.yaml",
        format!("weights_dir: {}\nruns: {}\n", weights.display(), runs.display()),
    );
    let answer = desk.run(&["explain", "recipes/sit.yaml"]);
    answer.assert_done();
    let line = answer.out.lines().find(|line| line.starts_with("weights_dir")).unwrap();
    assert!(line.contains("my/weights") && line.ends_with("settings.yaml:1"), "{line}");
    let answer = desk.run(&["explain", "recipes/sit.yaml", "--set", "weights_dir=here"]);
    assert!(
        answer.out.lines().any(|line| line.starts_with("weights_dir") && line.contains(" here ")),
        "{}",
        answer.out
    );
    let answer = desk.run(&["weights", "list"]);
    assert!(answer.out.contains("my/weights/SiT-XL-2-256x256.pt"), "{}", answer.out);
    desk.write("config/realign/settings.yaml", "weigths_dir: /w\n");
    desk.run(&["explain", "recipes/sit.yaml"])
        .assert_refused(&["settings.yaml:1: weigths_dir", "did you mean `weights_dir`"]);
}
