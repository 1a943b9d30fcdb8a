//! Solvers as functions of a velocity. t = 0 is data, t = 1 is noise; all arithmetic is in f64.
//!
//! A velocity is a closure `(x, t, t_cur)`: state, time of the evaluation, start of the step it belongs to.
//! Source: REPA and iREPA `samplers.py`.

use anyhow::{Result, ensure};
use burn::tensor::{DType, Tensor};

use crate::plugin::ProbabilityPath;

/// Euler's method over `num_steps` equal steps from t = 1 to 0; as many evaluations.
///
/// # Shapes
/// * `noise`, result: `[batch, channels, height, width]`, the result in f64
///
/// # Errors
/// Those of `velocity`.
pub fn ode_euler(
    noise: Tensor<4>,
    num_steps: usize,
    mut velocity: impl FnMut(Tensor<4>, f64, f64) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let mut x = noise.cast(DType::F64);
    for step in linspace(1.0, 0.0, num_steps + 1).windows(2) {
        let &[t, t_next] = step else { continue };
        x = x.clone() + velocity(x, t, t)? * (t_next - t);
    }
    Ok(x)
}

/// Heun's method, the last step Euler's: `2 · num_steps − 1` evaluations.
///
/// # Shapes
/// * `noise`, result: `[batch, channels, height, width]`, the result in f64
///
/// # Errors
/// Those of `velocity`.
pub fn ode_heun(
    noise: Tensor<4>,
    num_steps: usize,
    mut velocity: impl FnMut(Tensor<4>, f64, f64) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let mut x = noise.cast(DType::F64);
    for (i, step) in linspace(1.0, 0.0, num_steps + 1).windows(2).enumerate() {
        let &[t, t_next] = step else { continue };
        let slope = velocity(x.clone(), t, t)?;
        let euler = x.clone() + slope.clone() * (t_next - t);
        x = if i + 1 < num_steps { x + (slope + velocity(euler, t_next, t)?) * (0.5 * (t_next - t)) } else { euler };
    }
    Ok(x)
}

/// Euler–Maruyama on the reverse SDE with diffusion `w(t) = 2t`: `num_steps` evaluations from t = 1 to
/// `last_step_size`, then one step to 0 without noise, whose drift still holds the score.
///
/// `step_noise(k)` is standard normal noise for step `k`, below `num_steps − 1`. `velocity` may be a guided one:
/// the drift is affine in it, so guiding the velocity is guiding the drift.
///
/// # Shapes
/// * `noise`, `step_noise`, result: `[batch, channels, height, width]`, the result in f64
///
/// # Errors
/// Those of `velocity`.
pub fn sde_euler_maruyama(
    noise: Tensor<4>,
    path: ProbabilityPath,
    num_steps: usize,
    last_step_size: f64,
    step_noise: impl Fn(usize) -> Tensor<4>,
    mut velocity: impl FnMut(Tensor<4>, f64, f64) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let mut drift = |x: &Tensor<4>, t: f64| -> Result<Tensor<4>> {
        let velocity = velocity(x.clone(), t, t)?;
        let score = score_from_velocity(path, velocity.clone(), x.clone(), t);
        Ok(velocity - score * (0.5 * diffusion(t)))
    };
    let mut x = noise.cast(DType::F64);
    let times = linspace(1.0, last_step_size, num_steps);
    for (i, step) in times.windows(2).enumerate() {
        let &[t, t_next] = step else { continue };
        let kick = step_noise(i).cast(DType::F64) * (diffusion(t).sqrt() * (t - t_next).sqrt());
        x = x.clone() + drift(&x, t)? * (t_next - t) + kick;
    }
    match times.last() {
        Some(&t) => Ok(x.clone() - drift(&x, t)? * t),
        None => Ok(x),
    }
}

fn diffusion(t: f64) -> f64 {
    2.0 * t
}

/// The score of the distribution at time `t` in (0, 1], from its velocity: `(ρ v − x) / (σ² − ρ σ' σ)`, `ρ = α/α'`.
///
/// # Shapes
/// * `velocity`, `x`, result: `[batch, channels, height, width]`
pub fn score_from_velocity(path: ProbabilityPath, velocity: Tensor<4>, x: Tensor<4>, t: f64) -> Tensor<4> {
    let point = path.at(t);
    let ratio = point.alpha / point.d_alpha;
    let variance = point.sigma * point.sigma - ratio * point.d_sigma * point.sigma;
    (velocity * ratio - x) / variance
}

/// The result in f32, after the one look at the values: `what` names sampler and steps.
///
/// # Errors
/// A value is not finite.
pub fn finish(x: Tensor<4>, what: &str) -> Result<Tensor<4>> {
    let x = x.cast(DType::F32);
    ensure!(
        x.clone().is_finite().all().into_scalar::<bool>(),
        "sampler {what}: the samples hold values that are not finite; the network diverged in training or the \
         guidance scale is too large (take an earlier checkpoint or a smaller sample.cfg_scale)"
    );
    Ok(x)
}

/// `count` values from `first` to `last`, each half counted from its own end as PyTorch does: guidance intervals
/// include their ends, so that the last bit of a time can matter.
fn linspace(first: f64, last: f64, count: usize) -> Vec<f64> {
    if count == 1 {
        return vec![first];
    }
    let step = (last - first) / (count.max(1) - 1) as f64;
    let value = |i: usize| if i < count / 2 { first + step * i as f64 } else { last - step * (count - 1 - i) as f64 };
    (0..count).map(value).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn state(values: [f64; 3]) -> Tensor<4> {
        let data = TensorData::new(values.to_vec(), [3, 1, 1, 1]);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    fn values(x: Tensor<4>) -> Vec<f64> {
        x.into_data().try_to_vec().unwrap()
    }

    fn assert_close(found: Tensor<4>, expected: [f64; 3], tolerance: f64) {
        for (found, expected) in values(found).iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}");
        }
    }

    #[test]
    fn without_velocity_the_ode_changes_nothing() {
        let start = [0.3, -1.7, 2.2];
        assert_close(ode_euler(state(start), 7, |x, _, _| Ok(x.zeros_like())).unwrap(), start, 0.0);
        assert_close(ode_heun(state(start), 7, |x, _, _| Ok(x.zeros_like())).unwrap(), start, 0.0);
    }

    #[test]
    fn the_velocity_of_a_single_point_leads_there() {
        let point = [0.4, -0.9, 0.1];
        let towards = |x: Tensor<4>, t: f64, _: f64| Ok((x - state(point)) / t);
        assert_close(ode_euler(state([1.0, 2.0, -3.0]), 11, towards).unwrap(), point, 1e-14);
        assert_close(ode_heun(state([1.0, 2.0, -3.0]), 11, towards).unwrap(), point, 1e-14);
    }

    #[test]
    fn heun_is_of_second_order_and_euler_of_first() {
        // x' = x from t = 1 to 0 divides by e.
        let error = |x: Tensor<4>| (values(x)[0] - (-1.0_f64).exp()).abs();
        let one = || state([1.0, 1.0, 1.0]);
        let euler = |n| error(ode_euler(one(), n, |x, _, _| Ok(x)).unwrap());
        let heun = |n| error(ode_heun(one(), n, |x, _, _| Ok(x)).unwrap());
        assert!((euler(40) / euler(80) - 2.0).abs() < 0.1);
        assert!((heun(40) / heun(80) - 4.0).abs() < 0.5, "{}", heun(40) / heun(80));
    }

    #[test]
    fn the_second_evaluation_of_heun_belongs_to_the_step_it_ends() {
        let mut calls = vec![];
        ode_heun(state([0.0; 3]), 4, |x, t, t_cur| {
            calls.push((t, t_cur));
            Ok(x)
        })
        .unwrap();
        assert_eq!(calls, [(1.0, 1.0), (0.75, 1.0), (0.75, 0.75), (0.5, 0.75), (0.5, 0.5), (0.25, 0.5), (0.25, 0.25)]);
    }

    #[test]
    fn the_sde_evaluates_on_its_grid_and_draws_between() {
        let (mut times, draws) = (vec![], std::cell::RefCell::new(vec![]));
        let noise = |k| {
            draws.borrow_mut().push(k);
            state([0.0; 3])
        };
        let velocity = |x: Tensor<4>, t: f64, _: f64| {
            times.push(t);
            Ok(x)
        };
        sde_euler_maruyama(state([0.0; 3]), ProbabilityPath::Linear, 250, 0.04, noise, velocity).unwrap();
        assert_eq!((times.len(), times[0], times[249]), (250, 1.0, 0.04));
        assert!((times[1] - (1.0 - 0.96 / 249.0)).abs() < 1e-15);
        assert_eq!(draws.into_inner(), (0..249).collect::<Vec<_>>());
    }

    #[test]
    fn on_the_linear_path_the_drift_is_the_closed_form() {
        // One step from 1 to 0.04 with its kick, then the last one: d = (2 − t) v + x.
        let (start, kick) = ([0.3, -1.1, 2.0], [0.5, -0.2, 1.0]);
        let velocity = |x: Tensor<4>, t: f64, _: f64| Ok(x * 0.7 - 0.4 * t);
        let found =
            sde_euler_maruyama(state(start), ProbabilityPath::Linear, 2, 0.04, |_| state(kick), velocity).unwrap();
        let drift = |x: f64, t: f64| (2.0 - t) * (0.7 * x - 0.4 * t) + x;
        let expected = std::array::from_fn(|i| {
            let x = start[i] - 0.96 * drift(start[i], 1.0) + (2.0_f64 * 0.96).sqrt() * kick[i];
            x - 0.04 * drift(x, 0.04)
        });
        assert_close(found, expected, 1e-13);
    }

    #[test]
    fn the_score_of_gaussian_data_is_that_of_its_marginal() {
        // Data of deviation s: x_t has variance a² s² + σ², its velocity is linear in x, its score −x over the variance.
        let (s, x) = (0.6, [0.5, -1.3, 2.1]);
        for path in [ProbabilityPath::Linear, ProbabilityPath::Cosine] {
            for t in [0.04, 0.37, 0.93] {
                let p = path.at(t);
                let variance = (p.alpha * s).powi(2) + p.sigma.powi(2);
                let slope = (p.alpha * p.d_alpha * s * s + p.sigma * p.d_sigma) / variance;
                let score = score_from_velocity(path, state(x) * slope, state(x), t);
                assert_close(score, x.map(|x| -x / variance), 1e-11);
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_are_an_error_that_names_the_sampler() {
        for bad in [f64::NAN, f64::INFINITY, 1e300] {
            let message = finish(state([0.0, bad, 1.0]), "`ode` (euler, 5 steps)").unwrap_err().to_string();
            assert!(message.contains("`ode` (euler, 5 steps)"), "{message}");
        }
        assert_eq!(finish(state([0.0; 3]), "`ode`").unwrap().dtype(), DType::F32);
    }

    #[test]
    fn libtorch_and_flex_agree_to_the_last_bits_of_f64() {
        let device = crate::ops::open(crate::ops::DeviceChoice::Auto).unwrap();
        let start = [0.3, -1.1, 2.0];
        let velocity = |x: Tensor<4>, t: f64, _: f64| Ok(x.clone().sin() * t + x * 0.7);
        let here = ode_heun(state(start), 9, velocity).unwrap();
        let data = TensorData::new(start.to_vec(), [3, 1, 1, 1]);
        let there = ode_heun(Tensor::from_data(data, (&device, DType::F64)), 9, velocity).unwrap();
        let here: [f64; 3] = std::array::from_fn(|i| values(here.clone())[i]);
        assert_close(there, here, 1e-13);
    }
}
