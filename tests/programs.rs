//! Training programs: where gradients stop, what a checkpoint holds, and who can use it.

#[path = "cli/program.rs"]
#[allow(dead_code)] // shared with the tests of the command line, which use all of it
mod program;

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use program::{Desk, project};
use realign::burn;
use realign::checkpoint::{TrainedAutoencoder, TrainedEncoder, TrainedRun};
use realign::erase::Slot;
use realign::ops::{DeviceChoice, open};
use realign::plugin::{AutoencoderKind, Draws};
use realign::recipe::{Decayed, Job, Layered, Plan, Settings};
use realign::reconstruction::{DiscriminatorSection, LossSection, Reconstruction, ReconstructionLoss};
use realign::streams::Streams;
use realign::train::{Assembly, Gradients, OptimizerSettings, ProgramRun, build_model, example_images};
use realign::weights::{StateDict, load_state_dict, read_safetensors, state_dict};
use realign_plugins::programs::repa_e::{LatentModel, Networks, TrainingBatch};

const SMALL: [&str; 15] = [
    "image_size=16",
    "backbone.hidden_size=16",
    "backbone.depth=2",
    "backbone.num_heads=2",
    "alignment.0.encoder_depth=1",
    "program.loss.discriminator.start=0",
    "program.loss.discriminator.width=3",
    "train.steps=3",
    "train.global_batch_size=4",
    "train.micro_batch_size=4",
    "log.classifier=false",
    "log.preview_every=0",
    "sample.num_preview=4",
    "sample.sampler.num_steps=2",
    "flip=0.5",
];

fn of_an_autoencoder() -> Vec<&'static str> {
    let is_of_diffusion = |set: &&str| ["backbone.", "alignment.", "sample."].iter().any(|name| set.starts_with(name));
    SMALL.into_iter().filter(|set| !is_of_diffusion(set)).chain(["program.num_statistics=20"]).collect()
}

fn run(desk: &Desk, recipe: &str, name: &str, sets: &[&str]) {
    let mut args = vec!["run", recipe, "--run-dir", name];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    desk.run(&args).assert_done();
}

/// Networks of `irepa-e`, small, with every parameter moved away from its initial zero.
struct Bench {
    networks: Networks,
    assembly: Assembly,
    device: Device,
}

impl Bench {
    fn new() -> Self {
        let recipe = project().join("recipes/irepa-e.yaml");
        let sets: Vec<String> = SMALL.into_iter().chain(["device=flex"]).map(String::from).collect();
        let plan = Plan::new(&Layered::load(&recipe, None, &sets).unwrap()).unwrap();
        let device = open(DeviceChoice::Flex).unwrap().autodiff();
        let vae: Slot<AutoencoderKind> = Slot::new(plan.recipe.autoencoder.build(Path::new("."), &device).unwrap());
        let norm = vae.variational().unwrap().norm().clone();
        let model = LatentModel::new(build_model(&plan, &device).unwrap(), &norm, 0.1, &device);
        let (betas, decayed) = ([0.9, 0.999], Decayed::All);
        let optimizer = OptimizerSettings { betas, eps: 1e-8, weight_decay: 0.0, decayed, max_grad_norm: None };
        let critic = DiscriminatorSection { width: 3, num_layers: 2, ..Default::default() };
        let loss = LossSection { lpips: None, discriminator: Some(critic), ..Default::default() };
        let loss = ReconstructionLoss::new(&loss, Path::new("."), optimizer, 0, &device).unwrap();
        let networks = Networks { model: shaken(model), vae, loss, vae_align_proj_coeff: 1.5 };
        Self { networks, assembly: Assembly::new(&plan).unwrap(), device }
    }

    fn pictures(&self) -> Reconstruction {
        let images = example_images(&*self.assembly.dataset, &[0, 1, 2], &self.assembly.device).unwrap();
        let noise = |count| Streams::new(1).normal("posterior", count);
        Reconstruction::new(&*self.networks.vae, Tensor::from_inner(images), noise).unwrap()
    }

    fn batch(&self, pictures: &Reconstruction) -> TrainingBatch {
        let images = (pictures.pictures.clone().inner() + 1.0) * 127.5;
        let model = self.networks.model.train_model();
        let conditioner = self.assembly.conditioner(&model);
        TrainingBatch {
            condition: conditioner.condition(&[0, 1, 2], &[None, None, None], &self.device).unwrap(),
            null: conditioner.null(3, &self.device),
            draws: self.assembly.objective.draw(pictures.latents.dims(), &Streams::new(2), &self.device),
            targets: self
                .assembly
                .alignment
                .targets(0, |_, encoder| Ok(encoder.encode(images.clone())?.tokens))
                .unwrap(),
        }
    }

    /// Gradients of the autoencoder's loss by network: autoencoder, model, discriminator.
    fn vae_gradients(&mut self, vae_align_proj_coeff: f64) -> [StateDict; 3] {
        self.networks.vae_align_proj_coeff = vae_align_proj_coeff;
        let pictures = self.pictures();
        let batch = self.batch(&pictures);
        let (objective, alignment) = (&*self.assembly.objective, &self.assembly.alignment);
        let loss = self.networks.vae_loss(objective, alignment, &pictures, &batch, 0).unwrap();
        self.gradients(loss.total)
    }

    fn gradients(&self, loss: Tensor<1>) -> [StateDict; 3] {
        let mut graph = loss.backward();
        let mut sums = [Gradients::default(), Gradients::default(), Gradients::default()];
        let Networks { model, vae, loss, .. } = &self.networks;
        let critic = &loss.critic.as_ref().unwrap().network;
        let [of_vae, of_model, of_critic] = &mut sums;
        of_vae.take(vae, &mut graph);
        of_model.take(model, &mut graph);
        of_critic.take(critic, &mut graph);
        [of_vae.by_name(vae), of_model.by_name(model), of_critic.by_name(critic)]
    }
}

fn shaken(model: LatentModel) -> LatentModel {
    let mut dict = state_dict(&model);
    for (name, tensor) in &mut dict {
        if name.starts_with("bn.") {
            continue;
        }
        let draws = Streams::new(9).normal(name, tensor.values.len());
        tensor.values.iter_mut().zip(draws).for_each(|(value, draw)| *value += 0.2 * draw);
    }
    load_state_dict(model, dict).unwrap()
}

/// Names of parameters that a gradient reaches.
fn reached(gradients: &StateDict) -> BTreeSet<String> {
    let is_reached = |tensor: &&realign::weights::HostTensor| tensor.values.iter().any(|value| *value != 0.0);
    gradients.iter().filter(|(_, tensor)| is_reached(tensor)).map(|(name, _)| name.clone()).collect()
}

#[test]
fn the_diffusion_loss_does_not_reach_the_autoencoder() {
    let mut bench = Bench::new();
    let pictures = bench.pictures();
    let batch = bench.batch(&pictures);
    let (objective, alignment) = (&*bench.assembly.objective, &bench.assembly.alignment);
    let loss = bench.networks.diffusion_loss(objective, alignment, &pictures.latents, batch, 0).unwrap();
    let [vae, model, critic] = bench.gradients(loss.total);
    assert!(reached(&vae).is_empty() && reached(&critic).is_empty());
    assert!(reached(&model).iter().any(|name| name.starts_with("projectors.")));
    assert!(reached(&model).iter().any(|name| name.starts_with("blocks.1.")));
}

#[test]
fn the_alignment_loss_reaches_the_autoencoders_encoder_and_no_network_that_it_passes() {
    let mut bench = Bench::new();
    let [with, model, critic] = bench.vae_gradients(1.5);
    let [without, ..] = bench.vae_gradients(0.0);
    assert!(reached(&model).is_empty() && reached(&critic).is_empty());
    let changed: BTreeSet<_> =
        with.iter().filter(|(name, tensor)| without[*name] != **tensor).map(|(name, _)| name.clone()).collect();
    let of_encoder = |name: &str| name.starts_with("encoder.") || name.starts_with("quant_conv.");
    // A key's bias changes nothing, so its gradient is rounding alone.
    let expected = reached(&with).into_iter().filter(|name| of_encoder(name) && !name.ends_with("attn_1.k.bias"));
    for name in expected {
        assert!(changed.contains(&name), "alignment does not reach `{name}`");
    }
    assert!(changed.iter().all(|name| of_encoder(name)), "alignment reaches the decoder: {changed:?}");
}

#[test]
fn the_passes_move_the_statistics_of_latents_once_and_times_and_noise_are_the_same() {
    let mut bench = Bench::new();
    let statistics = |bench: &Bench| state_dict(&bench.networks.model)["bn.running_mean"].values.clone();
    let before = statistics(&bench);
    bench.vae_gradients(1.5);
    assert_eq!(statistics(&bench), before);
    let pictures = bench.pictures();
    let Draws { noise, t, .. } = bench.batch(&pictures).draws;
    let again = bench.batch(&pictures).draws;
    assert_eq!(noise.into_data(), again.noise.into_data());
    assert_eq!(t.into_data(), again.t.into_data());
    let batch = bench.batch(&pictures);
    let (objective, alignment) = (&*bench.assembly.objective, &bench.assembly.alignment);
    bench.networks.diffusion_loss(objective, alignment, &pictures.latents, batch, 0).unwrap();
    assert_ne!(statistics(&bench), before);
}

#[test]
fn a_run_keeps_every_network_and_samples_with_its_own_autoencoder() {
    let desk = Desk::new();
    run(&desk, "recipes/irepa-e.yaml", "run", &SMALL);
    let folder = desk.path("run/checkpoints/step-0000003");
    let read = |name: &str| read_safetensors(&folder.join(format!("{name}.safetensors"))).unwrap();
    for name in ["model", "ema-ema", "vae", "discriminator", "opt", "opt_vae", "opt_disc"] {
        assert!(!read(name).is_empty(), "{name}");
    }
    assert!(read("discriminator").contains_key("main.3.running_var"));
    assert!(read("vae").contains_key("decoder.up.0.block.0.conv1.weight"));
    let (ema, statistics) = (read("ema-ema"), read("latents-stats"));
    assert_eq!(statistics["latents_bias"].values, ema["bn.running_mean"].values);
    let scale: Vec<f32> = ema["bn.running_var"].values.iter().map(|variance| variance.sqrt().recip()).collect();
    assert_eq!(statistics["latents_scale"].values, scale);

    let trained = TrainedRun::open(&Settings::default(), &desk.path("run"), &[]).unwrap();
    let checkpoint = trained.checkpoint(None).unwrap();
    let assembly = trained.assembly(&checkpoint).unwrap();
    assert_eq!(state_dict(&assembly.autoencoder), read("vae"));
    assert_eq!(assembly.autoencoder.variational().unwrap().norm().scale(), scale);
    desk.run(&["sample", "run", "--num", "3", "--out", "samples.npz"]).assert_done();
    assert!(desk.path("samples.npz").exists());
}

#[test]
fn an_autoencoder_that_was_trained_serves_other_recipes_by_run_and_by_file() {
    let desk = Desk::new();
    run(&desk, "recipes/vae.yaml", "vae", &of_an_autoencoder());
    let folder = desk.path("vae/checkpoints/step-0000003");
    let read = |name: &str| read_safetensors(&folder.join(format!("{name}.safetensors"))).unwrap();
    let device = open(DeviceChoice::Flex).unwrap();
    let built: Slot<AutoencoderKind> =
        Slot::new(TrainedAutoencoder::open(&desk.path("vae")).unwrap().build(None, &device).unwrap());
    assert_eq!(state_dict(&built), read("ema-ema"));
    assert_eq!(built.variational().unwrap().norm().bias(), read("latents-stats")["latents_bias"].values);

    let latent = ["image_size=16", "backbone.patch_size=1", "backbone.hidden_size=16", "backbone.num_heads=2"];
    let by_run = ["autoencoder.type=checkpoint", "autoencoder.run=vae"];
    let network = "{type: sd_vae, size: null, channels: [16, 32, 32], num_res_blocks: 1, latent_channels: 4, num_groups: 8, \
                   weights: {type: file, path: vae/checkpoints/step-0000003/ema-ema.safetensors}, \
                   latent_norm: {type: channel_stats, path: vae/checkpoints/step-0000003/latents-stats.safetensors}}";
    let by_file = format!("autoencoder={network}");
    for sets in [&by_run[..], &[by_file.as_str()]] {
        let mut args = vec!["check", "recipes/sit-irepa.yaml"];
        latent.iter().chain(sets).for_each(|set| args.extend(["--set", set]));
        let answer = desk.run(&args);
        answer.assert_done();
        assert!(answer.out.contains("steps and samples"), "{}", answer.out);
    }
    let absent = ["check", "recipes/sit.yaml", "--set", "autoencoder.type=checkpoint", "--set", "autoencoder.run=gone"];
    let answer = desk.run(&absent);
    assert!(answer.out.contains("recipes/vae.yaml --run-dir gone"), "{}", answer.out);
}

/// A small vision transformer for pictures of 16 pixels, with the keys given.
fn of_an_encoder(keys: &str) -> Vec<String> {
    let encoder = format!(
        "program.encoder={{type: vit, preset: null, weights: random, hidden_size: 16, depth: 2, num_heads: 2, \
         patch_size: 4, mlp_size: 24, position_grid: 3, normalization: half{keys}}}"
    );
    let sets = ["image_size=16", "program.grid=4", "program.validation.num_examples=6", "train.steps=4", "flip=0.5"];
    let further = [
        "train.ema=[{name: ema, decay: 0.5, warmup: none}]",
        "train.global_batch_size=4",
        "train.micro_batch_size=4",
        "log.preview_every=2",
        "log.every=1",
    ];
    sets.into_iter().chain(further).map(String::from).chain([encoder]).collect()
}

#[test]
fn an_encoder_that_was_trained_is_a_target_with_the_weights_of_its_checkpoint() {
    let desk = Desk::new();
    // Registers, learned positions on another grid, rotation and a scale per channel: every sort of parameter.
    let keys = ", num_registers: 2, rotary: perception, layer_scale: true, pre_norm: true";
    let sets = of_an_encoder(keys);
    run(&desk, "recipes/classification.yaml", "own", &sets.iter().map(String::as_str).collect::<Vec<_>>());
    let first = desk.path("own/checkpoints/step-0000004");
    let read = |name: &str| read_safetensors(&first.join(format!("{name}.safetensors"))).unwrap();
    let (weights, average) = (read("encoder"), read("encoder-ema"));
    assert!(weights.keys().eq(average.keys()) && weights != average);
    let untrained = {
        let recipe = project().join("recipes/classification.yaml");
        let Job::Program(plan) = Job::new(&Layered::load(&recipe, None, &sets).unwrap()).unwrap() else {
            panic!("a recipe without a diffusion model")
        };
        let mut start = ProgramRun::new(&plan).unwrap().program.weights();
        start.retain(|name, _| name.starts_with("encoder."));
        start
    };
    // Positions are resampled, so they do not lie in memory as other parameters do.
    for (name, tensor) in &weights {
        assert_ne!(*tensor, untrained[&format!("encoder.{name}")], "`{name}` was not trained");
    }

    let device = open(DeviceChoice::Flex).unwrap();
    for (name, expected) in [(None, &average), (Some("ema"), &average), (Some("model"), &weights)] {
        let trained = TrainedEncoder::open(&desk.path("own")).unwrap().unwrap();
        assert_eq!(state_dict(&trained.build(None, name, &device).unwrap()), *expected);
    }
    let target = |keys: &str| format!("alignment.0.encoder={{type: checkpoint, run: own{keys}}}");
    let aligned = |keys: &str| {
        let mut args = vec!["check".to_string(), "recipes/sit-irepa.yaml".to_string()];
        for set in ["image_size=16".to_string(), target(keys)] {
            args.extend(["--set".to_string(), set]);
        }
        desk.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    aligned("").assert_done();
    aligned(", weights: model, step: 4").assert_done();
    aligned(", layer: 1").assert_refused(&["trained an encoder", "layer"]);
    aligned(", weights: ena").assert_refused(&["no weights `ena`", "`ema`"]);
    aligned(", step: 3").assert_refused(&["no checkpoint of step 3"]);
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_reason() {
    let desk = Desk::new();
    let lpips = "program.loss.lpips={weight: 1.0}";
    for recipe in ["recipes/vae.yaml", "recipes/repa-e.yaml"] {
        let missing = desk.run(&["check", recipe, "--set", lpips]);
        for word in ["vgg16-397923af.pth", "vgg.pth", "curl"] {
            assert!(missing.out.contains(word), "{}", missing.out);
        }
        desk.run(&["run", recipe, "--set", lpips]).assert_refused(&["vgg16-397923af.pth", "curl"]);
    }
    desk.run(&["check", "recipes/repa-e.yaml", "--set", "autoencoder={type: identity}"])
        .assert_refused(&["autoencoder.type", "`identity` has no posterior"]);
    desk.run(&["check", "recipes/repa-e.yaml", "--set", "alignment=[]"]).assert_refused(&["alignment", "at least one"]);
    desk.run(&["check", "recipes/classification.yaml", "--set", "program.encoder=null"])
        .assert_refused(&["program.encoder", "type: vit"]);
    desk.run(&["check", "recipes/repa-e.yaml", "--set", "train.micro_batch_size=8"])
        .assert_refused(&["train.micro_batch_size", "whole batch"]);
    for (recipe, set, words) in [
        ("vae", "loader.num_workers=1000000000000000000", ["loader.num_workers", "0 to 256"]),
        ("vae", "data.num_examples=18446744073709551615", ["data.num_examples", "1 to 1073741824"]),
        ("vae", "data.held_out=[red rign]", ["data.held_out", "did you mean `red ring`"]),
        ("classification", "program.validation.num_examples=0", ["program.validation.num_examples", "1 to 1073741824"]),
    ] {
        desk.run(&["check", &format!("recipes/{recipe}.yaml"), "--set", set]).assert_refused(&words);
    }
}
