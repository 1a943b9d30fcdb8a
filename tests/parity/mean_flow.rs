//! MeanFlow: loss, derivative and gradients on SiT, adaptive weights, samplers.

use super::case::{Case, Config};
use super::compare::{Comparison, widen};
use super::sit_parts::Parts;
use anyhow::{Context, Result};
use realign::burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use realign::plugin::{Condition, Draws, Guidance, ObjectiveInput, SampleRequest, SamplerConfig};
use realign::train::Gradients;
use realign::weights::to_host;
use realign_plugins::objectives::mean_flow::{
    Dropped, Instants, MeanFlowConfig, MeanFlowTime, TrainedGuidance, Weighting,
};
use serde_json::json;

/// The kind of a MeanFlow case shows in what it recorded.
pub fn mean_flow(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    if case.has("in.m") {
        weights(case, device, found)
    } else if case.has("in.z") {
        samplers(case, device, found)
    } else {
        loss(case, device, found)
    }
}

fn objective(config: &Config) -> MeanFlowConfig {
    let settings = Config(config.0["loss"].clone());
    MeanFlowConfig {
        time: match settings.word("time_sampler", "logit_normal") {
            "uniform" => MeanFlowTime::Uniform,
            _ => MeanFlowTime::LogitNormal,
        },
        time_mean: settings.number("time_mu", -0.4),
        time_deviation: settings.number("time_sigma", 1.0),
        instant_share: 1.0 - settings.number("ratio_r_not_equal_t", 0.75),
        instants: Instants::Drawn,
        weighting: match settings.word("weighting", "uniform") {
            "adaptive" => Weighting::SquaredError,
            _ => Weighting::Uniform,
        },
        weight_power: settings.number("adaptive_p", 1.0),
        guidance: TrainedGuidance {
            omega: settings.number("cfg_omega", 1.0),
            kappa: settings.number("cfg_kappa", 0.0),
            low: settings.number("cfg_min_t", 0.0),
            high: settings.number("cfg_max_t", 1.0),
        },
        label_dropout: settings.number("label_dropout_prob", 0.0),
        dropped: Dropped::Any,
        ..Default::default()
    }
}

fn loss(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = device.clone().autodiff();
    let objective = objective(&case.config);
    let parts = Parts::new(&case.config, case.shape::<4>("in.x")?, case.params("param."), &device)?;
    let draws = match objective.time {
        MeanFlowTime::LogitNormal => "in.time_normal",
        MeanFlowTime::Uniform => "in.time_uniform",
    };
    let times: Vec<f32> = case.recorded(draws)?.values.iter().map(|draw| objective.time(*draw as f32)).collect();
    let (mut starts, mut ends) = (vec![], vec![]);
    for (pair, equal) in times.chunks_exact(2).zip(&case.recorded("in.equal_uniform")?.values) {
        let (r, t) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        starts.push(if *equal < objective.instant_share { t } else { r });
        ends.push(t);
    }
    let batch = ends.len();
    let is_instant = |i: usize| starts[i] == ends[i];
    found.values(case, "out.r", &widen(starts.clone()))?;
    found.values(case, "out.t", &widen(ends.clone()))?;
    let labels = case.integers("in.y")?;
    let dropped: Vec<bool> = match case.recorded("in.drop_uniform") {
        Ok(draws) => draws.values.iter().map(|draw| *draw < objective.label_dropout).collect(),
        Err(_) => vec![false; batch],
    };
    let null = parts.num_classes as i64;
    let after: Vec<f64> =
        labels.iter().zip(&dropped).map(|(label, drop)| if *drop { null } else { *label } as f64).collect();
    found.values(case, "out.y", &after)?;

    // The objective wants samples with r = t first; results go back to the recorded order.
    let mut order: Vec<usize> = (0..batch).collect();
    order.sort_by_key(|i| !is_instant(*i));
    let num_instants = (0..batch).filter(|i| is_instant(*i)).count();
    let place = |tensor: Tensor<4>, order: &[usize]| {
        let at: Vec<i64> = order.iter().map(|i| *i as i64).collect();
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [order.len()]), &tensor.device());
        tensor.select(0, at)
    };
    let mut back = vec![0; batch];
    for (to, from) in order.iter().enumerate() {
        back[*from] = to;
    }
    let pick = |list: &[f32]| order.iter().map(|i| list[*i]).collect::<Vec<_>>();
    let vector = |list: Vec<f32>| Tensor::<1>::from_data(TensorData::new(list.clone(), [list.len()]), &device);
    let ordered_labels: Vec<i64> = order.iter().map(|i| labels[*i]).collect();
    let drop: Vec<bool> = order.iter().map(|i| dropped[*i]).collect();
    let (x, noise): (Tensor<4>, Tensor<4>) = (case.tensor("in.x", &device)?, case.tensor("in.noise", &device)?);
    let t = vector(ends.clone()).reshape([batch, 1, 1, 1]);
    found.forward(case, "out.z_t", x.clone() * (t.clone().neg() + 1.0) + noise.clone() * t)?;
    let input = || ObjectiveInput {
        x0: place(x.clone(), &order),
        condition: Condition::labels(&ordered_labels, &device),
        null: Condition::labels(&vec![null; batch], &device),
        draws: Draws {
            noise: place(noise.clone(), &order),
            t: vector(pick(&ends)),
            r: (num_instants < batch).then(|| vector(pick(&starts)[num_instants..].to_vec())),
            drop: Some(Tensor::<1, Bool>::from_data(TensorData::new(drop.clone(), [batch]), &device)),
        },
        taps: &[],
    };
    let terms = objective.terms(&*parts.model.backbone, input())?;
    let is_guided = to_host(terms.is_guided.clone().float());
    found.values(case, "out.cfg_mask", &back.iter().map(|at| f64::from(is_guided[*at])).collect::<Vec<_>>())?;
    let recorded = |tensor: Tensor<4>| place(tensor, &back);
    found.forward(case, "out.v", recorded(terms.v.clone()))?;
    found.forward(case, "out.v_tilde", recorded(terms.guided.clone()))?;
    found.forward(case, "out.u", recorded(terms.u.clone().inner()))?;
    found.forward(case, "out.target", recorded(terms.target.clone()))?;
    derivatives(case, terms.derivative.clone(), &order[num_instants..], found)?;
    let error = recorded(terms.u.clone() - Tensor::from_inner(terms.target)).square();
    found.forward(case, "out.loss_mean_ref", error.clone().mean())?;
    let error = error.flatten::<2>(1, 3).sum_dim(1).squeeze_dim::<1>(1);
    found.forward(case, "out.sq_err_sum", error.clone())?;
    found.forward(case, "out.loss", objective.weighted(error))?;

    use realign::plugin::Objective;
    let output = objective.loss(&*parts.model.backbone, input())?;
    found.forward(case, "out.total_loss", output.loss.clone())?;
    let mut summed = Gradients::default();
    summed.add(&parts.model, output.loss.backward());
    for (name, gradient) in summed.by_name(&parts.model) {
        found.gradient(case, &format!("grad.{name}"), &gradient.values)?;
    }
    Ok(())
}

/// du/dt was recorded for all samples; the objective takes it where it counts, and there it is compared.
fn derivatives(case: &Case, derivative: Option<Tensor<4>>, samples: &[usize], found: &mut Comparison) -> Result<()> {
    let mut values = case.recorded("out.dudt")?.values.clone();
    let own = derivative.map_or(vec![], |derivative| widen(to_host(derivative)));
    let size = values.len() / case.shape::<4>("out.dudt")?[0];
    for (own, sample) in own.chunks_exact(size).zip(samples) {
        values[sample * size..(sample + 1) * size].copy_from_slice(own);
    }
    found.values(case, "out.dudt", &values)
}

fn weights(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let device = device.clone().autodiff();
    for (author, weighting) in [("zhuyu", Weighting::SquaredError), ("jax", Weighting::Error)] {
        for power in case.names(&format!("out.{author}.p")) {
            let eps = (weighting == Weighting::Error).then(|| case.config.number("norm_eps_jax", 0.01));
            let config =
                MeanFlowConfig { weighting, weight_power: power.parse()?, weight_eps: eps, ..Default::default() };
            let error: Tensor<1> = case.tensor("in.m", &device)?.require_grad();
            let loss = config.weighted(error.clone());
            found.forward(case, &format!("out.{author}.p{power}"), loss.clone())?;
            let gradient = error.grad(&loss.sum().backward()).context("no gradient")?;
            found.gradient(case, &format!("grad.{author}.p{power}"), &to_host(gradient))?;
        }
    }
    Ok(())
}

fn samplers(case: &Case, device: &Device, found: &mut Comparison) -> Result<()> {
    let noise: Tensor<4> = case.tensor("in.z", device)?;
    let parts = Parts::new(&case.config, noise.dims(), case.params("param."), device)?;
    let labels = case.integers("in.y")?;
    for (name, settings) in case.config.0["runs"].as_object().context("config.runs is missing")? {
        let run = Config(settings.clone());
        let sampler: Box<dyn SamplerConfig> =
            serde_json::from_value(json!({ "type": "mean_flow", "num_steps": run.size("num_steps")? }))?;
        let samples = sampler.build().sample(SampleRequest {
            backbone: &*parts.model.backbone,
            objective: &MeanFlowConfig::default(),
            noise: noise.clone(),
            condition: Condition::labels(&labels, device),
            null: Condition::labels(&vec![parts.num_classes as i64; labels.len()], device),
            guidance: Guidance { scale: run.number("cfg_scale", 1.0), low: 0.0, high: 1.0 },
            step_noise: &|_| unreachable!("nothing is drawn"),
        })?;
        found.forward(case, &format!("out.{name}"), samples)?;
    }
    Ok(())
}
