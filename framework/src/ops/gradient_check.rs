//! Every op against central differences, against its other backend, and against misuse.
#![cfg(test)]

use anyhow::Result;
use burn::tensor::{Device, Tensor, TensorData};

#[cfg(feature = "tch")]
use super::{DeviceChoice, open};
use crate::streams::Streams;
use crate::weights::to_host;

/// Step of the central differences. The truncation error is step²/6 of a third derivative of order 10, about 2e-4; the
/// rounding error is 1e-7 · √outputs / step, about 1e-4. Both are a tenth of [`DIFFERENCE_TOLERANCE`].
const STEP: f32 = 1e-2;
/// Allowed distance from the central difference, relative to the largest entry of the gradient.
const DIFFERENCE_TOLERANCE: f32 = 2e-3;
/// Allowed distance of two f32 implementations: sums of a few thousand terms in another order.
const ROUNDING_TOLERANCE: f32 = 2e-5;

/// An op as a function of flat inputs. Sizes are distinct, so a swapped axis fails; `large` has tails behind whole
/// vector registers and enough rows to be split among threads.
pub(super) struct Case {
    pub(super) name: &'static str,
    small: &'static [&'static [usize]],
    pub(super) large: &'static [&'static [usize]],
    pub(super) op: fn(&Inputs<'_>) -> Tensor<1>,
}

pub(super) struct Inputs<'a> {
    pub(super) flat: &'a [Tensor<1>],
    pub(super) shapes: &'a [&'a [usize]],
    /// Whether tensors reach and leave the op as transposed views.
    pub(super) is_strided: bool,
}

impl Inputs<'_> {
    fn get<const D: usize>(&self, at: usize) -> Tensor<D> {
        let mut shape: [usize; D] = self.shapes[at].try_into().unwrap();
        if !self.is_strided {
            return self.flat[at].clone().reshape(shape);
        }
        shape.reverse();
        self.flat[at].clone().reshape(shape).permute(reversed_axes())
    }

    fn flatten<const D: usize>(&self, result: Tensor<D>) -> Tensor<1> {
        let count = result.dims().iter().product::<usize>();
        if self.is_strided { result.permute(reversed_axes()).reshape([count]) } else { result.reshape([count]) }
    }
}

fn reversed_axes<const D: usize>() -> [isize; D] {
    std::array::from_fn(|axis| (D - 1 - axis) as isize)
}

const EPS: f64 = 1e-6;

pub(super) const CASES: [Case; 24] = [
    Case {
        name: "linear",
        small: &[&[3, 5, 12], &[7, 12], &[7]],
        large: &[&[3, 37, 131], &[67, 131], &[67]],
        op: |x| x.flatten(super::linear(x.get::<3>(0), x.get::<2>(1), Some(x.get::<1>(2)))),
    },
    Case {
        name: "linear of vectors",
        small: &[&[3, 12], &[7, 12], &[7]],
        large: &[&[37, 131], &[67, 131], &[67]],
        op: |x| x.flatten(super::linear(x.get::<2>(0), x.get::<2>(1), Some(x.get::<1>(2)))),
    },
    Case {
        name: "linear without bias",
        small: &[&[3, 5, 12], &[7, 12]],
        large: &[&[3, 37, 131], &[67, 131]],
        op: |x| x.flatten(super::linear(x.get::<3>(0), x.get::<2>(1), None)),
    },
    Case {
        name: "attention",
        small: &[&[2, 3, 5, 7], &[2, 3, 5, 7], &[2, 3, 5, 7]],
        large: &[&[2, 3, 67, 19], &[2, 3, 67, 19], &[2, 3, 67, 19]],
        op: |x| x.flatten(super::attention(x.get::<4>(0), x.get::<4>(1), x.get::<4>(2))),
    },
    Case {
        name: "attention_packed",
        small: &[&[2, 5, 3 * 3 * 7]],
        large: &[&[2, 67, 3 * 3 * 19]],
        op: |x| x.flatten(super::attention_packed(x.get::<3>(0), 3)),
    },
    Case {
        name: "modulated_layer_norm",
        small: &[&[3, 5, 12], &[3, 12], &[3, 12]],
        large: &[&[3, 37, 131], &[3, 131], &[3, 131]],
        op: |x| x.flatten(super::modulated_layer_norm(x.get::<3>(0), x.get::<2>(1), x.get::<2>(2), EPS)),
    },
    Case {
        name: "layer_norm",
        small: &[&[3, 5, 12], &[12], &[12]],
        large: &[&[3, 37, 131], &[131], &[131]],
        op: |x| x.flatten(super::layer_norm(x.get::<3>(0), x.get::<1>(1), x.get::<1>(2), EPS)),
    },
    Case {
        name: "forked_layer_norm",
        small: &[&[3, 5, 12], &[3, 12], &[3, 12], &[3, 12]],
        large: &[&[3, 37, 260], &[3, 260], &[3, 260], &[3, 260]],
        op: |x| {
            let (stream, h) = super::forked_layer_norm(x.get::<3>(0), x.get::<2>(1), x.get::<2>(2), EPS);
            x.flatten(super::gated_residual(stream, x.get::<2>(3), h))
        },
    },
    Case {
        name: "forked_rms_norm",
        small: &[&[3, 5, 12], &[3, 12], &[3, 12], &[3, 12], &[12]],
        large: &[&[3, 37, 260], &[3, 260], &[3, 260], &[3, 260], &[260]],
        op: |x| {
            let (shift, scale, gate) = (x.get::<2>(1), x.get::<2>(2), x.get::<2>(3));
            let (stream, h) = super::forked_rms_norm(x.get::<3>(0), x.get::<1>(4), shift, scale, EPS);
            x.flatten(super::gated_residual(stream, gate, h))
        },
    },
    Case {
        name: "gated_residual",
        small: &[&[3, 5, 12], &[3, 12], &[3, 5, 12]],
        large: &[&[3, 37, 131], &[3, 131], &[3, 37, 131]],
        op: |x| x.flatten(super::gated_residual(x.get::<3>(0), x.get::<2>(1), x.get::<3>(2))),
    },
    Case {
        name: "gelu_tanh",
        small: &[&[3, 5, 12]],
        large: &[&[3, 37, 131]],
        op: |x| x.flatten(super::gelu_tanh(x.get::<3>(0))),
    },
    Case { name: "silu", small: &[&[5, 12]], large: &[&[37, 131]], op: |x| x.flatten(super::silu(x.get::<2>(0))) },
    Case { name: "swiglu", small: &[&[5, 14]], large: &[&[37, 134]], op: |x| x.flatten(super::swiglu(x.get::<2>(0))) },
    Case {
        name: "rms_norm",
        small: &[&[3, 5, 12], &[12]],
        large: &[&[3, 37, 131], &[131]],
        op: |x| x.flatten(super::rms_norm(x.get::<3>(0), x.get::<1>(1), EPS)),
    },
    Case {
        name: "modulated_rms_norm",
        small: &[&[3, 5, 12], &[12], &[3, 12], &[3, 12]],
        large: &[&[3, 37, 131], &[131], &[3, 131], &[3, 131]],
        op: |x| {
            let (shift, scale) = (x.get::<2>(2), x.get::<2>(3));
            x.flatten(super::modulated_rms_norm(x.get::<3>(0), x.get::<1>(1), shift, scale, EPS))
        },
    },
    Case {
        name: "rotate_pairs",
        small: &[&[2, 3, 5, 14], &[5, 7], &[5, 7]],
        large: &[&[2, 3, 67, 38], &[67, 19], &[67, 19]],
        op: |x| x.flatten(super::rotate_pairs(x.get::<4>(0), x.get::<2>(1), x.get::<2>(2))),
    },
    Case {
        name: "rotary_qk_norm",
        small: &[&[2, 5, 3 * 3 * 6], &[6], &[6]],
        large: &[&[3, 67, 3 * 3 * 38], &[38], &[38]],
        op: |x| {
            let (qkv, weights) = (x.get::<3>(0), [x.get::<1>(1), x.get::<1>(2)]);
            let [_, tokens, channels] = qkv.dims();
            let tables = ["cos", "sin"]
                .map(|name| random(name, tokens * channels / 18, &qkv.device()).reshape([tokens, channels / 18]));
            x.flatten(super::rotary_qk_norm(qkv, 3, weights, tables, EPS))
        },
    },
    Case {
        name: "grid_conv2d",
        small: &[&[2, 15, 7], &[4, 7, 3, 3], &[4]],
        large: &[&[3, 15, 35], &[19, 35, 5, 5], &[19]],
        op: |x| x.flatten(super::grid_conv2d(x.get::<3>(0), [3, 5], x.get::<4>(1), x.get::<1>(2))),
    },
    Case {
        name: "conv2d",
        small: &[&[2, 3, 5, 7], &[4, 3, 3, 3], &[4]],
        large: &[&[3, 19, 11, 13], &[35, 19, 3, 3], &[35]],
        op: |x| x.flatten(super::conv2d(x.get(0), x.get(1), Some(x.get(2)), super::ConvShape::same(3))),
    },
    Case {
        name: "conv2d with a stride and zeros on two sides",
        small: &[&[2, 3, 6, 8], &[4, 3, 3, 3], &[4]],
        large: &[&[3, 19, 10, 14], &[35, 19, 3, 3], &[35]],
        op: |x| {
            let shape = super::ConvShape { stride: 2, before: 0, after: 1 };
            x.flatten(super::conv2d(x.get(0), x.get(1), Some(x.get(2)), shape))
        },
    },
    Case {
        name: "conv2d without bias",
        small: &[&[2, 3, 6, 7], &[4, 3, 4, 4]],
        large: &[&[3, 19, 10, 13], &[35, 19, 4, 4]],
        op: |x| x.flatten(super::conv2d(x.get(0), x.get(1), None, super::ConvShape { stride: 1, before: 1, after: 1 })),
    },
    Case {
        name: "group_norm",
        small: &[&[2, 6, 3, 5], &[6], &[6]],
        large: &[&[3, 38, 11, 13], &[38], &[38]],
        op: |x| x.flatten(super::group_norm(x.get(0), 2, x.get(1), x.get(2), EPS)),
    },
    Case {
        name: "group_norm_silu",
        small: &[&[2, 6, 3, 5], &[6], &[6]],
        large: &[&[3, 38, 11, 13], &[38], &[38]],
        op: |x| x.flatten(super::group_norm_silu(x.get(0), 2, x.get(1), x.get(2), EPS)),
    },
    Case {
        name: "mean_cosine_similarity",
        small: &[&[3, 5, 12]],
        large: &[&[3, 37, 131]],
        op: |x| {
            let z = x.get::<3>(0);
            let target = random("target", z.dims().iter().product(), &z.device()).reshape(z.dims());
            super::mean_cosine_similarity(z, target, EPS)
        },
    },
];

/// Everything that this build computes on here.
pub(super) fn devices() -> Vec<Device> {
    super::devices().into_iter().map(|(_, device)| device).collect()
}

/// Every case on every device of libtorch.
#[cfg(feature = "tch")]
fn everywhere() -> impl Iterator<Item = (&'static Case, Device)> {
    let devices = devices().into_iter().filter(super::on_libtorch);
    devices.flat_map(|device| CASES.iter().map(move |case| (case, device.clone())))
}

pub(super) fn random(name: &str, count: usize, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(Streams::new(11).normal(name, count), [count]), device)
}

pub(super) fn inputs(shapes: &[&[usize]], device: &Device) -> Vec<Tensor<1>> {
    let input = |(i, shape): (usize, &&[usize])| random(&format!("input {i}"), shape.iter().product(), device);
    shapes.iter().enumerate().map(input).collect()
}

/// Result, and the gradient of its random-weighted sum for every input that `is_tracked`.
fn differentiate(
    case: &Case,
    shapes: &[&[usize]],
    device: &Device,
    is_strided: bool,
    is_tracked: &dyn Fn(usize) -> bool,
) -> (Vec<f32>, Vec<Option<Vec<f32>>>) {
    let track = |(i, input): (usize, Tensor<1>)| if is_tracked(i) { input.require_grad() } else { input };
    let flat: Vec<_> = inputs(shapes, &device.clone().autodiff()).into_iter().enumerate().map(track).collect();
    let result = (case.op)(&Inputs { flat: &flat, shapes, is_strided });
    let weights = random("weights", result.dims()[0], &result.device());
    let gradients = (result.clone() * weights).sum().backward();
    let gradient = |input: &Tensor<1>| input.grad(&gradients).map(to_host);
    (to_host(result), flat.iter().map(gradient).collect())
}

/// The random-weighted sum without autodiff, summed in f64.
fn weighted_sum(case: &Case, shapes: &[&[usize]], flat: &[Tensor<1>], is_strided: bool) -> f64 {
    let result = (case.op)(&Inputs { flat, shapes, is_strided });
    let weights = to_host(random("weights", result.dims()[0], &result.device()));
    to_host(result).iter().zip(weights).map(|(y, w)| f64::from(*y) * f64::from(w)).sum()
}

fn central_differences(case: &Case, device: &Device, input: usize, is_strided: bool) -> Vec<f32> {
    let mut flat = inputs(case.small, device);
    let values = to_host(flat[input].clone());
    let mut at = |i: usize, step: f32| {
        let mut moved = values.clone();
        moved[i] += step;
        flat[input] = Tensor::from_data(TensorData::new(moved, [values.len()]), device);
        weighted_sum(case, case.small, &flat, is_strided)
    };
    (0..values.len()).map(|i| ((at(i, STEP) - at(i, -STEP)) / f64::from(2.0 * STEP)) as f32).collect()
}

/// Largest distance, relative to the largest expected entry.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |a, b| a.max(b.abs()));
    let worst = found.iter().zip(expected).fold(0.0, |worst: f32, (a, b)| {
        let gap = (a - b).abs();
        if gap.is_nan() { f32::INFINITY } else { worst.max(gap) }
    });
    worst / largest
}

pub(super) fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let distance = distance(found, expected);
    assert!(distance <= tolerance, "{what}: off by {distance:e} of the largest entry");
}

#[test]
fn every_gradient_agrees_with_central_differences() {
    for device in devices() {
        for case in &CASES {
            for is_strided in [false, true] {
                let (_, gradients) = differentiate(case, case.small, &device, is_strided, &|_| true);
                for (i, gradient) in gradients.into_iter().enumerate() {
                    let what = format!("{} input {i} strided {is_strided} on {device:?}", case.name);
                    let expected = central_differences(case, &device, i, is_strided);
                    assert_close(&what, &gradient.expect(&what), &expected, DIFFERENCE_TOLERANCE);
                }
            }
        }
    }
}

fn directions(shapes: &[&[usize]], device: &Device) -> Vec<Tensor<1>> {
    let direction = |(i, shape): (usize, &&[usize])| random(&format!("direction {i}"), shape.iter().product(), device);
    shapes.iter().enumerate().map(direction).collect()
}

/// Result and derivative when the inputs in `moves` move.
fn differentiate_along(
    case: &Case,
    shapes: &'static [&'static [usize]],
    device: &Device,
    is_strided: bool,
    moves: &[usize],
) -> (Vec<f32>, Vec<f32>) {
    let pick = |list: Vec<Tensor<1>>| moves.iter().map(|at| list[*at].clone()).collect::<Vec<_>>();
    let fixed = inputs(shapes, device);
    let op = |moved: Vec<Tensor<1>>| {
        let mut flat = fixed.clone();
        for (at, tensor) in moves.iter().zip(moved) {
            flat[*at] = tensor;
        }
        Ok(((case.op)(&Inputs { flat: &flat, shapes, is_strided }), ()))
    };
    let result = super::jvp(op, pick(fixed.clone()), pick(directions(shapes, device))).unwrap();
    (to_host(result.value), to_host(result.tangent))
}

#[test]
fn every_tangent_agrees_with_central_differences() {
    for device in devices() {
        for case in &CASES {
            let count = case.small.len();
            // Each input alone, then all of them.
            for moves in (0..count).map(|i| vec![i]).chain([(0..count).collect()]) {
                let moved = |by: f32| {
                    let mut flat = inputs(case.small, &device);
                    for at in &moves {
                        flat[*at] = flat[*at].clone() + directions(case.small, &device)[*at].clone() * by;
                    }
                    to_host((case.op)(&Inputs { flat: &flat, shapes: case.small, is_strided: false }))
                };
                let expected: Vec<f32> =
                    moved(STEP).iter().zip(moved(-STEP)).map(|(high, low)| (high - low) / (2.0 * STEP)).collect();
                for device in [device.clone(), device.clone().autodiff()] {
                    let what = format!("{} inputs {moves:?} on {device:?}", case.name);
                    let (_, found) = differentiate_along(case, case.small, &device, false, &moves);
                    assert_close(&what, &found, &expected, DIFFERENCE_TOLERANCE);
                }
            }
        }
    }
}

/// Large shapes and views: forward mode against the difference that flex takes.
#[cfg(feature = "tch")]
#[test]
fn exact_tangents_agree_with_differences_and_leave_values_alone() {
    let flex = open(DeviceChoice::Flex).unwrap();
    for (case, libtorch) in everywhere() {
        let moves: Vec<usize> = (0..case.large.len()).collect();
        for is_strided in [false, true] {
            let (_, expected) = differentiate_along(case, case.large, &flex, is_strided, &moves);
            let (value, found) = differentiate_along(case, case.large, &libtorch, is_strided, &moves);
            let what = format!("{} strided {is_strided}", case.name);
            // The difference's own rounding: 1e-7 of the values over a step of 1e-2, of sums of dozens of terms.
            assert_close(&what, &found, &expected, 5e-4);
            let flat = inputs(case.large, &libtorch);
            let plain = (case.op)(&Inputs { flat: &flat, shapes: case.large, is_strided });
            let tolerance = if case.name == "mean_cosine_similarity" { ROUNDING_TOLERANCE } else { 0.0 };
            assert_close(&what, &value, &to_host(plain), tolerance);
        }
    }
}

/// A chain of ops on tracked parameters: the gradients are those of the pass without tangents.
#[test]
fn gradients_inside_a_derivative_are_those_outside() {
    for device in devices() {
        let device = device.autodiff();
        let x = random("x", 3 * 5 * 12, &device).reshape([3, 5, 12]);
        let dx = random("dx", 3 * 5 * 12, &device).reshape([3, 5, 12]);
        let gate = random("gate", 3 * 12, &device).reshape([3, 12]).require_grad();
        let weight = random("weight", 36 * 12, &device).reshape([36, 12]).require_grad();
        let bias = random("bias", 36, &device).require_grad();
        let net = |x: Tensor<3>| {
            let h = super::modulated_layer_norm(x.clone(), gate.clone(), gate.clone(), EPS);
            let h = super::attention_packed(super::linear(h, weight.clone(), Some(bias.clone())), 3);
            Ok((super::gated_residual(x, gate.clone(), super::gelu_tanh(h)), ()))
        };
        let plain = net(x.clone()).unwrap().0;
        let dual = super::jvp(net, x, dx).unwrap();
        let [plain, dual] = [plain, dual.value].map(|value| {
            let gradients = value.clone().square().sum().backward();
            let gradient = |g: Option<Tensor<1>>| to_host(g.unwrap());
            let of = [
                gradient(gate.grad(&gradients).map(|g| g.reshape([-1]))),
                gradient(weight.grad(&gradients).map(|g| g.reshape([-1]))),
                gradient(bias.grad(&gradients)),
            ];
            (to_host(value), of)
        });
        assert_eq!(plain.0, dual.0);
        assert_eq!(plain.1, dual.1);
    }
}

#[cfg(feature = "tch")]
#[test]
fn a_derivative_inside_a_derivative_is_an_error_and_closes_what_it_opened() {
    let device = open(DeviceChoice::Cpu).unwrap();
    let one = || Tensor::<1>::ones([3], &device);
    let inner = |x: Tensor<1>| super::jvp(|x: Tensor<1>| Ok((x, ())), x.clone(), x).map(|inner| (inner.tangent, ()));
    let message = super::jvp(inner, one(), one()).unwrap_err().to_string();
    assert!(message.contains("inside a derivative"), "{message}");
    let after = super::jvp(|x: Tensor<1>| Ok((x.square(), ())), one(), one()).unwrap();
    assert_eq!(to_host(after.tangent), [2.0; 3]);
}

#[test]
fn an_input_alone_gets_the_gradient_that_it_gets_among_others() {
    for device in devices() {
        for case in &CASES {
            let (_, together) = differentiate(case, case.small, &device, false, &|_| true);
            for (i, expected) in together.iter().enumerate() {
                let what = format!("{} input {i} on {device:?}", case.name);
                let (_, alone) = differentiate(case, case.small, &device, false, &|input| input == i);
                assert_close(&what, alone[i].as_ref().expect(&what), expected.as_ref().unwrap(), ROUNDING_TOLERANCE);
                let others = alone.iter().enumerate().filter(|(other, _)| *other != i);
                assert!(others.into_iter().all(|(_, gradient)| gradient.is_none()), "{what}: others got gradients");
            }
        }
    }
}

#[test]
fn autodiff_does_not_change_results() {
    for device in devices() {
        for case in &CASES {
            let (tracked, _) = differentiate(case, case.large, &device, false, &|_| true);
            let flat = inputs(case.large, &device);
            let plain = (case.op)(&Inputs { flat: &flat, shapes: case.large, is_strided: false });
            // flex has a softmax of its own without autodiff; libtorch runs the same kernel.
            let tolerance = if super::on_libtorch(&device) { 0.0 } else { ROUNDING_TOLERANCE };
            assert_close(case.name, &tracked, &to_host(plain), tolerance);
        }
    }
}

#[cfg(feature = "tch")]
#[test]
fn fused_ops_agree_with_their_portable_form() {
    let flex = open(DeviceChoice::Flex).unwrap();
    for (case, libtorch) in everywhere() {
        for is_strided in [false, true] {
            let (expected, expected_gradients) = differentiate(case, case.large, &flex, is_strided, &|_| true);
            let (found, gradients) = differentiate(case, case.large, &libtorch, is_strided, &|_| true);
            assert_close(case.name, &found, &expected, ROUNDING_TOLERANCE);
            for (i, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
                let what = format!("{} gradient {i} strided {is_strided}", case.name);
                assert_close(&what, found.as_ref().unwrap(), expected.as_ref().unwrap(), ROUNDING_TOLERANCE);
            }
        }
    }
}

/// The result of one op feeds another twice: gradients that meet at a tensor must add up without disturbing others.
#[test]
fn gradients_that_meet_add_up() {
    const SHAPES: &[&[usize]] = &[&[3, 5, 12], &[3, 12]];
    let case = Case {
        name: "a block that uses its input everywhere",
        small: SHAPES,
        large: SHAPES,
        op: |x| {
            let (tokens, gate) = (x.get::<3>(0), x.get::<2>(1));
            let h = super::modulated_layer_norm(tokens.clone(), gate.clone(), gate.clone(), EPS);
            let h = super::gated_residual(h.clone(), gate.clone(), super::gelu_tanh(h));
            let packed = Tensor::cat(vec![h.clone(), tokens.clone(), h.clone()], 2);
            x.flatten(super::gated_residual(h.clone(), gate, super::attention_packed(packed, 3)) + h * tokens)
        },
    };
    for device in devices() {
        let (_, gradients) = differentiate(&case, SHAPES, &device, false, &|_| true);
        for (i, gradient) in gradients.into_iter().enumerate() {
            let expected = central_differences(&case, &device, i, false);
            assert_close(case.name, &gradient.unwrap(), &expected, DIFFERENCE_TOLERANCE);
        }
    }
}

#[test]
fn rows_of_zeros_have_finite_cosines_and_gradients() {
    for device in devices() {
        let z = Tensor::<3>::zeros([2, 3, 5], &device.clone().autodiff()).require_grad();
        let target = random("target", 30, &z.device()).reshape([2, 3, 5]);
        let mean = super::mean_cosine_similarity(z.clone(), target, 1e-12);
        let gradient = to_host(z.grad(&mean.clone().backward()).unwrap());
        assert_eq!(to_host(mean), [0.0]);
        assert!(gradient.iter().all(|value| value.is_finite()), "{device:?}: {gradient:?}");
    }
}

/// Sizes that do not fit, on every backend: libtorch throws a C++ exception for some, the shim's own check for others.
#[test]
fn sizes_that_do_not_fit_are_errors() {
    type Misuse = (&'static str, fn(&Device) -> Tensor<1>);
    fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::zeros(shape, device)
    }
    let misuses: [Misuse; 8] = [
        ("linear", |d| super::linear(zeros([3, 5], d), zeros([7, 6], d), Some(zeros([7], d))).sum()),
        ("attention", |d| {
            super::attention(zeros([2, 3, 5, 7], d), zeros([2, 3, 5, 9], d), zeros([2, 3, 5, 7], d)).sum()
        }),
        ("modulated_layer_norm", |d| {
            super::modulated_layer_norm(zeros([3, 5, 12], d), zeros([3, 11], d), zeros([3, 12], d), EPS).sum()
        }),
        ("modulated_rms_norm", |d| {
            let (weight, row) = (zeros([12], d), || zeros([3, 12], d));
            super::modulated_rms_norm(zeros([3, 5, 11], d), weight, row(), row(), EPS).sum()
        }),
        ("rotary_qk_norm", |d| {
            let (weight, table) = (|| zeros([6], d), || zeros([4, 3], d));
            super::rotary_qk_norm(zeros([2, 5, 54], d), 3, [weight(), weight()], [table(), table()], EPS).sum()
        }),
        ("gated_residual", |d| {
            super::gated_residual(zeros([3, 5, 12], d), zeros([3, 11], d), zeros([3, 5, 12], d)).sum()
        }),
        ("grid_conv2d", |d| {
            super::grid_conv2d(zeros([2, 15, 7], d), [3, 5], zeros([4, 6, 3, 3], d), zeros([4], d)).sum()
        }),
        ("mean_cosine_similarity", |d| super::mean_cosine_similarity(zeros([3, 5, 12], d), zeros([3, 4, 12], d), EPS)),
    ];
    for device in devices() {
        for device in [device.clone(), device.autodiff()] {
            for (name, misuse) in &misuses {
                let result: Result<Vec<f32>> = super::guard(|| Ok(to_host(misuse(&device))));
                let message = result.expect_err(name).to_string();
                assert!(message.starts_with("tensor operation failed: "), "{name}: {message}");
                assert!(!message.contains('\n'), "{name}: {message}");
            }
        }
    }
}
