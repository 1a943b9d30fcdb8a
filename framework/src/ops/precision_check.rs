//! Every op under bf16: which ones round, how much, and when.
#![cfg(test)]

use burn::tensor::{Device, Tensor};

use super::gradient_check::{CASES, Case, Inputs, inputs, random};
use super::{DeviceChoice, Precision, open};
use crate::weights::to_host;

/// Ops whose operands bf16 rounds; all others are in f32 under each policy.
const ROUNDED: [&str; 9] = [
    "linear",
    "linear of vectors",
    "linear without bias",
    "attention",
    "attention_packed",
    "grid_conv2d",
    "conv2d",
    "conv2d with a stride and zeros on two sides",
    "conv2d without bias",
];
/// Most that rounding a few operands to 8 bits (2⁻⁹ of each, 2e-3) changes a result or gradient, relative to its norm.
const MOST: f64 = 1e-2;

fn device() -> Device {
    open(DeviceChoice::Cpu).unwrap().autodiff()
}

fn under<T>(policy: Option<Precision>, work: impl FnOnce() -> T) -> T {
    match policy {
        Some(policy) => policy.scope(work),
        None => work(),
    }
}

/// Result and gradients, forward and backward under a policy each.
fn differentiate(case: &Case, is_strided: bool, policies: [Option<Precision>; 2]) -> Vec<Vec<f32>> {
    let [forward, backward] = policies;
    let flat: Vec<_> = inputs(case.large, &device()).into_iter().map(Tensor::require_grad).collect();
    let result = under(forward, || (case.op)(&Inputs { flat: &flat, shapes: case.large, is_strided }));
    let weights = random("weights", result.dims()[0], &result.device());
    let gradients = under(backward, || (result.clone() * weights).sum().backward());
    let gradients = flat.iter().map(|input| to_host(input.grad(&gradients).unwrap()));
    std::iter::once(to_host(result)).chain(gradients).collect()
}

/// `|found − expected| / |expected|`.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let gap = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    gap / norm(&mut expected.iter().map(|value| f64::from(*value)))
}

#[test]
fn bf16_rounds_linear_convolution_and_attention_and_nothing_else() {
    let mut num_rounded = 0;
    for case in &CASES {
        for is_strided in [false, true] {
            let exact = differentiate(case, is_strided, [None; 2]);
            let found = differentiate(case, is_strided, [Some(Precision::Bf16); 2]);
            let errors = found.iter().zip(&exact).map(|(found, exact)| relative_error(found, exact));
            for (i, error) in errors.enumerate() {
                let what = format!("{} output {i} strided {is_strided}: {error}", case.name);
                // A bias has the gradient of a sum, which is in f32.
                let is_bias = i == 3 && case.name != "attention";
                let allowed = match ROUNDED.contains(&case.name) && !is_bias {
                    true => 1e-5..MOST,
                    false => 0.0..1e-6,
                };
                assert!(allowed.contains(&error), "{what}");
            }
        }
        num_rounded += usize::from(ROUNDED.contains(&case.name));
    }
    assert_eq!(num_rounded, ROUNDED.len());
}

#[test]
fn f32_and_tf32_do_on_a_cpu_what_no_policy_does() {
    for case in &CASES {
        let expected = differentiate(case, false, [None; 2]);
        for policy in [Precision::F32, Precision::Tf32] {
            assert_eq!(differentiate(case, false, [Some(policy); 2]), expected, "{}", case.name);
        }
    }
}

#[test]
fn the_backward_pass_is_of_the_policy_of_the_forward_pass() {
    for case in CASES.iter().filter(|case| ROUNDED.contains(&case.name)) {
        for [policy, other] in [[Precision::F32, Precision::Bf16], [Precision::Bf16, Precision::F32]] {
            let [expected, found] = [policy, other].map(|last| differentiate(case, false, [policy, last].map(Some)));
            assert_eq!(found, expected, "{}", case.name);
        }
    }
}

#[test]
fn a_derivative_is_in_f32_under_every_policy() {
    let derivative = |precision: Precision| {
        let device = device();
        let [x, dx, weight] = ["x", "dx", "weight"].map(|name| random(name, 144, &device).reshape([12, 12]));
        let weight = weight.require_grad();
        let square = |x: Tensor<2>| Ok((super::linear(x, weight.clone(), None), ()));
        let found = precision.scope(|| super::jvp(square, x, dx)).unwrap();
        let gradients = found.value.clone().sum().backward();
        [found.value, found.tangent, Tensor::from_inner(weight.grad(&gradients).unwrap())].map(to_host)
    };
    assert_eq!(derivative(Precision::Bf16), derivative(Precision::F32));
}
