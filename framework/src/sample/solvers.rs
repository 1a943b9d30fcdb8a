//! Solvers of the probability-flow ODE and the reverse SDE, from t = 1 (noise) to t = 0 (data), in f64.
//!
//! Source: REPA `samplers.py`. `velocity(x, t, t_step)` gives the guided velocity at `x` and `t`; `t_step` is the time
//! at which the step began, which decides whether guidance acts.

use anyhow::Result;
use burn::tensor::{DType, Tensor};

use crate::plugin::ProbabilityPath;

/// Euler steps over `num_steps` equal parts of [0, 1].
///
/// # Errors
/// The velocity's.
pub fn euler(
    noise: Tensor<4>,
    num_steps: usize,
    mut velocity: impl FnMut(Tensor<4>, f64, f64) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let mut x = noise.cast(DType::F64);
    for i in 0..num_steps {
        let [t, next] = ode_times(i, num_steps);
        x = x.clone() + velocity(x, t, t)? * (next - t);
    }
    Ok(x)
}

/// Heun steps: the mean of the velocities at both ends, on all but the last step.
///
/// # Errors
/// The velocity's.
pub fn heun(
    noise: Tensor<4>,
    num_steps: usize,
    mut velocity: impl FnMut(Tensor<4>, f64, f64) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let mut x = noise.cast(DType::F64);
    for i in 0..num_steps {
        let [t, next] = ode_times(i, num_steps);
        let first = velocity(x.clone(), t, t)?;
        let predicted = x.clone() + first.clone() * (next - t);
        x = if i + 1 < num_steps {
            let second = velocity(predicted, next, t)?;
            x + (first + second) * ((next - t) / 2.0)
        } else {
            predicted
        };
    }
    Ok(x)
}

fn ode_times(step: usize, num_steps: usize) -> [f64; 2] {
    [step, step + 1].map(|k| 1.0 - k as f64 / num_steps as f64)
}

/// Euler–Maruyama steps of the reverse SDE with diffusion `w(t) = 2t`: `num_steps − 1` steps from 1 to
/// `last_step_size`, then one without noise to 0. `step_noise(k)` is the standard normal noise of step `k`.
///
/// # Errors
/// The velocity's.
pub fn euler_maruyama(
    noise: Tensor<4>,
    num_steps: usize,
    last_step_size: f64,
    path: ProbabilityPath,
    step_noise: &dyn Fn(usize) -> Tensor<4>,
    mut velocity: impl FnMut(Tensor<4>, f64, f64) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let mut x = noise.cast(DType::F64);
    let intervals = num_steps.saturating_sub(1).max(1) as f64;
    let time = |k: usize| 1.0 - (1.0 - last_step_size) * k as f64 / intervals;
    let mut drift = |x: Tensor<4>, t: f64| -> Result<Tensor<4>> {
        let v = velocity(x.clone(), t, t)?;
        Ok(v.clone() - score(v, x, t, path) * t) // v − w/2 · score
    };
    for k in 0..num_steps.saturating_sub(1) {
        let (t, next) = (time(k), time(k + 1));
        let kick = step_noise(k).cast(DType::F64) * ((2.0 * t).sqrt() * (t - next).sqrt());
        x = x.clone() + drift(x, t)? * (next - t) + kick;
    }
    let t = if num_steps > 1 { last_step_size } else { 1.0 };
    Ok(x.clone() - drift(x, t)? * t)
}

/// The score that a velocity means: `(ρ v − x) / (σ² − ρ σ' σ)` with `ρ = α/α'`.
///
/// Sampling spec, section 2; finite for `t` in (0, 1].
pub fn score<const D: usize>(velocity: Tensor<D>, x: Tensor<D>, t: f64, path: ProbabilityPath) -> Tensor<D> {
    let p = path.at(t);
    let rho = p.alpha / p.d_alpha;
    let variance = p.sigma * p.sigma - rho * p.d_sigma * p.sigma;
    (velocity * rho - x) / variance
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    fn noise() -> Tensor<4> {
        Tensor::random([2, 3, 5, 7], Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    fn distance(a: Tensor<4>, b: Tensor<4>) -> f64 {
        let difference = a.cast(DType::F32) - b.cast(DType::F32);
        f64::from(difference.abs().max().into_scalar::<f32>())
    }

    #[test]
    fn the_velocity_of_a_single_point_leads_to_it() {
        let point = noise();
        let toward = |x: Tensor<4>, t: f64, _: f64| Ok((x - point.clone().cast(DType::F64)) / t);
        for num_steps in [1, 2, 7] {
            assert!(distance(euler(noise(), num_steps, toward).unwrap(), point.clone()) < 1e-5);
            assert!(distance(heun(noise(), num_steps, toward).unwrap(), point.clone()) < 1e-5);
        }
    }

    #[test]
    fn no_velocity_moves_nothing() {
        let start = noise();
        let still = |x: Tensor<4>, _: f64, _: f64| Ok(x.zeros_like());
        assert_eq!(distance(euler(start.clone(), 5, still).unwrap(), start), 0.0);
    }

    #[test]
    fn the_sde_asks_the_network_once_per_step_and_ends_at_its_last_time() {
        let mut times = vec![];
        let record = |x: Tensor<4>, t: f64, _: f64| {
            times.push(t);
            Ok(x.zeros_like())
        };
        let zero = |_: usize| noise().zeros_like();
        euler_maruyama(noise(), 250, 0.04, ProbabilityPath::Linear, &zero, record).unwrap();
        assert_eq!(times.len(), 250);
        assert!((times[1] - (1.0 - 0.96 / 249.0)).abs() < 1e-12 && (times[249] - 0.04).abs() < 1e-12);
    }

    #[test]
    fn the_linear_score_has_its_closed_form() {
        let (x, v, t) = (noise(), noise(), 0.37);
        let closed = (x.clone() + v.clone() * (1.0 - t)) / -t;
        assert!(distance(score(v, x, t, ProbabilityPath::Linear), closed) < 1e-5);
    }
}
