//! Which backbones, objectives and samplers work together, and that the others are refused.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use realign::nn::ParamBuilder;
use realign::plugin::{
    Backbone, BackboneConfig, BackboneContext, BackboneInput, BackboneSpec, Guidance, Objective, ObjectiveConfig,
    ObjectiveInput, SampleRequest, SamplerConfig,
};
use realign::recipe::{Layered, Plan};
use realign::registry::{PluginInfo, plugins};
use realign::streams::Streams;
use realign::train::{Gradients, StepStats, TrainModel, Trainer};
use realign::weights::{StateDict, to_host};

use super::{GRID, build_for, conditions, config, context, devices, input, of_kind, shaken};

/// One step of every objective on every backbone that it can use, with and without alignment.
#[test]
fn every_pair_of_backbone_and_objective_trains_all_its_parameters_and_repeats_itself() {
    for device in devices() {
        let (device, projector) = (device.autodiff(), of_kind("projector")[0]);
        let objectives = of_kind("objective");
        let pairs = of_kind("backbone").into_iter().flat_map(|b| objectives.iter().map(move |o| (b, *o)));
        for (backbone, plugin) in pairs {
            let (objective, network): (Box<dyn ObjectiveConfig>, Box<dyn BackboneConfig>) =
                (config(plugin), config(backbone));
            let context = BackboneContext { has_interval: objective.has_interval(), ..context(backbone) };
            if context.has_interval && !network.accepts_interval() {
                continue;
            }
            let objective = objective.build();
            let model = shaken(build_for(&context, backbone, projector, &device, 1));
            for is_aligned in [false, true] {
                let step = || step(&model, backbone, &*objective, &context, is_aligned, &device);
                let (value, gradients) = step();
                let pair = format!("{} on {}", (plugin.name)(), (backbone.name)());
                assert!(value.is_finite(), "{pair}: {value}");
                let (again, gradients_again) = step();
                assert_eq!((value, &gradients), (again, &gradients_again), "{pair}");
                for (name, gradient) in gradients {
                    let largest = gradient.values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                    let is_used = is_aligned || !name.starts_with("projectors.");
                    assert_eq!(largest > 0.0 && largest.is_finite(), is_used, "{pair}: gradient of `{name}`");
                }
            }
        }
    }
}

/// Loss and gradients of one step on four samples.
pub(super) fn step(
    model: &TrainModel,
    backbone: &'static PluginInfo,
    objective: &dyn Objective,
    context: &BackboneContext,
    is_aligned: bool,
    device: &Device,
) -> (f32, StateDict) {
    let BackboneInput { x, condition, .. } = input(backbone, device);
    let x = Tensor::cat(vec![x.clone(), x.flip([2])], 0);
    let condition = condition.clone().concat(condition);
    let draws = objective.draw(x.dims(), &Streams::new(1).at(2, 0), device);
    let null = conditions(context.condition, &[7; 4], device);
    let taps: &[usize] = if is_aligned { &[1] } else { &[] };
    let input = ObjectiveInput { x0: x, condition, null, draws, taps };
    let output = objective.loss(&*model.backbone, input).unwrap();
    assert_eq!(output.taps.len(), taps.len());
    let aligned = output.taps.into_iter().next().map(|tap| {
        assert_eq!(tap.dims(), [4, GRID.tokens(), 12]);
        model.projectors[0].forward(tap, GRID).square().mean()
    });
    let total = aligned.map_or(output.loss.clone(), |aligned| output.loss + aligned);
    let value = to_host(total.clone())[0];
    let mut gradients = Gradients::default();
    gradients.add(model, total.backward());
    (value, gradients.by_name(model))
}

/// Where only the samples with r = t are aligned, and where all samples have r = t.
#[test]
fn mean_flow_aligns_on_part_of_a_batch_and_trains_without_intervals() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/meanflow-irepa.yaml");
    let step = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let plan = Plan::new(&Layered::load(&path, Some("demo"), &sets).unwrap()).unwrap();
        let mut trainer = Trainer::new(&plan)?;
        trainer.step(&plan).and_then(StepStats::read)
    };
    let small = ["train.global_batch_size=4", "train.micro_batch_size=4", "backbone.depth=2"];
    for set in ["objective.align_on=instants", "objective.instant_share=1.0"] {
        let scalars = step(&[&small[..], &[set]].concat()).unwrap();
        assert!(scalars.iter().any(|(tag, _)| tag == "train/align_loss"), "{set}");
    }
    let none = ["train.global_batch_size=1", "train.micro_batch_size=1", "objective.align_on=instants"];
    let message = format!("{:#}", step(&none).unwrap_err());
    assert!(message.contains("micro_batch_size"), "{message}");
    let message = format!("{:#}", step(&["device=flex"]).unwrap_err());
    assert!(message.contains("time_scale `1000`"), "{message}");
    step(&[&small[..], &["device=flex", "backbone.time_scale=10"]].concat()).unwrap();
}

/// A sampler reaches finite samples of every network that it fits, and each objective has a sampler.
#[test]
fn samplers_draw_from_the_networks_that_they_fit() {
    for device in devices() {
        let projector = of_kind("projector")[0];
        for (backbone, objective) in
            of_kind("backbone").into_iter().flat_map(|b| of_kind("objective").into_iter().map(move |o| (b, o)))
        {
            let config_of_objective: Box<dyn ObjectiveConfig> = config(objective);
            let context = BackboneContext { has_interval: config_of_objective.has_interval(), ..context(backbone) };
            if context.has_interval && !config::<Box<dyn BackboneConfig>>(backbone).accepts_interval() {
                continue;
            }
            let model = shaken(build_for(&context, backbone, projector, &device, 1));
            let mut num_fitting = 0;
            for plugin in of_kind("sampler") {
                let sampler: Box<dyn SamplerConfig> = config(plugin);
                if !config_of_objective.dynamics().contains(&sampler.dynamics()) {
                    continue;
                }
                num_fitting += 1;
                let BackboneInput { x, condition, .. } = input(backbone, &device);
                let noise = x.clone();
                let request = SampleRequest {
                    backbone: &*model.backbone,
                    objective: &*config_of_objective.build(),
                    noise: x,
                    condition,
                    null: conditions(context.condition, &[7, 7], &device),
                    guidance: Guidance { scale: 1.5, low: 0.0, high: 1.0 },
                    step_noise: &|_| noise.clone(),
                };
                assert_eq!(sampler.build().sample(request).unwrap().dims(), [2, 3, 10, 14], "{}", (plugin.name)());
            }
            assert!(num_fitting > 0, "no sampler fits `{}`", (objective.name)());
        }
    }
}

/// A backbone with one time, as most are written.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct OneTimeConfig {}

#[typetag::serde(name = "one_time")]
impl BackboneConfig for OneTimeConfig {
    fn spec(&self, _: &BackboneContext) -> anyhow::Result<BackboneSpec> {
        Ok(BackboneSpec {
            grid: GRID,
            hidden_size: 12,
            depth: 2,
            forward_flops: 0.0,
            saved_floats: 0.0,
            saved_hidden: 0.0,
        })
    }
    fn build(&self, _: &BackboneContext, _: &ParamBuilder) -> anyhow::Result<Box<dyn Backbone>> {
        anyhow::bail!("only its config is used")
    }
}

realign::register!(BackboneConfig as "backbone": OneTimeConfig);

/// Every backbone × objective × sampler, as a recipe: what does not fit is refused at load time, with what does.
#[test]
fn a_recipe_loads_exactly_when_its_parts_fit_together() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/sit.yaml");
    let mut num_refused = 0;
    let backbones = plugins().into_iter().filter(|plugin| plugin.kind == "backbone");
    for backbone in backbones.map(|plugin| (plugin.name)()) {
        for (objective, sampler) in
            of_kind("objective").into_iter().flat_map(|o| of_kind("sampler").into_iter().map(move |s| (o, s)))
        {
            let (goal, solver): (Box<dyn ObjectiveConfig>, Box<dyn SamplerConfig>) =
                (config(objective), config(sampler));
            let (objective, sampler) = ((objective.name)(), (sampler.name)());
            let mut sets = vec![
                format!("backbone.type={backbone}"),
                format!("objective.type={objective}"),
                format!("sample.sampler.type={sampler}"),
            ];
            if backbone != "one_time" {
                let small = ["hidden_size=12", "depth=2", "num_heads=3", "patch_size=4", "size=null"];
                sets.extend(small.map(|set| format!("backbone.{set}")));
            }
            if backbone == "mmdit" {
                sets.push("conditioner.type=trained_text".into());
            }
            if backbone == "jit" {
                sets.extend(["backbone.bottleneck_size=8", "backbone.context_start=1"].map(String::from));
            }
            let plan = Layered::load(&path, Some("demo"), &sets);
            let loaded = plan.and_then(|layered| Plan::new(&layered)).map(|_| ());
            let accepts = backbone != "one_time" || !goal.has_interval();
            let is_sampled = goal.dynamics().contains(&solver.dynamics());
            let message = loaded.as_ref().err().map(|problem| format!("{problem:#}")).unwrap_or_default();
            if !accepts {
                assert!(message.contains("takes one time") && message.contains("jit, mmdit, sit"), "{message}");
            } else if !is_sampled {
                assert!(message.contains(&format!("sampler `{sampler}` cannot use")), "{message}");
            }
            let complaints_of_fit = message.contains("takes one time") || message.contains("cannot use networks");
            assert_eq!(accepts && is_sampled, !complaints_of_fit, "{backbone}, {objective}, {sampler}: {message}");
            num_refused += usize::from(complaints_of_fit);
        }
    }
    assert!(num_refused > 0);
}
