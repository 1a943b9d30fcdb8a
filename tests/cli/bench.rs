//! Comparisons with PyTorch, at the smallest sizes: that both programs run and have the same network.

use std::process::{Command, Stdio};

use crate::program::{Answer, Desk, project};

/// A Python that has PyTorch and torchvision, named by `REALIGN_PYTHON` or found.
fn python() -> Option<String> {
    let name = std::env::var("REALIGN_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(&name);
    let imports = command.args(["-c", "import torch, torchvision"]).stderr(Stdio::null()).status();
    imports.is_ok_and(|status| status.success()).then_some(name)
}

#[test]
fn both_programs_train_and_sample_the_same_networks() {
    let Some(python) = python() else {
        return realign_tests::say_skipped("needs a Python with torch and torchvision; REALIGN_PYTHON names one");
    };
    let desk = Desk::new();
    let one = ["--sizes", "S", "--batch", "2", "--rounds", "1", "--steps", "1", "--no-compile", "--json"];
    for (words, more) in [
        ("step --count-flops", &["operations:"][..]),
        ("step --count-flops --projector mlp", &["\"projector\":\"mlp\""]),
        ("step --count-flops --backbone jit", &["\"backbone\":\"jit\""]),
        ("step --objective mean_flow", &["\"objective\":\"mean_flow\""]),
        ("step --activation-checkpointing", &["\"activation_checkpointing\":true"]),
        ("sample --num-steps 3", &["\"num_steps\":3"]),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let args = [&["bench"], &words[..], &one, &["--python", &python]].concat();
        let answer = desk.run(&args);
        answer.assert_done();
        for expected in more.iter().chain(&["\"realign\":{", "\"PyTorch eager\":{", "\"images_per_s\":"]) {
            assert!(answer.out.contains(expected), "{words:?}: {}", answer.out);
        }
    }
    let args = ["bench", "data", "--batch", "2", "--pictures", "4", "--rounds", "1", "--steps", "1"];
    let answer = desk.run(&[&args[..], &["--python", &python]].concat());
    answer.assert_done();
    assert!(answer.out.contains("decode, crop, flip, batch") && answer.out.contains("resize to 224"), "{}", answer.out);
}

#[test]
fn a_device_that_pytorch_does_not_have_is_refused() {
    let desk = Desk::new();
    desk.run(&["bench", "step", "--device", "flex"]).assert_refused(&["--device", "`flex`", "cpu, cuda"]);
    desk.run(&["bench", "sample", "--num-steps", "1"]).assert_refused(&["--num-steps", "`1`"]);
}

#[test]
fn what_pytorch_does_not_finish_is_said_and_the_rest_is_timed() {
    let desk = Desk::new();
    let torch = project().join("tests/cli/ending_torch.sh");
    let torch = |num_params: &str| {
        let words = "bench step --sizes S --batch 2 --rounds 1 --steps 1 --no-compile --python";
        let words: Vec<&str> = words.split(' ').chain(torch.to_str()).collect();
        Answer::from(desk.command(&words).env("NUM_PARAMS", num_params).output().unwrap())
    };
    let refused = torch("1");
    refused.assert_refused(&["the networks differ", "1 in PyTorch"]);
    let (_, rest) = refused.err.split_once("the networks differ: ").unwrap();
    let answer = torch(rest.split(' ').next().unwrap());
    answer.assert_done();
    let expected = ["realign ", "PyTorch eager did not finish: PyTorch ended; it said `Error: no memory`"];
    assert!(expected.iter().all(|text| answer.out.contains(text)), "{}", answer.out);
    assert!(!answer.out.contains("memory:"), "{}", answer.out);
}
