//! Optimizer steps: clipping, AdamW and moving averages on recorded batches.

use super::case::{Case, Config};
use super::compare::{Comparison, widen};
use super::sit_parts::{Parts, norm};
use anyhow::Result;
use realign::burn::tensor::Device;
use realign::recipe::{Decayed, EmaSection, EmaWarmup};
use realign::train::{Ema, Gradients, Optimizer, OptimizerSettings};
use realign::weights::{StateDict, state_dict, to_host};

/// Below this first gradient an entry's update is rounding noise of Adam's `g / |g|`.
const SMALLEST_GRADIENT: f64 = 1e-5;
/// Largest distance of two such entries, in learning rates per step: both move by at most one.
const NOISE_RATES: f64 = 1.1;

/// Runs as many steps as were recorded; compares losses, norms, gradients, parameters and averages after each.
pub fn train_steps(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = device.clone().autodiff();
    let mut parts = Parts::new(&case.config, case.shape::<4>("in.step1.x")?, case.params("param."), &device)?;
    let optimizer_config = Config(case.config.0["optimizer"].clone());
    let lr = optimizer_config.number("lr", 1e-4);
    let mut optimizer = Optimizer::new(&parts.model, settings(&optimizer_config));
    let mut emas = vec![];
    for (name, key, decay) in [("ema", "ema_decay", 0.9999), ("ema_fast", "ema_decay_fast", 0.9)] {
        let decay = optimizer_config.number(key, decay);
        emas.push(Ema::new(&parts.model, EmaSection { name: name.into(), decay, warmup: EmaWarmup::None })?);
    }
    for step in (1..).take_while(|step| case.has(&format!("in.step{step}.x"))) {
        let pass = parts.pass(case, &format!("in.step{step}."), &device)?;
        if case.has(&format!("out.step{step}.total_loss")) {
            found.forward(case, &format!("out.step{step}.total_loss"), pass.total.clone())?;
        }
        let mut summed = Gradients::default();
        summed.add(&parts.model, pass.total.backward());
        let by_name = summed.by_name(&parts.model);
        for (name, gradient) in &by_name {
            let name = format!("grad.step{step}.{name}");
            if case.has(&name) {
                found.gradient(case, &name, &gradient.values)?;
            }
        }
        let grad_norm = optimizer.step(&mut parts.model, summed, lr);
        grad_norms(case, step, f64::from(to_host(grad_norm)[0]), norm(&by_name), found)?;
        let moved = Moved::new(step, lr);
        moved.compare(case, "param", &state_dict(&parts.model), found)?;
        for ema in &mut emas {
            ema.update(&parts.model, step - 1);
            moved.compare(case, &ema.settings.name, &state_dict(ema.model()), found)?;
        }
    }
    Ok(())
}

fn settings(config: &Config) -> OptimizerSettings {
    let beta = |i: usize, otherwise: f64| config.0["betas"][i].as_f64().unwrap_or(otherwise);
    OptimizerSettings {
        betas: [beta(0, 0.9), beta(1, 0.999)],
        eps: config.number("eps", 1e-8),
        weight_decay: config.number("weight_decay", 0.0),
        decayed: Decayed::All,
        max_grad_norm: Some(config.number("max_grad_norm", 1.0)),
    }
}

/// The optimizer's norm must be the recorded one, and that of the gradients it was given.
fn grad_norms(case: &Case, step: u64, reported: f64, own: f64, found: &mut Comparison) -> Result<()> {
    let name = format!("out.step{step}.grad_norm");
    for value in [reported, own] {
        if case.has(&name) {
            found.values(case, &name, &[value])?;
        }
    }
    Ok(())
}

/// Weights after a step.
pub struct Moved {
    step: u64,
    /// Absolute tolerance of entries whose gradient is rounding noise.
    noise: f64,
}

impl Moved {
    pub fn new(step: u64, lr: f64) -> Self {
        Self { step, noise: NOISE_RATES * lr * step as f64 }
    }

    pub fn compare(&self, case: &Case, kind: &str, weights: &StateDict, found: &mut Comparison) -> Result<()> {
        for (name, tensor) in weights {
            let recorded = format!("out.step{}.{kind}.{name}", self.step);
            if !case.has(&recorded) {
                continue;
            }
            let first = case.recorded(&format!("grad.step1.{name}")).ok();
            let (rtol, atol) = (case.tolerance.rtol, case.tolerance.atol);
            let tolerance = |i: usize| match first {
                Some(gradient) if gradient.values[i].abs() <= SMALLEST_GRADIENT => (rtol, atol.max(self.noise)),
                _ => (rtol, atol),
            };
            found.values_within(case, &recorded, &widen(tensor.values.clone()), tolerance)?;
        }
        Ok(())
    }
}
