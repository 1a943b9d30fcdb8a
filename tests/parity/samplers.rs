//! ODE and SDE samplers on an analytic velocity and on a small SiT.

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use realign::plugin::{
    Backbone, BackboneInput, BackboneOutput, Condition, Guidance, ObjectiveConfig, ProbabilityPath, SampleRequest,
    SamplerConfig,
};
use realign::sample::score_from_velocity;
use serde_json::{Value, json};

use super::case::Case;
use super::sit::{input_shape, model, plugin};
use super::verdict::Verdict;

const NULL_LABEL: i64 = 1000; // hard-coded in the reference

pub fn network(case: &Case, device: &Device) -> Result<Verdict> {
    let (model, _) = model(case, input_shape(case, "in.z")?, device)?;
    let mut verdict = Verdict::default();
    runs(case, &*model.backbone, device, &mut verdict)?;
    Ok(verdict)
}

pub fn analytic(case: &Case, device: &Device) -> Result<Verdict> {
    let coefficient = |key: &str| case.config["coefficients"][key].as_f64().unwrap_or(0.0);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(coefficient);
    let mut verdict = Verdict::default();
    runs(case, &Analytic { a, b, c, d }, device, &mut verdict)?;
    for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
        let name = format!("out.score.{}", path.name());
        if !case.has(&name) {
            continue;
        }
        // Times differ by sample; the solvers' score takes one.
        let input = if case.has("in.score.x") { "in.score.x" } else { "in.z" };
        let (x, v) = (case.tensor::<4>(input, device)?, case.tensor::<4>("in.score.v", device)?);
        let scores = case
            .values("in.score.t")?
            .iter()
            .enumerate()
            .map(|(i, t)| score_from_velocity(path, v.clone().narrow(0, i, 1), x.clone().narrow(0, i, 1), *t));
        verdict.output(case, &name, Tensor::cat(scores.collect(), 0))?;
    }
    Ok(verdict)
}

fn runs(case: &Case, backbone: &dyn Backbone, device: &Device, verdict: &mut Verdict) -> Result<()> {
    let runs = case.config["runs"].as_object().context("config has no `runs`")?;
    for (name, run) in runs {
        let number = |key: &str, default: f64| run.get(key).and_then(Value::as_f64).unwrap_or(default);
        let path = run.get("path_type").and_then(Value::as_str).unwrap_or("linear");
        let objective: Box<dyn ObjectiveConfig> = plugin(json!({"type": "flow_matching", "path": path}))?;
        let is_heun = run.get("heun").and_then(Value::as_bool).unwrap_or(false);
        let sampler: Box<dyn SamplerConfig> = plugin(match run["kind"].as_str() {
            Some("sde") => json!({"type": "sde", "num_steps": run["num_steps"]}),
            _ => {
                json!({"type": "ode", "num_steps": run["num_steps"], "method": if is_heun { "heun" } else { "euler" }})
            }
        })?;
        let labels = case.labels("in.y")?;
        let noise = case.tensor::<4>("in.z", device)?;
        let step_noise =
            |k: usize| case.tensor(&format!("in.eps.{k}"), device).unwrap_or_else(|_| noise.clone() * f32::NAN);
        let request = SampleRequest {
            backbone,
            objective: &*objective.build(),
            noise: noise.clone(),
            condition: Condition::labels(&labels, device),
            null: Condition::labels(&vec![NULL_LABEL; labels.len()], device),
            guidance: Guidance {
                scale: number("cfg_scale", 1.0),
                low: number("guidance_low", 0.0),
                high: number("guidance_high", 1.0),
            },
            step_noise: &step_noise,
        };
        verdict.output(case, &format!("out.{name}"), sampler.build().sample(request)?)?;
    }
    Ok(())
}

/// `v = a x + b t + c y/1000 + d sin(x) t`.
#[derive(Module, Debug)]
struct Analytic {
    a: f64,
    b: f64,
    c: f64,
    d: f64,
}

impl Backbone for Analytic {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        let count = input.x.dims()[0];
        let t = input.times.t.reshape([count, 1, 1, 1]);
        let y = match input.condition {
            Condition::Labels(labels) => labels.float().reshape([count, 1, 1, 1]) / NULL_LABEL as f64,
            Condition::Text(_) => t.zeros_like(),
        };
        let curved = input.x.clone().sin() * t.clone() * self.d;
        BackboneOutput { prediction: input.x * self.a + t * self.b + y * self.c + curved, taps: vec![] }
    }
}
