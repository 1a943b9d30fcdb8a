//! Vision transformers as a user names them.

use std::fs;

use crate::pictures::picture_zip;
use crate::program::{Answer, Desk, project};

const SMALL: &str = "alignment.0.encoder={type: vit, preset: dinov2-vit-b, weights: random, hidden_size: 24, \
                     num_heads: 2, mlp_size: 40, depth: 2}";

fn with_small_pictures(command: &str, sets: &[&str]) -> Answer {
    let desk = Desk::new();
    desk.write("pictures.zip", picture_zip());
    let mut args = vec![command, "recipes/sit-irepa.yaml", "--profile", "tiny-imagenet"];
    let small = ["data.path=pictures.zip", "sample.sampler.num_steps=1", "device=auto"];
    let network =
        ["backbone.hidden_size=16", "backbone.num_heads=2", "train.global_batch_size=2", "train.micro_batch_size=2"];
    for set in small.iter().chain(&network).chain(sets) {
        args.extend(["--set", set]);
    }
    desk.run(&args)
}

#[test]
fn one_encoder_is_named_on_the_command_line_and_steps() {
    let answer = with_small_pictures("check", &[SMALL]);
    answer.assert_done();
    assert!(answer.out.contains("loads, builds, steps and samples"), "{}", answer.out);
}

#[test]
fn explain_says_what_an_encoder_does_with_small_pictures_and_that_its_weights_are_random() {
    let answer = with_small_pictures("explain", &[SMALL]);
    answer.assert_done();
    for words in [
        "alignment.0.encoders.0.preset",
        "--set alignment.0.encoder={type: vit",
        "alignment.0.encoders.0: `vit`, grid 8x8, 24 channels",
        "pictures of 64x64 become 112x112 pixels, patches times the backbone's grid",
        "RANDOM WEIGHTS, drawn with seed 0",
    ] {
        assert!(answer.out.contains(words), "no `{words}` in {}", answer.out);
    }
}

#[test]
fn an_absent_weight_file_is_named_with_the_command_that_gets_it() {
    let answer = with_small_pictures("check", &["alignment.0.encoder={type: vit, preset: dinov2-vit-l}"]);
    let command = "curl -fL --create-dirs -o pretrained_models/dinov2_vitl14_pretrain.pth 'https://";
    assert!(answer.out.contains(command), "{}{}", answer.out, answer.err);
    let answer = with_small_pictures("check", &["alignment.0.encoder={type: vit, preset: dinov2-vit-k}"]);
    answer.assert_refused(&["alignment.0.encoders.0.preset: unknown preset `dinov2-vit-k`"]);
}

#[test]
fn the_tables_of_the_page_on_encoders_are_those_that_the_program_prints() {
    let page = fs::read_to_string(project().join("docs/encoders.md")).unwrap();
    let printed = Desk::new().run(&["plugins", "show", "vit"]);
    let rows = |text: &str| text.lines().filter(|line| line.starts_with('|')).map(str::to_string).collect::<Vec<_>>();
    assert!(rows(&printed.out).len() > 60, "{}", printed.out);
    assert_eq!(rows(&page), rows(&printed.out));
}
