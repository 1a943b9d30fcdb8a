//! Whole-model updates over flat tensors: AdamW, gradient norm, moving averages.
//!
//! On libtorch they write into the given tensors' memory, so tensors that share it (the model's parameters) change
//! with them; on other backends the entries of the slices are replaced.

use burn::tensor::Tensor;

/// Tensors that one launch adds: few enough that their sums take little memory beside them.
const SUMMED_AT_ONCE: usize = 32;

/// Settings of one AdamW update (Loshchilov and Hutter, 2019; PyTorch's order of operations).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Number of this update, counted from 1.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and second moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
}

/// Flat tensors of one group, all lists in the same order.
#[derive(Debug, Default)]
pub struct AdamWState {
    /// First moments.
    pub first: Vec<Tensor<1>>,
    /// Second moments.
    pub second: Vec<Tensor<1>>,
}

/// One AdamW update of all parameters. Every gradient is first divided by `divisor`, when given.
///
/// Returns whether the parameters were written in place; otherwise `params` holds new tensors.
///
/// # Shapes
/// * every tensor: flat and contiguous; `divisor`: `[1]`
pub fn adamw(
    params: &mut [Tensor<1>],
    grads: Vec<Tensor<1>>,
    state: &mut AdamWState,
    settings: AdamWStep,
    divisor: Option<Tensor<1>>,
) -> bool {
    let Some(first) = params.first() else { return true };
    #[cfg(feature = "tch")]
    if super::on_libtorch(&first.device()) {
        fused::adamw(params, &grads, state, settings, divisor);
        return true;
    }
    let _ = first;
    let AdamWStep { step, lr, betas: [beta1, beta2], eps, weight_decay } = settings;
    let exponent = step as f64;
    let (correction1, correction2) = (1.0 - beta1.powf(exponent), (1.0 - beta2.powf(exponent)).sqrt());
    for (i, g) in grads.into_iter().enumerate() {
        let g = match &divisor {
            Some(divisor) => g / divisor.clone(),
            None => g,
        };
        let m = state.first[i].clone() * beta1 + g.clone() * (1.0 - beta1);
        let v = state.second[i].clone() * beta2 + g.square() * (1.0 - beta2);
        let decayed = params[i].clone() * (1.0 - lr * weight_decay);
        params[i] = decayed - m.clone() / (v.clone().sqrt() / correction2 + eps) * (lr / correction1);
        (state.first[i], state.second[i]) = (m, v);
    }
    false
}

/// The global L2 norm of all gradients, `[1]`; zero for an empty list.
pub fn global_norm(grads: &[Tensor<1>], device: &burn::tensor::Device) -> Tensor<1> {
    if grads.is_empty() {
        return Tensor::zeros([1], device);
    }
    #[cfg(feature = "tch")]
    if super::on_libtorch(&grads[0].device()) {
        return fused::global_norm(grads);
    }
    let squares = grads.iter().map(|g| g.clone().square().sum()).collect();
    Tensor::cat(squares, 0).sum().sqrt()
}

/// `a + b` for every pair, into new memory: gradients of a graph may share theirs.
pub fn sums(a: Vec<Tensor<1>>, b: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
    let (mut a, mut b, mut sums) = (a.into_iter(), b.into_iter(), vec![]);
    loop {
        // What a part was summed from is freed before the next one.
        let part: [Vec<_>; 2] = [a.by_ref().take(SUMMED_AT_ONCE).collect(), b.by_ref().take(SUMMED_AT_ONCE).collect()];
        if part[0].is_empty() || part[1].is_empty() {
            return sums;
        }
        sums.extend(sums_of_part(part));
    }
}

fn sums_of_part([a, b]: [Vec<Tensor<1>>; 2]) -> Vec<Tensor<1>> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&a[0].device()) {
        return fused::sums(&a, &b);
    }
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

/// `a + weight · (b − a)` for every pair; `a` is written.
pub fn lerp(a: &mut [Tensor<1>], b: &[Tensor<1>], weight: f64) {
    #[cfg(feature = "tch")]
    if a.first().is_some_and(|first| super::on_libtorch(&first.device())) {
        return fused::lerp(a, b, weight);
    }
    for (a, b) in a.iter_mut().zip(b) {
        *a = a.clone() + (b.clone() - a.clone()) * weight;
    }
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::LibTorch;
    use burn::tensor::Tensor;

    use super::{AdamWState, AdamWStep};
    use crate::ops::libtorch::{Handle, T, check, fresh, handle, own};

    unsafe extern "C" {
        fn rl_fused_adamw(
            params: *mut Handle,
            grads: *mut Handle,
            first: *mut Handle,
            second: *mut Handle,
            n: i64,
            step: f64,
            lr: f64,
            beta1: f64,
            beta2: f64,
            weight_decay: f64,
            eps: f64,
            divisor: Handle,
        ) -> i32;
        fn rl_global_norm(grads: *mut Handle, n: i64, norm: *mut Handle) -> i32;
        fn rl_foreach_add(a: *mut Handle, b: *mut Handle, n: i64, sums: *mut Handle) -> i32;
        fn rl_foreach_lerp(a: *mut Handle, b: *mut Handle, n: i64, weight: f64) -> i32;
    }

    /// The libtorch tensors behind burn's, sharing memory.
    fn raw(tensors: &[Tensor<1>]) -> Vec<T> {
        let raw = |tensor: &Tensor<1>| match tensor.clone().try_into_primitive::<LibTorch>() {
            Ok(tensor) => tensor.tensor.shallow_clone(),
            Err(_) => unreachable!("the caller asked `on_libtorch`, and optimizer tensors carry no graph"),
        };
        tensors.iter().map(raw).collect()
    }

    fn handles(tensors: &[T]) -> Vec<Handle> {
        tensors.iter().map(handle).collect()
    }

    pub fn adamw(
        params: &[Tensor<1>],
        grads: &[Tensor<1>],
        state: &AdamWState,
        settings: AdamWStep,
        divisor: Option<Tensor<1>>,
    ) {
        let AdamWStep { step, lr, betas: [beta1, beta2], eps, weight_decay } = settings;
        // The kernel walks raw memory and ignores strides.
        let grads: Vec<T> = raw(grads).iter().map(T::contiguous).collect();
        let (params, first, second) = (raw(params), raw(&state.first), raw(&state.second));
        let divisor = divisor.map(|divisor| raw(&[divisor]));
        let [mut p, mut g, mut m, mut v] = [&params, &grads, &first, &second].map(|list| handles(list));
        let d = divisor.as_ref().map_or(std::ptr::null_mut(), |list| handle(&list[0]));
        let n = p.len() as i64;
        let (p, g, m, v) = (p.as_mut_ptr(), g.as_mut_ptr(), m.as_mut_ptr(), v.as_mut_ptr());
        // SAFETY: four lists of `n` live tensors of equal shapes.
        check(unsafe { rl_fused_adamw(p, g, m, v, n, step as f64, lr, beta1, beta2, weight_decay, eps, d) });
    }

    pub fn global_norm(grads: &[Tensor<1>]) -> Tensor<1> {
        let grads = raw(grads);
        let (mut list, mut norm) = (handles(&grads), std::ptr::null_mut());
        // SAFETY: a list of live tensors in, an owned tensor out.
        check(unsafe { rl_global_norm(list.as_mut_ptr(), list.len() as i64, &mut norm) });
        Tensor::from_primitive::<LibTorch>(fresh(own(norm)))
    }

    pub fn sums(a: &[Tensor<1>], b: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let (a, b) = (raw(a), raw(b));
        let (mut a, mut b) = (handles(&a), handles(&b));
        let n = a.len().min(b.len());
        let mut sums = vec![std::ptr::null_mut(); n];
        // SAFETY: two lists of `n` live tensors in, `n` owned tensors out.
        check(unsafe { rl_foreach_add(a.as_mut_ptr(), b.as_mut_ptr(), n as i64, sums.as_mut_ptr()) });
        sums.into_iter().map(|sum| Tensor::from_primitive::<LibTorch>(fresh(own(sum)))).collect()
    }

    pub fn lerp(a: &[Tensor<1>], b: &[Tensor<1>], weight: f64) {
        let (a, b) = (raw(a), raw(b));
        let (mut from, mut to) = (handles(&a), handles(&b));
        // SAFETY: two lists of live tensors of equal shapes.
        check(unsafe { rl_foreach_lerp(from.as_mut_ptr(), to.as_mut_ptr(), from.len() as i64, weight) });
    }
}
