//! Whole-model updates against their formulas in f64.
#![cfg(test)]

use burn::tensor::{Device, Tensor, TensorData};

use super::gradient_check::{assert_close, devices};
use super::{AdamWState, AdamWStep, adamw, global_norm, lerp, sums};
use crate::streams::Streams;
use crate::weights::to_host;

/// Values of several tensors, drawn anew at every step.
fn draw(name: &str, sizes: &[usize]) -> Vec<Vec<f32>> {
    let draw = |(i, size): (usize, &usize)| Streams::new(3).normal(&format!("{name} {i}"), *size);
    sizes.iter().enumerate().map(draw).collect()
}

fn tensors(values: &[Vec<f32>], device: &Device) -> Vec<Tensor<1>> {
    let tensor = |list: &Vec<f32>| Tensor::from_data(TensorData::new(list.clone(), [list.len()]), device);
    values.iter().map(tensor).collect()
}

/// One scalar AdamW update in f64, as PyTorch's documentation writes it.
fn reference_update([param, first, second]: &mut [f64; 3], gradient: f64, s: AdamWStep) {
    let power = i32::try_from(s.step).unwrap();
    *param -= s.lr * s.weight_decay * *param;
    *first = s.betas[0] * *first + (1.0 - s.betas[0]) * gradient;
    *second = s.betas[1] * *second + (1.0 - s.betas[1]) * gradient * gradient;
    let (m, v) = (*first / (1.0 - s.betas[0].powi(power)), *second / (1.0 - s.betas[1].powi(power)));
    *param -= s.lr * m / (v.sqrt() + s.eps);
}

#[test]
fn five_adamw_steps_follow_the_published_formula() {
    let sizes = [1, 7, 131];
    for device in devices() {
        for clip in [None, Some(2.5)] {
            let start = draw("param", &sizes);
            let mut params = tensors(&start, &device);
            let zeros = || params.iter().map(Tensor::zeros_like).collect();
            let mut state = AdamWState { first: zeros(), second: zeros() };
            let mut expected: Vec<[f64; 3]> = start.iter().flatten().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
            for step in 1..=5 {
                let settings = AdamWStep { step, lr: 3e-2, betas: [0.9, 0.95], eps: 1e-6, weight_decay: 0.1 };
                let values = draw(&format!("gradient {step}"), &sizes);
                let divisor = clip.map(|clip| Tensor::from_floats([clip as f32], &device));
                let is_in_place = adamw(&mut params, tensors(&values, &device), &mut state, settings, divisor);
                assert_eq!(is_in_place, super::on_libtorch(&device));
                for (entry, gradient) in expected.iter_mut().zip(values.iter().flatten()) {
                    reference_update(entry, f64::from(*gradient) / clip.unwrap_or(1.0), settings);
                }
            }
            for (kind, list) in [&params, &state.first, &state.second].into_iter().enumerate() {
                let found: Vec<f32> = list.iter().flat_map(|tensor| to_host(tensor.clone())).collect();
                let wanted: Vec<f32> = expected.iter().map(|entry| entry[kind] as f32).collect();
                // Five updates of a few roundings each.
                assert_close(&format!("list {kind} on {device:?}"), &found, &wanted, 2e-6);
            }
        }
    }
}

#[test]
fn the_global_norm_is_that_of_all_values_together() {
    let values = draw("gradient", &[1, 7, 131, 4099]);
    let expected = values.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    for device in devices() {
        let found = to_host(global_norm(&tensors(&values, &device), &device));
        assert_close("norm", &found, &[expected as f32], 1e-6);
        assert_eq!(to_host(global_norm(&[], &device)), [0.0]);
    }
}

#[test]
fn a_moving_average_follows_its_formula_for_slow_and_fast_decays() {
    let sizes = [1, 7, 131];
    for device in devices() {
        for weight in [1e-4, 0.1, 0.9, 1.0] {
            let start = draw("average", &sizes);
            let mut averages = tensors(&start, &device);
            let mut expected: Vec<f64> = start.into_iter().flatten().map(f64::from).collect();
            for step in 0..5 {
                let values = draw(&format!("param {step}"), &sizes);
                lerp(&mut averages, &tensors(&values, &device), weight);
                for (average, value) in expected.iter_mut().zip(values.iter().flatten()) {
                    *average += weight * (f64::from(*value) - *average);
                }
            }
            let found: Vec<f32> = averages.into_iter().flat_map(to_host).collect();
            let wanted: Vec<f32> = expected.into_iter().map(|value| value as f32).collect();
            assert_close(&format!("weight {weight} on {device:?}"), &found, &wanted, 1e-6);
        }
    }
}

#[test]
fn sums_of_many_gradients_leave_what_they_were_summed_from() {
    let sizes: Vec<usize> = (1..=67).collect(); // more than one launch adds
    let (a, b) = (draw("a", &sizes), draw("b", &sizes));
    let expected: Vec<f32> = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a + b).collect();
    for device in devices() {
        let (one, two) = (tensors(&a, &device), tensors(&b, &device));
        let added = sums(one.clone(), two);
        assert_eq!(added.iter().map(|sum| sum.dims()[0]).collect::<Vec<_>>(), sizes);
        assert_eq!(added.into_iter().flat_map(to_host).collect::<Vec<_>>(), expected);
        // A graph may give two parameters the same memory as gradient.
        assert_eq!(one.into_iter().flat_map(to_host).collect::<Vec<_>>(), a.concat());
    }
}
