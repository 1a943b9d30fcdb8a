//! Seeded mistakes in recipes and on the command line: place, found, allowed, nearest.

use crate::program::Desk;

const RECIPE: &str = "recipes/sit-irepa.yaml";

/// A value given with `--set`, and what the answer must say: the place, what was found, what is allowed.
const VALUES: [(&str, &[&str]); 31] = [
    ("train.stepz=3", &["--set train.stepz=3", "unknown key `stepz`", "did you mean `steps`?"]),
    ("optimiser.eps=1", &["unknown key `optimiser`", "known: seed"]),
    ("alignment.0.projector.type=cnov", &["0.projector.type", "unknown projector `cnov`", "did you mean `conv`?"]),
    ("objective.type=flow_macthing", &["unknown objective", "did you mean `flow_matching`?"]),
    ("alignment.0.encoders.0.type=hgo", &["encoders.0.type", "unknown encoder `hgo`", "did you mean `hog`?"]),
    ("train.steps=many", &["train.steps", "expected a whole number", "the text `many`"]),
    ("train.steps=-5", &["train.steps", "`-5`", "a whole number of 0 or more"]),
    ("train.steps=0", &["train.steps", "`0` is out of range", "allowed is 1"]),
    ("train.steps=18446744073709551616", &["train.steps"]),
    ("train.learning_rate=.nan", &["train.learning_rate", "not a finite number"]),
    ("train.betas=[0.9]", &["train.betas", "a list of 2 items, found 1"]),
    ("train.betas=[0.9, 1.0]", &["train.betas.1", "`1` is out of range"]),
    ("train.micro_batch_size=48", &["train.micro_batch_size", "`48` does not divide global_batch_size `32`"]),
    ("train.schedule.shape=linaer", &["train.schedule.shape", "`linaer`", "did you mean `linear`?"]),
    ("alignment.0.projector.kernel_size=4", &["alignment.0.projector.kernel_size", "`4`", "odd"]),
    ("alignment.0.encoders.0.grid=7", &["alignment.0.encoders.0", "7x7", "8x8", "must be equal"]),
    ("alignment.0.encoder_depth=9", &["alignment.0.encoder_depth", "`9` is out of range", "1 to 6"]),
    ("alignment.0.encoders=[]", &["alignment.0.encoders", "the list is empty"]),
    ("alignment.3.proj_coeff=1", &["alignment", "3"]),
    ("backbone.num_heads=3", &["backbone", "`3` does not divide hidden_size `128`"]),
    ("backbone.patch_size=5", &["backbone", "patch_size", "`5`"]),
    ("backbone.size=M/2", &["backbone", "`M/2`", "known: S/2"]),
    ("objective.label_dropout=2", &["objective.label_dropout", "`2` is out of range", "0 to 1"]),
    ("sample.weights=emma", &["sample.weights", "`emma`", "did you mean `ema`?"]),
    ("sample.sampler.type=jit_ode", &["sample.sampler.type", "`jit_ode` cannot use", "`flow_matching`", "ode, sde"]),
    ("loader=[3]", &["loader", "expected a section", "found a list"]),
    ("sample.guidance_low=1.5", &["sample.guidance_low", "`1.5`"]),
    ("data.num_examples=1000000000000", &["data.num_examples", "out of range", "1 to 1073741824"]),
    ("conditioner.num_classes=3", &["conditioner.num_classes", "`3` is less than the 16 classes"]),
    ("log.keep_every=7", &["log.keep_every", "`7` is no multiple of checkpoint_every (`350`)"]),
    ("backbone.num_heads=4611686018427387905", &["backbone", "`4611686018427387905` does not divide"]),
];

#[test]
fn a_wrong_value_is_answered_with_place_found_and_allowed() {
    let desk = Desk::new();
    let answers = VALUES.map(|(set, words)| (set, words, desk.run(&["check", RECIPE, "--set", set])));
    let report: Vec<String> = answers
        .iter()
        .filter(|(_, words, answer)| !answer.faults(words).is_empty())
        .map(|(set, words, answer)| format!("{set}: {:?}\n{}{}", answer.faults(words), answer.out, answer.err))
        .collect();
    assert!(report.is_empty(), "{}", report.join("\n"));
}

#[test]
fn activation_checkpointing_is_refused_where_it_has_no_effect() {
    let desk = Desk::new();
    for (recipe, words) in [
        ("recipes/vae.yaml", ["train.activation_checkpointing", "has no effect on the networks of a program"]),
        ("recipes/classification.yaml", ["train.activation_checkpointing", "set it to false"]),
    ] {
        desk.run(&["check", recipe, "--set", "train.activation_checkpointing=true"]).assert_refused(&words);
    }
}

/// The same for text-to-image.
const TEXT_VALUES: [(&str, &[&str]); 10] = [
    ("data.type=image_folder", &["data.type", "`image_folder` has no captions", "`trained_text` needs them"]),
    ("data.held_out=[red rign]", &["data.held_out.0", "`red rign`", "did you mean `red ring`?"]),
    ("data.pairs=1.5", &["data.pairs", "`1.5` is out of range"]),
    ("conditioner.type=class_labels", &["backbone", "`mmdit` takes text", "class labels"]),
    ("conditioner.num_heads=5", &["conditioner.num_heads", "`5` does not divide channels `64`"]),
    ("conditioner.vocabulary=[a, b, a]", &["conditioner.vocabulary.2", "`a` is given twice"]),
    ("conditioner.vocabulary=[a, small, large]", &["unknown word", "known: a, small, large"]),
    ("conditioner.max_tokens=3", &["4 tokens; conditioner.max_tokens is `3`"]),
    ("backbone.position_side=4", &["backbone", "grid of 8x8", "position_side (`4`)"]),
    ("backbone.qk_norm=rmss", &["backbone.qk_norm", "`rmss`", "did you mean `rms`?"]),
];

#[test]
fn a_wrong_value_for_text_is_answered_with_place_found_and_allowed() {
    let desk = Desk::new();
    for (set, words) in TEXT_VALUES {
        desk.run(&["check", "recipes/mmdit.yaml", "--set", set]).assert_refused(words);
    }
}

#[test]
fn captions_that_are_wrong_are_not_taken_for_absent_ones() {
    let desk = Desk::new();
    desk.write("captions.json", "{\"0.png\": 3}");
    desk.write("pictures/0.png", "");
    let data = "data={type: captioned_folder, path: pictures, captions: captions.json}";
    desk.run(&["check", "recipes/mmdit.yaml", "--set", data]).assert_refused(&["captions.json", "found `3`"]);
    let data = "data={type: captioned_folder, path: pictures, captions: absent.json}";
    let answer = desk.run(&["check", "recipes/mmdit.yaml", "--set", data]);
    answer.assert_done();
    assert!(answer.out.contains("not stepped") && answer.out.contains("absent.json"), "{}", answer.out);
}

#[test]
fn a_folder_that_is_no_text_encoder_is_named() {
    let desk = Desk::new();
    let check = |desk: &Desk| {
        let sets =
            ["conditioner.type=clip_text", "conditioner.path=clip", "conditioner.tokens=8", "conditioner.channels=12"];
        let mut args = vec!["check", "recipes/mmdit.yaml"];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        desk.run(&args)
    };
    let answer = check(&desk);
    answer.assert_done();
    assert!(answer.out.contains("`clip/config.json` is missing"), "{}", answer.out);
    for (name, text) in [("config.json", "{"), ("model.safetensors", "no tensors"), ("tokenizer.json", "{}")] {
        desk.write(&format!("clip/{name}"), text);
    }
    check(&desk).assert_refused(&["conditioner", "`clip/config.json`"]);
    let sizes = |channels: usize| {
        format!(
            "{{\"hidden_size\": {channels}, \"num_attention_heads\": 2, \"vocab_size\": 3, \"intermediate_size\": 5,              \"num_hidden_layers\": 1}}"
        )
    };
    desk.write("clip/config.json", sizes(16));
    check(&desk).assert_refused(&["conditioner.channels is `12`", "`16`"]);
    desk.write("clip/config.json", sizes(12));
    check(&desk).assert_refused(&["tokenizer in `clip`"]);
    let tokenizer = |vocab: &str| {
        format!(
            "{{\"version\": \"1.0\", \"added_tokens\": [], \"model\": {{\"type\": \"BPE\", \"vocab\": {{{vocab}}}, \"merges\": []}}}}"
        )
    };
    desk.write("clip/tokenizer.json", tokenizer("\"a\": 0"));
    check(&desk).assert_refused(&["no token `<|startoftext|>`"]);
    desk.write("clip/tokenizer.json", tokenizer("\"<|startoftext|>\": 0, \"<|endoftext|>\": 1"));
    check(&desk).assert_refused(&["knows 2 tokens and the encoder 3"]);
    desk.write("clip/tokenizer.json", tokenizer("\"a\": 2, \"<|startoftext|>\": 0, \"<|endoftext|>\": 1"));
    check(&desk).assert_refused(&["clip/model.safetensors"]);
}

#[test]
fn a_device_that_is_not_there_or_not_known_is_an_error() {
    let desk = Desk::new();
    let place = "--set device=cuda:99: device: `cuda:99`";
    for command in ["check", "run"] {
        let answer = desk.run(&[command, RECIPE, "--set", "device=cuda:99"]);
        answer.assert_refused(&[place]);
    }
    desk.write("recipes/gpu.yaml", "base: sit-irepa.yaml\ndevice: cuda:99\n");
    desk.run(&["check", "recipes/gpu.yaml"]).assert_refused(&["recipes/gpu.yaml:2: device: `cuda:99`"]);
    desk.run(&["check", RECIPE, "--set", "device=gpu"]).assert_refused(&[
        "device",
        "`gpu`",
        "allowed: auto, cpu, cuda",
    ]);
}

#[test]
fn an_unknown_profile_or_a_set_without_a_value_names_what_is_known() {
    let desk = Desk::new();
    let profile = desk.run(&["check", RECIPE, "--profile", "imagenet265"]);
    profile.assert_refused(&["--profile imagenet265", "unknown profile", "did you mean `imagenet256`?"]);
    desk.run(&["check", RECIPE, "--set", "train.steps"]).assert_refused(&["--set train.steps"]);
}

#[test]
fn recipe_files_that_are_absent_or_no_recipes_are_named() {
    let desk = Desk::new();
    desk.write("recipes/bytes.yaml", b"seed: \xff\n");
    desk.write("recipes/empty.yaml", "");
    desk.write("recipes/huge.yaml", vec![b'#'; 2 << 20]);
    for (recipe, words) in [
        ("recipes/sit-irepo.yaml", &["recipes/sit-irepo.yaml", "does not exist", "did you mean `sit-irepa.yaml`?"][..]),
        ("recipes", &["`recipes` is a folder"]),
        ("recipes/bytes.yaml", &["recipes/bytes.yaml:1", "not UTF-8"]),
        ("recipes/empty.yaml", &["recipes/empty.yaml", "the file is empty"]),
        ("recipes/huge.yaml", &["larger than 1 MiB"]),
    ] {
        desk.run(&["check", recipe]).assert_refused(words);
    }
}

#[test]
fn mistakes_of_yaml_are_found_with_their_line() {
    let desk = Desk::new();
    for (text, words) in [
        ("base: sit-irepa.yaml\nseed: 1\nseed: 2\n", &["recipes/a.yaml:3", "seed", "given twice"][..]),
        ("base: sit-irepa.yaml\ntrain:\n\tsteps: 3\n", &["recipes/a.yaml:3", "has a tab"]),
        ("base: sit-irepa.yaml\nsample: {cfg_scale: .inf}\n", &["recipes/a.yaml:2", "not a finite number"]),
        ("base: sit-irepa.yaml\nloader: 3\n", &["recipes/a.yaml:2", "loader", "expected a section"]),
        ("base: sit-irepa.yaml\nloader: [3]\n", &["recipes/a.yaml:2", "loader", "expected a section", "found a list"]),
        ("base: a.yaml\n", &["recipes/a.yaml:1", "circle"]),
        ("base: bsae/sit.yaml\n", &["recipes/a.yaml:1", "does not exist"]),
        ("base: sit-irepa.yaml\nseed: !x 1\n", &["recipes/a.yaml:2", "YAML tag"]),
        ("base: sit-irepa.yaml\nbackbone: {type: sti}\n", &["recipes/a.yaml:2", "unknown backbone `sti`"]),
    ] {
        desk.write("recipes/a.yaml", text);
        desk.run(&["check", "recipes/a.yaml"]).assert_refused(words);
    }
}

#[test]
fn unknown_plugins_kinds_and_runs_are_named_with_the_nearest() {
    let desk = Desk::new();
    desk.run(&["plugins", "show", "spatail"]).assert_refused(&["`spatail`", "did you mean `spatial`?"]);
    desk.run(&["plugins", "list", "--kind", "projektor"]).assert_refused(&["did you mean `projector`?"]);
    desk.run(&["sample", "recipes"]).assert_refused(&["`recipes` is not a run folder"]);
    desk.run(&["sample", "nowhere"]).assert_refused(&["`nowhere`"]);
}

#[test]
fn a_wrong_command_line_ends_with_2_and_a_hint() {
    let answer = Desk::new().run(&["chekc", RECIPE]);
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("chekc") && answer.err.contains("check"), "{}", answer.err);
}
