//! Samplers on an analytic velocity and on a tiny SiT.

use super::case::{Case, Config};
use super::compare::Comparison;
use super::sit_parts::{Parts, objective};
use anyhow::{Context, Result, bail};
use realign::burn;
use realign::burn::module::Module;
use realign::burn::tensor::{Device, Tensor};
use realign::plugin::{
    Backbone, BackboneInput, BackboneOutput, Condition, Guidance, ProbabilityPath, SampleRequest, SamplerConfig,
};
use realign::sample::score_from_velocity;
use serde_json::{Value, json};

/// The reference's null label, whatever the number of classes.
const NULL_LABEL: i64 = 1000;

/// `a x + b t + c y/1000 + d sin(x) t`, element by element.
#[derive(Module, Debug)]
struct Analytic {
    a: f64,
    b: f64,
    c: f64,
    d: f64,
}

impl Backbone for Analytic {
    fn forward(&self, input: BackboneInput<'_>) -> BackboneOutput {
        let batch = input.x.dims()[0];
        let t = input.times.t.reshape([batch, 1, 1, 1]);
        let y = match input.condition {
            Condition::Labels(labels) => labels.float().reshape([batch, 1, 1, 1]) / 1000.0,
            Condition::Text(_) => t.zeros_like(),
        };
        let wave = input.x.clone().sin() * t.clone() * self.d;
        let prediction = input.x * self.a + t * self.b + y * self.c + wave;
        BackboneOutput { prediction, taps: vec![] }
    }
}

/// Every run of the sidecar, and the recorded scores.
pub fn samplers(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let coefficients = &case.config.0["coefficients"];
    if coefficients.is_null() {
        let shape = case.shape::<4>("in.z")?;
        let parts = Parts::new(&case.config, shape, case.params("param."), device)?;
        runs(case, device, &*parts.model.backbone, found)?;
    } else {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|key| coefficients[key].as_f64().unwrap_or(0.0));
        runs(case, device, &Analytic { a, b, c, d }, found)?;
    }
    for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
        if case.has(&format!("out.score.{}", path.name())) {
            scores(case, device, path, found)?;
        }
    }
    Ok(())
}

fn runs(case: &Case, device: &Device, backbone: &dyn Backbone, found: &mut Comparison) -> Result<()> {
    let runs = case.config.0["runs"].as_object().context("config.runs is missing")?;
    for (name, settings) in runs {
        let run = Config(settings.clone());
        let noise: Tensor<4> = case.tensor("in.z", device)?;
        let labels = case.integers("in.y")?;
        // The number of recorded draws is that of the longest run's noisy steps.
        let draws: Vec<Tensor<4>> = (0..).map_while(|k| case.tensor(&format!("in.eps.{k}"), device).ok()).collect();
        let request = SampleRequest {
            backbone,
            objective: &*objective(&run)?,
            condition: Condition::labels(&labels, device),
            null: Condition::labels(&vec![NULL_LABEL; labels.len()], device),
            guidance: Guidance {
                scale: run.number("cfg_scale", 1.0),
                low: run.number("guidance_low", 0.0),
                high: run.number("guidance_high", 1.0),
            },
            step_noise: &|k| draws[k].clone(),
            noise,
        };
        let samples = sampler(&run).with_context(|| name.clone())?.build().sample(request)?;
        found.forward(case, &format!("out.{name}"), samples)?;
    }
    Ok(())
}

fn sampler(run: &Config) -> Result<Box<dyn SamplerConfig>> {
    let num_steps = run.size("num_steps")?;
    let settings: Value = match run.word("kind", "ode") {
        "ode" => {
            json!({ "type": "ode", "num_steps": num_steps, "method": if run.flag("heun") { "heun" } else { "euler" } })
        }
        "sde" => json!({ "type": "sde", "num_steps": num_steps, "last_step_size": run.number("last_step_size", 0.04) }),
        other => bail!("kind `{other}` is unknown"),
    };
    Ok(serde_json::from_value(settings)?)
}

/// The score of each recorded velocity at its sample's own time.
fn scores(case: &Case, device: &Device, path: ProbabilityPath, found: &mut Comparison) -> Result<()> {
    let (x, velocity): (Tensor<4>, Tensor<4>) = (case.tensor("in.z", device)?, case.tensor("in.score.v", device)?);
    let times = &case.recorded("in.score.t")?.values;
    let at = |(i, t): (usize, &f64)| {
        score_from_velocity(path, velocity.clone().narrow(0, i, 1), x.clone().narrow(0, i, 1), *t)
    };
    let scores = times.iter().enumerate().map(at).collect();
    found.forward(case, &format!("out.score.{}", path.name()), Tensor::cat(scores, 0))
}
