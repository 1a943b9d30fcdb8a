//! JiT: forward and backward passes, samplers, optimizer steps, learning rates.

use super::case::{Case, Config, count};
use super::compare::{Comparison, widen};
use super::sit::forward_if_recorded;
use super::sit_parts::{norm, projector, term};
use super::train_steps::Moved;
use anyhow::{Context, Result, ensure};
use realign::burn::tensor::{Bool, Device, Tensor, TensorData};
use realign::erase::Slot;
use realign::nn::{ParamBuilder, RotaryTable};
use realign::plugin::{
    BackboneConfig, BackboneContext, BackboneInput, BackboneSpec, Condition, ConditionSpec, Draws, Guidance,
    ObjectiveInput, ProjectorContext, SampleRequest, SamplerConfig, Times,
};
use realign::recipe::{Decayed, EmaSection, EmaWarmup, ScheduleSection, ScheduleShape, TrainSection};
use realign::train::{Alignment, Ema, Gradients, Optimizer, OptimizerSettings, TrainModel, learning_rate};
use realign::weights::{StateDict, load_state_dict, state_dict, to_host};
use realign_plugins::objectives::x_prediction::XPredictionConfig;
use serde_json::json;

/// Labels are dropped with this probability in the reference's training.
const LABEL_DROPOUT: f64 = 0.1;

/// The kind of a JiT case shows in what it recorded.
pub fn jit(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    if case.has("in.step1.x") {
        train_steps(case, device, found)
    } else if case.has("in.x") {
        forward_backward(case, device, found)
    } else if case.has("in.epoch") {
        learning_rates(case, found)
    } else {
        samplers(case, device, found)
    }
}

/// The network, its objective and its alignment.
struct Parts {
    model: TrainModel,
    objective: XPredictionConfig,
    alignment: Alignment,
    spec: BackboneSpec,
    num_context_tokens: usize,
    num_classes: usize,
    head_dim: usize,
}

/// One forward pass.
struct Pass {
    blocks: Vec<Tensor<3>>,
    projected: Vec<Tensor<3>>,
    denoising: Tensor<1>,
    raw: Option<Tensor<1>>,
    total: Tensor<1>,
}

impl Parts {
    /// Builds for inputs `[batch, channels, height, width]`; weights are those of `params`.
    fn new(config: &Config, input: [usize; 4], params: StateDict, device: &Device) -> Result<Self> {
        let num_classes = config.size_or("num_classes", 1000)?;
        let (hidden_size, num_heads) = (config.size("hidden_size")?, config.size("num_heads")?);
        let num_context_tokens = config.size_or("in_context_len", 32)?;
        let jit: Box<dyn BackboneConfig> = serde_json::from_value(json!({
            "type": "jit",
            "size": null,
            "hidden_size": hidden_size,
            "depth": config.size("depth")?,
            "num_heads": num_heads,
            "patch_size": config.size("patch_size")?,
            "bottleneck_size": config.size("bottleneck_dim")?,
            "context_start": config.size("in_context_start")?,
            "num_context_tokens": num_context_tokens,
            "mlp_ratio": config.number("mlp_ratio", 4.0),
        }))?;
        let [_, channels, height, width] = input;
        let context = BackboneContext {
            input: [channels, height, width],
            condition: ConditionSpec::Labels { num_classes },
            has_interval: false,
            recomputes: false,
        };
        let (builder, spec) = (ParamBuilder::new(device, 0), jit.spec(&context)?);
        let backbone = Slot::new(jit.build(&context, &builder)?);
        let mut projectors = vec![];
        for (i, channels) in config.list("z_dims").iter().enumerate().filter(|_| has_projectors(&params)) {
            let context = ProjectorContext { hidden_size, target_channels: count(channels)?, grid: spec.grid };
            projectors.push(Slot::new(projector(config)?.build(&context, &builder.child("projectors").child(i))?));
        }
        let terms = if projectors.is_empty() { vec![] } else { vec![term(config, projectors.len())?] };
        Ok(Self {
            model: load_state_dict(TrainModel { backbone, projectors, conditioner: None }, params)?,
            objective: XPredictionConfig {
                time_mean: config.number("P_mean", -0.8),
                time_deviation: config.number("P_std", 0.8),
                noise_scale: config.number("noise_scale", 1.0),
                t_eps: config.number("t_eps", 0.05),
                label_dropout: LABEL_DROPOUT,
            },
            alignment: Alignment { terms, grid: spec.grid },
            spec,
            num_context_tokens,
            num_classes,
            head_dim: hidden_size / num_heads,
        })
    }

    /// Loss on the recorded batch `<prefix>x`, `<prefix>noise`, `<prefix>t_normal`, `<prefix>y`, `<prefix>zs.<i>`.
    fn pass(&self, case: &Case, prefix: &str, device: &Device) -> Result<Pass> {
        use realign::plugin::Objective;
        let name = |part: &str| format!("{prefix}{part}");
        let labels = case.integers(&name("y"))?;
        let draws = Draws {
            noise: case.tensor(&name("noise"), device)?,
            t: self.times(case, &name("t_normal"), device)?,
            r: None,
            drop: dropped(case, &name("drop_uniform"), device),
        };
        let taps: Vec<usize> = (1..=self.spec.depth).collect();
        let input = ObjectiveInput {
            x0: case.tensor(&name("x"), device)?,
            condition: Condition::labels(&labels, device),
            null: Condition::labels(&vec![self.num_classes as i64; labels.len()], device),
            draws,
            taps: &taps,
        };
        let output = self.objective.loss(&*self.model.backbone, input)?;
        let tapped: Vec<_> = self.alignment.taps(0).iter().map(|depth| output.taps[depth - 1].clone()).collect();
        let (mut projected, mut targets) = (vec![], vec![]);
        for (i, projector) in self.model.projectors.iter().enumerate() {
            targets.push(case.tensor(&name(&format!("zs.{i}")), device)?);
            projected.push(projector.forward(tapped[0].clone(), self.spec.grid));
        }
        let targets = if targets.is_empty() { vec![] } else { vec![targets] };
        let aligned = self.alignment.loss(&self.model.projectors, &tapped, targets, 0, |term| term.proj_coeff)?;
        let total = match &aligned.total {
            Some(aligned) => output.loss.clone() + aligned.clone(),
            None => output.loss.clone(),
        };
        let raw = aligned.by_term.into_iter().next().map(|(_, loss)| loss);
        Ok(Pass { blocks: output.taps, projected, denoising: output.loss, raw, total })
    }

    fn times(&self, case: &Case, name: &str, device: &Device) -> Result<Tensor<1>> {
        let draws = &case.recorded(name)?.values;
        let times: Vec<f32> = draws.iter().map(|draw| self.objective.time(*draw as f32)).collect();
        Ok(Tensor::from_data(TensorData::new(times, [draws.len()]), device))
    }
}

fn has_projectors(params: &StateDict) -> bool {
    params.keys().any(|name| name.starts_with("projectors."))
}

/// Labels whose uniform draw lies below the dropout; none where no draw was recorded.
pub fn dropped(case: &Case, name: &str, device: &Device) -> Option<Tensor<1, Bool>> {
    let draws = &case.recorded(name).ok()?.values;
    let drop: Vec<bool> = draws.iter().map(|draw| *draw < LABEL_DROPOUT).collect();
    Some(Tensor::from_data(TensorData::new(drop, [draws.len()]), device))
}

fn forward_backward(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = device.clone().autodiff();
    let input = case.shape::<4>("in.x")?;
    let parts = Parts::new(&case.config, input, case.params("param."), &device)?;
    rotations(case, &parts, found)?;
    let t = parts.times(case, "in.t_normal", &device)?;
    forward_if_recorded(case, "out.t", &t, found)?;
    let at = t.clone().reshape([input[0], 1, 1, 1]);
    let (x, noise): (Tensor<4>, Tensor<4>) = (case.tensor("in.x", &device)?, case.tensor("in.noise", &device)?);
    let z = x * at.clone() + noise * parts.objective.noise_scale * (at.neg() + 1.0);
    forward_if_recorded(case, "out.z", &z, found)?;
    if case.has("out.x_pred") {
        let condition = Condition::labels(&case.integers("in.y")?, &device);
        let model = realign::burn::module::Module::valid(&parts.model);
        let (z, t) = (z.inner(), t.inner());
        let condition = match condition {
            Condition::Labels(labels) => Condition::Labels(labels.inner()),
            text => text,
        };
        let output = model.backbone.forward(BackboneInput { x: z, times: Times::at(t), condition, taps: &[] });
        found.forward(case, "out.x_pred", output.prediction)?;
    }
    let pass = parts.pass(case, "in.", &device)?;
    for (i, block) in pass.blocks.iter().enumerate() {
        last_tokens(case, &format!("out.block.{i}"), block, found)?;
    }
    for (i, projected) in pass.projected.iter().enumerate() {
        forward_if_recorded(case, &format!("out.zs.{i}"), projected, found)?;
    }
    forward_if_recorded(case, "out.denoise_loss", &pass.denoising, found)?;
    if let Some(raw) = &pass.raw {
        forward_if_recorded(case, "out.proj_loss", raw, found)?;
    }
    forward_if_recorded(case, "out.total_loss", &pass.total, found)?;
    let mut summed = Gradients::default();
    summed.add(&parts.model, pass.total.backward());
    let gradients = summed.by_name(&parts.model);
    for (name, gradient) in &gradients {
        found.gradient(case, &format!("grad.{name}"), &gradient.values)?;
    }
    if case.has("out.grad_norm") {
        found.values(case, "out.grad_norm", &[norm(&gradients)])?;
    }
    Ok(())
}

/// Blocks behind the label tokens were recorded with them; taps hold the patches' tokens.
fn last_tokens(case: &Case, name: &str, block: &Tensor<3>, found: &mut Comparison) -> Result<()> {
    if !case.has(name) {
        return Ok(());
    }
    let ([batch, tokens, channels], recorded) = (block.dims(), case.shape::<3>(name)?);
    ensure!(
        recorded[0] == batch && recorded[1] >= tokens && recorded[2] == channels,
        "`{name}` is {:?}, recorded {recorded:?}",
        block.dims()
    );
    let before = (recorded[1] - tokens) * channels;
    let expected = &case.recorded(name)?.values;
    let own = widen(to_host(block.clone()));
    let mut values = Vec::with_capacity(expected.len());
    for (sample, own) in expected.chunks(recorded[1] * channels).zip(own.chunks(tokens * channels)) {
        values.extend(sample[..before].iter().chain(own));
    }
    found.values(case, name, &values)
}

/// The recorded tables hold every angle twice, once for each channel of a pair.
fn rotations(case: &Case, parts: &Parts, found: &mut Comparison) -> Result<()> {
    for (name, before) in [("feat_rope", 0), ("feat_rope_incontext", parts.num_context_tokens)] {
        let tables = RotaryTable::new(parts.spec.grid, parts.head_dim, before).tensors(&Device::flex());
        for (part, table) in ["cos", "sin"].into_iter().zip(tables) {
            let name = format!("out.rope.{name}.{part}");
            if case.has(&name) {
                let twice: Vec<f64> = to_host(table).into_iter().flat_map(|value| [f64::from(value); 2]).collect();
                found.values(case, &name, &twice)?;
            }
        }
    }
    Ok(())
}

fn samplers(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let noise: Tensor<4> = case.tensor("in.noise", device)?;
    let parts = Parts::new(&case.config, noise.dims(), case.params("param."), device)?;
    let labels = case.integers("in.y")?;
    for (name, settings) in case.config.0["runs"].as_object().context("config.runs is missing")? {
        let run = Config(settings.clone());
        let interval: Vec<f64> = run.list("interval").iter().filter_map(serde_json::Value::as_f64).collect();
        let sampler: Box<dyn SamplerConfig> = serde_json::from_value(
            json!({ "type": "jit_ode", "num_steps": run.size("steps")?, "method": run.word("method", "heun") }),
        )?;
        let samples = sampler.build().sample(SampleRequest {
            backbone: &*parts.model.backbone,
            objective: &parts.objective,
            noise: noise.clone(),
            condition: Condition::labels(&labels, device),
            null: Condition::labels(&vec![parts.num_classes as i64; labels.len()], device),
            guidance: Guidance {
                scale: run.number("cfg", 1.0),
                low: interval.first().copied().unwrap_or(0.0),
                high: interval.get(1).copied().unwrap_or(1.0),
            },
            step_noise: &|_| unreachable!("the ODE draws nothing"),
        })?;
        found.forward(case, &format!("out.{name}"), samples)?;
    }
    Ok(())
}

fn train_steps(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = device.clone().autodiff();
    let mut parts = Parts::new(&case.config, case.shape::<4>("in.step1.x")?, case.params("param."), &device)?;
    let settings = Config(case.config.0["optimizer"].clone());
    let beta = |i: usize, otherwise: f64| settings.0["betas"][i].as_f64().unwrap_or(otherwise);
    let lr = settings.number("lr", 1e-4);
    let mut optimizer = Optimizer::new(
        &parts.model,
        OptimizerSettings {
            betas: [beta(0, 0.9), beta(1, 0.95)],
            eps: settings.number("eps", 1e-8),
            weight_decay: settings.number("weight_decay", 0.0),
            decayed: Decayed::Matrices,
            max_grad_norm: None,
        },
    );
    let mut emas = vec![];
    for (name, key, decay) in [("ema1", "ema_decay1", 0.9999), ("ema2", "ema_decay2", 0.9996)] {
        let decay = settings.number(key, decay);
        emas.push(Ema::new(&parts.model, EmaSection { name: name.into(), decay, warmup: EmaWarmup::None })?);
    }
    for step in (1..).take_while(|step| case.has(&format!("in.step{step}.x"))) {
        let pass = parts.pass(case, &format!("in.step{step}."), &device)?;
        let scalars = [
            ("total_loss", Some(&pass.total)),
            ("denoise_loss", Some(&pass.denoising)),
            ("proj_loss", pass.raw.as_ref()),
        ];
        for (name, value) in scalars {
            if let Some(value) = value {
                forward_if_recorded(case, &format!("out.step{step}.{name}"), value, found)?;
            }
        }
        let mut summed = Gradients::default();
        summed.add(&parts.model, pass.total.backward());
        for (name, gradient) in &summed.by_name(&parts.model) {
            let name = format!("grad.step{step}.{name}");
            if case.has(&name) {
                found.gradient(case, &name, &gradient.values)?;
            }
        }
        optimizer.step(&mut parts.model, summed, lr);
        let moved = Moved::new(step, lr);
        moved.compare(case, "param", &state_dict(&parts.model), found)?;
        for ema in &mut emas {
            ema.update(&parts.model, step - 1);
            moved.compare(case, &ema.settings.name, &state_dict(ema.model()), found)?;
        }
    }
    Ok(())
}

/// Rates by fractional epoch, times 10000.
fn learning_rates(case: &Case, found: &mut Comparison) -> Result<()> {
    const STEPS_PER_EPOCH: f64 = 1e6;
    let (config, epochs) = (&case.config, &case.recorded("in.epoch")?.values);
    let (warmup, all) = (config.number("warmup_epochs", 5.0), config.number("epochs", 40.0));
    let lr = config.number("lr", 1e-4);
    for (name, shape) in [("constant", ScheduleShape::Constant), ("cosine", ScheduleShape::Cosine)] {
        let train = TrainSection {
            steps: (all * STEPS_PER_EPOCH) as u64,
            global_batch_size: 1,
            micro_batch_size: 1.into(),
            memory_limit: None,
            activation_checkpointing: false,
            learning_rate: lr,
            base_batch_size: None,
            schedule: ScheduleSection {
                shape,
                warmup_steps: (warmup * STEPS_PER_EPOCH) as u64,
                warmup_from_zero: true,
                decay_from: warmup / all,
                final_fraction: config.number("min_lr", 0.0) / lr,
            },
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
            decayed: Decayed::Matrices,
            max_grad_norm: None,
            ema: vec![],
        };
        let rate = |epoch: &f64| 1e4 * learning_rate(&train, (epoch * STEPS_PER_EPOCH).round() as u64);
        found.values(case, &format!("out.{name}"), &epochs.iter().map(rate).collect::<Vec<_>>())?;
    }
    Ok(())
}
