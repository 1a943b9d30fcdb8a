//! Optimizer steps: loss, gradient norm, parameters and moving averages after each.

use anyhow::{Context, Result};
use burn::tensor::Device;
use realign::ops;
use realign::recipe::{EmaSection, EmaWarmup};
use realign::train::{Ema, Gradients, Optimizer, OptimizerSettings, TrainModel};
use realign::weights::{StateDict, state_dict};
use serde_json::Value;

use super::case::Case;
use super::sit::{RecordedBatch, input_shape, losses, model, total_loss};
use super::verdict::Verdict;

const NOISE_GRADIENT: f64 = 1e-5; // below it an Adam step is decided by rounding; see the sidecar

pub fn compare(case: &Case, device: &Device) -> Result<Verdict> {
    let is_fused = ops::on_libtorch(device);
    let device = device.clone().autodiff();
    let (mut model, spec) = model(case, input_shape(case, "in.step1.x")?, &device)?;
    let (objective, alignment) = losses(case, &spec)?;
    let options = &case.config["optimizer"];
    let number =
        |key: &str| options.get(key).and_then(Value::as_f64).with_context(|| format!("optimizer has no `{key}`"));
    let betas = [0, 1].map(|i| options["betas"][i].as_f64());
    let settings = OptimizerSettings {
        betas: [betas[0].context("no betas")?, betas[1].context("no betas")?],
        eps: number("eps")?,
        weight_decay: number("weight_decay")?,
        max_grad_norm: options.get("max_grad_norm").and_then(Value::as_f64),
    };
    let mut optimizer = Optimizer::new(&model, settings);
    let mut averages = vec![];
    for (key, name) in [("ema_decay", "ema"), ("ema_decay_fast", "ema_fast")] {
        if let Some(decay) = options.get(key).and_then(Value::as_f64) {
            averages.push(Ema::new(&model, EmaSection { name: name.into(), decay, warmup: EmaWarmup::None })?);
        }
    }
    let mut verdict = Verdict::default();
    // Small differences of kernels grow over steps; flex is held to the first, which has all gradients.
    let steps = if is_fused { case.size("steps")? } else { 1 };
    for step in 1..=steps {
        let batch = RecordedBatch::read(case, &format!("in.step{step}."), &device)?;
        let (total, ..) = total_loss(&model, &*objective, &alignment, &batch)?;
        verdict.within(case, &format!("out.step{step}.total_loss"), &[scalar(total.clone())], |_, e| {
            1e-5 + 1e-4 * e.abs()
        })?;
        let mut gradients = Gradients::default();
        gradients.add(&model, total.backward());
        if step == 1 {
            for (name, gradient) in gradients.by_name(&model) {
                verdict.gradient(case, &format!("grad.step1.{name}"), &gradient.values)?;
            }
        }
        let (stepped, norm) = optimizer.step(model, gradients, number("lr")?);
        model = stepped;
        verdict.within(case, &format!("out.step{step}.grad_norm"), &[scalar(norm)], |_, e| 1e-5 + 1e-4 * e.abs())?;
        compare_weights(case, &state_dict(&model), step, "param", number("lr")?, &mut verdict)?;
        for average in &mut averages {
            average.update(&model, step as u64 - 1);
            let name = average.settings.name.clone();
            let weights: &TrainModel = average.model();
            compare_weights(case, &state_dict(weights), step, &name, number("lr")?, &mut verdict)?;
        }
    }
    Ok(verdict)
}

fn compare_weights(
    case: &Case,
    weights: &StateDict,
    step: usize,
    kind: &str,
    lr: f64,
    verdict: &mut Verdict,
) -> Result<()> {
    let (atol, rtol) = (case.tolerance.atol, case.tolerance.rtol);
    for (name, tensor) in weights {
        let recorded = format!("out.step{step}.{kind}.{name}");
        if !case.has(&recorded) {
            continue;
        }
        let gradient = case.values(&format!("grad.step1.{name}")).unwrap_or_default();
        let found: Vec<f64> = tensor.values.iter().map(|value| f64::from(*value)).collect();
        verdict.within(case, &recorded, &found, |i, expected| {
            let is_noise = gradient.get(i).is_some_and(|gradient| gradient.abs() <= NOISE_GRADIENT);
            if is_noise { 1.1 * lr * step as f64 } else { atol + rtol * expected.abs() }
        })?;
    }
    Ok(())
}

fn scalar(tensor: burn::tensor::Tensor<1>) -> f64 {
    f64::from(realign::weights::to_host(tensor)[0])
}
