//! Networks as guided velocities.

use anyhow::{Result, bail};
use burn::tensor::{DType, Tensor};

use crate::plugin::{BackboneInput, SampleRequest, Times};
use crate::weights::to_host;

/// Gives `solver` the request's initial noise and its guided velocity, and returns samples in f32.
///
/// The network is fed in f32 and its output promoted. With guidance both conditions go through it as one batch;
/// outside the interval only the wanted one does.
///
/// # Errors
/// The solver's, or values that are not finite.
pub fn solve(
    request: &SampleRequest<'_>,
    solver: impl FnOnce(Tensor<4>, &mut dyn FnMut(Tensor<4>, f64, f64) -> Result<Tensor<4>>) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let mut velocity = |x: Tensor<4>, t: f64, t_step: f64| Ok(guided(request, x, t, t_step));
    let samples = solver(request.noise.clone(), &mut velocity)?.cast(DType::F32);
    let sum = to_host(samples.clone().abs().sum());
    if sum.iter().any(|sum| !sum.is_finite()) {
        bail!("the network's samples are not finite; train longer or with a lower learning rate");
    }
    Ok(samples)
}

fn guided(request: &SampleRequest<'_>, x: Tensor<4>, t: f64, t_step: f64) -> Tensor<4> {
    let guidance = request.guidance;
    let is_guided = guidance.scale > 1.0 && (guidance.low..=guidance.high).contains(&t_step);
    let condition = request.condition.clone();
    if !is_guided {
        return evaluate(request, x, condition, t);
    }
    let count = x.dims()[0];
    let both = evaluate(request, Tensor::cat(vec![x.clone(), x], 0), condition.concat(request.null.clone()), t);
    let (wanted, null) = (both.clone().narrow(0, 0, count), both.narrow(0, count, count));
    null.clone() + (wanted - null) * guidance.scale
}

fn evaluate(request: &SampleRequest<'_>, x: Tensor<4>, condition: crate::plugin::Condition, t: f64) -> Tensor<4> {
    let input = x.cast(DType::F32);
    let times = Times::at(Tensor::full([input.dims()[0]], t, &input.device()));
    let output = request.backbone.forward(BackboneInput { x: input.clone(), times, condition, taps: &[] });
    request.objective.velocity(output.prediction, input, t).cast(DType::F64)
}
