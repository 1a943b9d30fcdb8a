//! What every registered plugin must hold.

#[path = "abandoned.rs"]
mod abandoned;
#[path = "fitting.rs"]
mod fitting;
#[path = "recomputation.rs"]
mod recomputation;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use realign::erase::Slot;
use realign::nn::ParamBuilder;
use realign::ops::{DeviceChoice, open};
use realign::plugin::encoder::WeightFile;
use realign::plugin::{
    AlignmentLossConfig, AutoencoderConfig, BackboneConfig, BackboneContext, BackboneInput, BackboneKind, Condition,
    ConditionSpec, ConditionerConfig, ConditionerContext, ConditionerKind, EncoderConfig, EncoderContext,
    FeatureContext, FeatureNetworkConfig, NormalizerConfig, ObjectiveConfig, PatchGrid, ProgramConfig, ProjectorConfig,
    ProjectorContext, ProjectorKind, SamplerConfig, Times,
};
use realign::plugin::{DatasetConfig, DatasetContext};
use realign::registry::{PluginInfo, check_names, plugins};
use realign::streams::Streams;
use realign::train::{Gradients, TrainModel};
use realign::weights::{StateDict, load_state_dict, read_safetensors, state_dict, to_host, write_safetensors};
use realign_plugins as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

const GRID: PatchGrid = PatchGrid { rows: 5, columns: 7 };

fn of_kind(kind: &str) -> Vec<&'static PluginInfo> {
    let is_wanted = |plugin: &&PluginInfo| plugin.kind == kind && (plugin.name)() != "one_time";
    let found: Vec<_> = plugins().into_iter().filter(is_wanted).collect();
    assert!(!found.is_empty(), "no plugin of kind {kind}");
    found
}

/// The default config; networks with small sizes where they have the key.
fn config<T: DeserializeOwned>(plugin: &PluginInfo) -> T {
    let mut value = (plugin.defaults)().expect("a config can be written");
    let map = value.as_mapping_mut().expect("a config is a section");
    map.insert("type".into(), (plugin.name)().into());
    let small = [
        ("size", Value::Null),
        ("hidden_size", 12.into()),
        ("depth", 2.into()),
        ("num_heads", 3.into()),
        ("patch_size", 2.into()),
        ("bottleneck_size", 5.into()),
        ("context_start", 1.into()),
        ("num_context_tokens", 3.into()),
        ("projector_dim", 17.into()),
    ];
    if matches!(plugin.kind, "encoder" | "feature_network")
        && (plugin.name)() != "clip"
        && map.get("encoder").is_some_and(Value::is_null)
    {
        // One that wraps another has no default for it.
        map.insert("encoder".into(), serde_yaml::from_str("{type: hog}").expect("a section"));
    }
    for (key, size) in small {
        if matches!(plugin.kind, "backbone" | "projector") && map.contains_key(key) {
            map.insert(key.into(), size);
        }
    }
    serde_yaml::from_value(value).unwrap_or_else(|problem| panic!("{}: {problem}", (plugin.name)()))
}

fn devices() -> Vec<Device> {
    let flex = open(DeviceChoice::Flex).unwrap();
    match realign::ops::backend_names().contains(&"libtorch") {
        true => vec![open(DeviceChoice::Cpu).unwrap(), flex],
        false => vec![flex],
    }
}

/// What a backbone is told: labels, or text where it takes that alone.
fn context(backbone: &PluginInfo) -> BackboneContext {
    let labels = ConditionSpec::Labels { num_classes: 7 };
    let with = |condition| BackboneContext { input: [3, 10, 14], condition, has_interval: false, recomputes: false };
    let takes_labels = config::<Box<dyn BackboneConfig>>(backbone).spec(&with(labels)).is_ok();
    with(if takes_labels { labels } else { ConditionSpec::Text { tokens: 5, channels: 6 } })
}

/// Conditions of this kind; text stands for the label whose number seeds it.
fn conditions(spec: ConditionSpec, labels: &[i64], device: &Device) -> Condition {
    let ConditionSpec::Text { tokens, channels } = spec else { return Condition::labels(labels, device) };
    let text = |label: &i64| Streams::new(*label as u64).normal("text", tokens * channels);
    let values: Vec<f32> = labels.iter().flat_map(text).collect();
    Condition::Text(Tensor::from_data(burn::tensor::TensorData::new(values, [labels.len(), tokens, channels]), device))
}

fn build(backbone: &PluginInfo, projector: &PluginInfo, device: &Device, seed: u64) -> TrainModel {
    build_for(&context(backbone), backbone, projector, device, seed)
}

fn build_for(
    context: &BackboneContext,
    backbone: &PluginInfo,
    projector: &PluginInfo,
    device: &Device,
    seed: u64,
) -> TrainModel {
    let params = ParamBuilder::new(device, seed);
    let (backbone, projector): (Box<dyn BackboneConfig>, Box<dyn ProjectorConfig>) =
        (config(backbone), config(projector));
    let spec = backbone.spec(context).unwrap();
    assert_eq!(spec.grid, GRID);
    let joins = ProjectorContext { hidden_size: spec.hidden_size, target_channels: 9, grid: spec.grid };
    TrainModel {
        backbone: Slot::<BackboneKind>::new(backbone.build(context, &params).unwrap()),
        projectors: vec![Slot::<ProjectorKind>::new(projector.build(&joins, &params.child("projectors.0")).unwrap())],
        conditioner: None,
    }
}

/// The model with every parameter drawn anew: zero-initialized gates would hide what lies behind them.
fn shaken(model: TrainModel) -> TrainModel {
    let mut dict = state_dict(&model);
    for (name, tensor) in &mut dict {
        for (value, draw) in tensor.values.iter_mut().zip(Streams::new(9).normal(name, tensor.shape.iter().product())) {
            *value += 0.2 * draw;
        }
    }
    load_state_dict(model, dict).unwrap()
}

fn input(backbone: &PluginInfo, device: &Device) -> BackboneInput<'static> {
    let noise = Streams::new(5).normal("x", 2 * 3 * 10 * 14);
    let x = Tensor::from_data(burn::tensor::TensorData::new(noise, [2, 3, 10, 14]), device);
    let times = Times::at(Tensor::from_floats([0.2, 0.7], device));
    BackboneInput { x, times, condition: conditions(context(backbone).condition, &[3, 7], device), taps: &[1, 2] }
}

#[test]
fn no_two_plugins_of_a_kind_share_a_name() {
    check_names().unwrap();
}

#[test]
fn every_config_survives_a_yaml_round_trip_and_documents_its_keys() {
    for plugin in plugins() {
        let name = (plugin.name)();
        let defaults = (plugin.defaults)().unwrap_or_else(|| panic!("{name}: no defaults"));
        let text = serde_yaml::to_string(&defaults).unwrap();
        assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap(), defaults, "{name}");
        let schema = (plugin.schema)();
        assert!(schema["description"].is_string(), "{} `{name}` has no documentation", plugin.kind);
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{} `{name}`: key `{key}` has no documentation", plugin.kind);
        }
    }
}

/// As recipes do it: through the tag, for every kind. A kind that is missing here fails.
#[test]
fn every_config_survives_a_round_trip_as_a_recipe_writes_it() {
    fn round_trip<T: DeserializeOwned + Serialize>(plugin: &PluginInfo) {
        let text = serde_yaml::to_string(&config::<T>(plugin)).unwrap();
        let read: T = serde_yaml::from_str(&text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        assert_eq!(serde_yaml::to_string(&read).unwrap(), text);
        assert!(text.contains(&format!("type: {}", (plugin.name)())), "{text}");
    }
    for plugin in plugins() {
        match plugin.kind {
            "alignment_loss" => round_trip::<Box<dyn AlignmentLossConfig>>(plugin),
            "autoencoder" => round_trip::<Box<dyn AutoencoderConfig>>(plugin),
            "backbone" => round_trip::<Box<dyn BackboneConfig>>(plugin),
            "conditioner" => round_trip::<Box<dyn ConditionerConfig>>(plugin),
            "dataset" => round_trip::<Box<dyn DatasetConfig>>(plugin),
            "encoder" => round_trip::<Box<dyn EncoderConfig>>(plugin),
            "feature_network" => round_trip::<Box<dyn FeatureNetworkConfig>>(plugin),
            "normalizer" => round_trip::<Box<dyn NormalizerConfig>>(plugin),
            "objective" => round_trip::<Box<dyn ObjectiveConfig>>(plugin),
            "projector" => round_trip::<Box<dyn ProjectorConfig>>(plugin),
            "program" => round_trip::<Box<dyn ProgramConfig>>(plugin),
            "sampler" => round_trip::<Box<dyn SamplerConfig>>(plugin),
            kind => panic!("kind `{kind}` of `{}` has no contract", (plugin.name)()),
        }
    }
}

#[test]
fn plugins_around_the_network_build_from_their_defaults_or_lack_weights_that_a_command_gets() {
    fn check<T>(plugin: &PluginInfo, weights: &[WeightFile], built: anyhow::Result<T>) {
        let lacking = weights.iter().find(|file| !file.path.exists());
        match (built, lacking) {
            (Ok(_), _) => {}
            // The engine names the absent file and the command before it builds.
            (Err(_), Some(file)) => assert!(!file.command.is_empty(), "{}", file.path.display()),
            (Err(problem), None) => panic!("{}: {problem:#}", (plugin.name)()),
        }
    }
    for device in devices() {
        for plugin in of_kind("encoder") {
            let (encoder, grid) = (config::<Box<dyn EncoderConfig>>(plugin), PatchGrid::new(16, 16));
            let weights_dir = "pretrained_models".into();
            let context = EncoderContext { image_size: 256, backbone_grid: grid, weights_dir };
            check(plugin, &encoder.spec(&context).unwrap().weights, encoder.build(&context, &device));
        }
        for plugin in of_kind("feature_network") {
            let network: Box<dyn FeatureNetworkConfig> = config(plugin);
            let context = FeatureContext { picture_size: [32, 32], weights_dir: "pretrained_models".into() };
            check(plugin, &network.weights(&context), network.build(&context, &device));
        }
        for plugin in of_kind("autoencoder") {
            let autoencoder: Box<dyn AutoencoderConfig> = config(plugin);
            assert!(autoencoder.latent_shape(256).unwrap().iter().all(|size| *size > 0));
            let folder = Path::new("pretrained_models");
            check(plugin, &autoencoder.weights(folder), autoencoder.build(folder, &device));
        }
        for plugin in of_kind("conditioner") {
            let conditioner: Box<dyn ConditionerConfig> = config(plugin);
            let weights_dir = std::path::PathBuf::from("pretrained_models");
            let context = ConditionerContext { num_classes: 7, weights_dir: weights_dir.clone() };
            let built = conditioner.build(&context, &ParamBuilder::new(&device, 1));
            check(plugin, &conditioner.weights(&weights_dir), built);
        }
    }
    for plugin in of_kind("sampler") {
        assert!(config::<Box<dyn SamplerConfig>>(plugin).build().num_evaluations() > 0, "{}", (plugin.name)());
    }
}

#[test]
fn data_sets_open_and_repeat_their_examples_or_say_what_they_need() {
    for plugin in of_kind("dataset") {
        match config::<Box<dyn DatasetConfig>>(plugin).open(&DatasetContext { image_size: 35, seed: 3 }) {
            Ok(dataset) => {
                let (first, again) = (dataset.get(1).unwrap(), dataset.get(1).unwrap());
                assert_eq!(first, again, "{}", (plugin.name)());
                assert_eq!((first.image.width(), first.image.height()), (35, 35));
                assert!(first.label < dataset.num_classes());
            }
            Err(problem) => assert!(format!("{problem:#}").contains("path"), "{}: {problem:#}", (plugin.name)()),
        }
    }
}

#[test]
fn gradients_reach_every_parameter_of_backbones_and_projectors() {
    for device in devices() {
        let device = device.autodiff();
        for (backbone, projector) in pairs() {
            let model = shaken(build(backbone, projector, &device, 1));
            let output = model.backbone.forward(input(backbone, &device));
            assert_eq!(output.prediction.dims(), [2, 3, 10, 14]);
            assert_eq!(output.taps[0].dims()[..2], [2, GRID.tokens()]);
            let projected = model.projectors[0].forward(output.taps[1].clone(), GRID);
            assert_eq!(projected.dims(), [2, GRID.tokens(), 9]);
            let weights = Tensor::random(projected.dims(), Distribution::Normal(0.0, 1.0), &device);
            let loss = output.prediction.square().mean() + (projected * weights).mean();
            let mut gradients = Gradients::default();
            gradients.add(&model, loss.backward());
            for (name, gradient) in gradients.by_name(&model) {
                let largest = gradient.values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                assert!(largest > 0.0 && largest.is_finite(), "{}: no gradient reaches `{name}`", (backbone.name)());
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_a_projector_does_not_move_the_backbone() {
    let device = open(DeviceChoice::Flex).unwrap();
    let without_projectors = |dict: StateDict| -> BTreeMap<_, _> {
        dict.into_iter().filter(|(name, _)| !name.starts_with("projectors.")).collect()
    };
    for (backbone, projector) in pairs() {
        let dict = |seed| state_dict(&build(backbone, projector, &device, seed));
        assert_eq!(dict(4), dict(4));
        assert_ne!(dict(4), dict(5));
        let other = of_kind("projector").into_iter().find(|other| (other.name)() != (projector.name)()).unwrap();
        let swapped = state_dict(&build(backbone, other, &device, 4));
        assert_eq!(without_projectors(dict(4)), without_projectors(swapped));
    }
}

#[test]
fn a_state_that_was_saved_and_loaded_gives_the_same_outputs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for device in devices() {
        for (backbone, projector) in pairs() {
            let model = shaken(build(backbone, projector, &device, 1));
            write_safetensors(&path, &state_dict(&model)).unwrap();
            let saved = read_safetensors(&path).unwrap();
            let loaded = load_state_dict(build(backbone, projector, &device, 2), saved).unwrap();
            let run = |model: &TrainModel| to_host(model.valid().backbone.forward(input(backbone, &device)).prediction);
            assert_eq!(run(&model), run(&loaded));
        }
    }
}

#[test]
fn normalizers_and_losses_are_finite_at_odd_sizes_and_on_constant_features() {
    for device in devices() {
        for (batch, tokens, channels) in [(3, 35, 9), (1, 1, 1)] {
            let shape = [batch, tokens, channels];
            let features = Tensor::<3>::random(shape, Distribution::Normal(1.0, 1.0), &device);
            for plugin in of_kind("normalizer") {
                let normalizer = config::<Box<dyn NormalizerConfig>>(plugin).build();
                for features in [features.clone(), Tensor::ones(shape, &device)] {
                    let normalized = normalizer.normalize(features, PatchGrid::new(tokens, 1));
                    assert_eq!(normalized.dims(), shape);
                    assert!(to_host(normalized).iter().all(|value| value.is_finite()), "{}", (plugin.name)());
                }
            }
            for plugin in of_kind("alignment_loss") {
                let loss = config::<Box<dyn AlignmentLossConfig>>(plugin).build();
                let value = to_host(loss.loss(features.clone(), features.clone(), features.clone()));
                assert!(value.len() == 1 && value[0].is_finite(), "{}", (plugin.name)());
            }
        }
    }
}

/// Text or labels of the shape that the spec says, the same for the same seed; what trains gets gradients everywhere.
#[test]
fn conditioners_give_what_they_say_and_train_all_their_parameters_where_they_train() {
    for (device, plugin) in
        devices().iter().flat_map(|device| of_kind("conditioner").into_iter().map(move |p| (device, p)))
    {
        let config: Box<dyn ConditionerConfig> = config(plugin);
        let context = ConditionerContext { num_classes: 7, weights_dir: "pretrained_models".into() };
        if config.weights(&context.weights_dir).iter().any(|file| !file.path.exists()) {
            println!("left out: {} lacks its published weights", (plugin.name)());
            continue;
        }
        let device = if config.is_trained() { device.clone().autodiff() } else { device.clone() };
        let made = |seed| {
            let params = ParamBuilder::new(&device, seed).child("conditioner");
            Slot::<ConditionerKind>::new(config.build(&context, &params).unwrap())
        };
        let shape = |condition: &Condition| match condition {
            Condition::Labels(labels) => labels.dims().to_vec(),
            Condition::Text(text) => text.dims().to_vec(),
        };
        let (conditioner, captions) = (made(4), [Some("a red ring".to_string()), Some("é".into())]);
        let condition = conditioner.condition(&[3, 6], &captions, &device).unwrap();
        let null = conditioner.null(3, &device);
        let per_sample = match config.spec(7) {
            ConditionSpec::Labels { .. } => vec![],
            ConditionSpec::Text { tokens, channels } => vec![tokens, channels],
        };
        assert_eq!(shape(&condition), [&[2], &per_sample[..]].concat(), "{}", (plugin.name)());
        assert_eq!(shape(&null), [&[3], &per_sample[..]].concat(), "{}", (plugin.name)());
        assert_eq!(state_dict(&conditioner), state_dict(&made(4)));
        if !config.is_trained() {
            continue;
        }
        assert_ne!(state_dict(&conditioner), state_dict(&made(5)));
        let Condition::Text(text) = condition.concat(null) else { panic!("labels have nothing to train") };
        let weights = Tensor::random(text.dims(), Distribution::Normal(0.0, 1.0), &device);
        let (backbone, projector) = pairs()[0];
        let model = TrainModel { conditioner: Some(conditioner), ..build(backbone, projector, &device, 1) };
        let mut gradients = Gradients::default();
        gradients.add(&model, (text * weights).sum().backward());
        let named = gradients.by_name(&model);
        let trained: Vec<_> = named.iter().filter(|(name, _)| name.starts_with("conditioner.")).collect();
        assert!(!trained.is_empty(), "{}", (plugin.name)());
        for (name, gradient) in trained {
            assert!(gradient.values.iter().any(|value| *value != 0.0), "no gradient reaches `{name}`");
        }
    }
}

fn pairs() -> Vec<(&'static PluginInfo, &'static PluginInfo)> {
    let projectors = of_kind("projector");
    of_kind("backbone").into_iter().flat_map(|b| projectors.iter().map(move |p| (b, *p)).collect::<Vec<_>>()).collect()
}
