//! RMSNorm, with and without the modulation that follows it in adaptive blocks.

use burn::tensor::Tensor;

use super::layer_norm::modulate;

/// `x / √(mean(x²) + eps) · weight` over the last axis.
///
/// # Shapes
/// * `x`: `[.., channels]`
/// * `weight`: `[channels]`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let x = super::precision::full(x);
    let scale = (x.clone().square().mean_dim(D - 1) + eps).sqrt();
    x / scale * weight.unsqueeze::<D>()
}

/// [`rms_norm`], then [`modulate`]. The result is for other ops here: under bf16 it is bf16 in memory, as that of
/// [`hidden_linear`](super::hidden_linear).
///
/// # Shapes
/// * `x`: `[batch, tokens, channels]`
/// * `weight`: `[channels]`
/// * `shift`, `scale`: `[batch, channels]`
pub fn modulated_rms_norm(x: Tensor<3>, weight: Tensor<1>, shift: Tensor<2>, scale: Tensor<2>, eps: f64) -> Tensor<3> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::modulated_rms_norm(x, weight, shift, scale, eps, None);
    }
    modulate(rms_norm(x, weight, eps), shift, scale)
}

/// A residual stream, and [`modulated_rms_norm`] of it for the branch that leaves it; see
/// [`forked_layer_norm`](super::forked_layer_norm).
///
/// # Shapes
/// As [`modulated_rms_norm`].
pub fn forked_rms_norm(
    x: Tensor<3>,
    weight: Tensor<1>,
    shift: Tensor<2>,
    scale: Tensor<2>,
    eps: f64,
) -> (Tensor<3>, Tensor<3>) {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        let waiting = super::fork::Waiting::default();
        let normed = fused::modulated_rms_norm(x.clone(), weight, shift, scale, eps, Some(waiting.clone()));
        return (super::fork::stream(x, &normed, waiting), normed);
    }
    (x.clone(), modulated_rms_norm(x, weight, shift, scale, eps))
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use crate::ops::cuda::{self, Norm};
    use crate::ops::fork::Waiting;
    use crate::ops::libtorch::{Handle, Prim, T, check, fresh, handle, is_cpu_f32, own, register};
    use crate::ops::{Precision, dual, half};

    unsafe extern "C" {
        fn rl_modulated_rms_norm(
            x: Handle,
            weight: Handle,
            shift: Handle,
            scale: Handle,
            eps: f64,
            y: *mut Handle,
            rstd: *mut Handle,
            factor: *mut Handle,
        ) -> i32;
        fn rl_modulated_rms_norm_backward(
            g: Handle,
            x: Handle,
            factor: Handle,
            rstd: Handle,
            gx: *mut Handle,
            gshift: *mut Handle,
            gfactor: *mut Handle,
        ) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait ModulatedRmsNormOp: Backend {
        fn fused_modulated_rms_norm(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            shift: FloatTensor<Self>,
            scale: FloatTensor<Self>,
            eps: f64,
            waiting: Option<Waiting>,
        ) -> FloatTensor<Self>;
    }

    pub fn modulated_rms_norm(
        x: Tensor<3>,
        weight: Tensor<1>,
        shift: Tensor<2>,
        scale: Tensor<2>,
        eps: f64,
        waiting: Option<Waiting>,
    ) -> Tensor<3> {
        Tensor::from_dispatch(<Dispatch as ModulatedRmsNormOp>::fused_modulated_rms_norm(
            x.into_dispatch(),
            weight.into_dispatch(),
            shift.into_dispatch(),
            scale.into_dispatch(),
            eps,
            waiting,
        ))
    }

    /// Result, reciprocal root `[batch, tokens, 1]`, and `weight · (1 + scale)`, `[batch, channels]`.
    fn forward([x, weight, shift, scale]: [&T; 4], eps: f64, is_half: bool) -> [T; 3] {
        if cuda::serves(x, x.size()[2], true) {
            let factor = weight * (scale + 1.0);
            let [y, _, rstd] = cuda::norm(Norm::Rms, [x, shift, &factor], eps, is_half);
            return [y, rstd, factor];
        }
        let [y, rstd, factor] = forward_in_f32([x, weight, shift, scale], eps);
        [if is_half { half::rounded(&y) } else { y }, rstd, factor]
    }

    fn forward_in_f32([x, weight, shift, scale]: [&T; 4], eps: f64) -> [T; 3] {
        if is_cpu_f32(x) {
            let null = std::ptr::null_mut();
            let (mut y, mut rstd, mut factor) = (null, null, null);
            let [x, weight, shift, scale] = [x, weight, shift, scale].map(handle);
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe { rl_modulated_rms_norm(x, weight, shift, scale, eps, &mut y, &mut rstd, &mut factor) });
            return [own(y), own(rstd), own(factor)];
        }
        let rstd = (x.square().mean_dim(&[-1i64][..], true, None) + eps).rsqrt();
        let factor = weight * (scale + 1.0);
        [shift.unsqueeze(1).addcmul(&(x * &rstd), &factor.unsqueeze(1)), rstd, factor]
    }

    /// Gradients of `x`, `shift` and `factor`; `stream` is added to the first.
    fn backward(g: &T, [x, factor, rstd]: [&T; 3], stream: Option<&T>) -> [T; 3] {
        if cuda::serves(x, x.size()[2], true) {
            return cuda::norm_backward(Norm::Rms, g, [x, factor, rstd, rstd], stream); // the mean is not read
        }
        let [gx, gshift, gfactor] = backward_in_f32(g, x, factor, rstd);
        [half::with(gx, stream), gshift, gfactor]
    }

    fn backward_in_f32(g: &T, x: &T, factor: &T, rstd: &T) -> [T; 3] {
        let g = &half::full(g);
        if is_cpu_f32(x) {
            let null = std::ptr::null_mut();
            let (mut gx, mut gshift, mut gfactor) = (null, null, null);
            let [g, x, factor, rstd] = [g, x, factor, rstd].map(handle);
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe { rl_modulated_rms_norm_backward(g, x, factor, rstd, &mut gx, &mut gshift, &mut gfactor) });
            return [own(gx), own(gshift), own(gfactor)];
        }
        let normalized = x * rstd;
        let over_tokens = |x: T| x.sum_dim_intlist(&[1i64][..], false, None);
        let [to_shift, to_factor] = [over_tokens(g.shallow_clone()), over_tokens(g * &normalized)];
        [along(&normalized, rstd, &(g * factor.unsqueeze(1))), to_shift, to_factor]
    }

    /// `rstd · (d − x̂ · mean(x̂ · d))`: the derivative of normalizing is symmetric, so gradients and tangents share it.
    fn along(normalized: &T, rstd: &T, d: &T) -> T {
        let mean = (normalized * d).mean_dim(&[-1i64][..], true, None);
        (d - normalized * mean) * rstd
    }

    fn tangent(inputs: &[Prim; 4], rstd: &T, factor: &T, moved: [Option<T>; 4]) -> Option<T> {
        let ([x, weight, _, scale], [dx, dweight, dshift, dscale]) = (inputs.each_ref().map(|x| &x.tensor), moved);
        let normalized = x * rstd;
        let by_x = dx.map(|dx| along(&normalized, rstd, &dx) * factor.unsqueeze(1));
        let dfactor = dual::sum([dweight.map(|d| d * (scale + 1.0)), dscale.map(|d| d * weight)]);
        let by_factor = dfactor.map(|d| &normalized * d.unsqueeze(1));
        dual::sum([by_x, by_factor, dshift.map(|d| d.unsqueeze(1).expand_as(x).copy())])
    }

    /// Inputs without tangents; the result, the reciprocal root and the factor.
    fn evaluate(inputs: [Prim; 4], eps: f64) -> ([Prim; 4], [Prim; 3]) {
        let is_half = Precision::current() == Precision::Bf16;
        let (inputs, tangents) = dual::part(inputs.map(half::full_prim));
        let [y, rstd, factor] = forward(inputs.each_ref().map(|input| &input.tensor), eps, is_half);
        let tangent = tangents.and_then(|moved| tangent(&inputs, &rstd, &factor, moved));
        (inputs, [dual::join(fresh(y), tangent), fresh(rstd), fresh(factor)])
    }

    impl ModulatedRmsNormOp for LibTorch {
        fn fused_modulated_rms_norm(
            x: Prim,
            weight: Prim,
            shift: Prim,
            scale: Prim,
            eps: f64,
            _: Option<Waiting>,
        ) -> Prim {
            let (_, [y, ..]) = evaluate([x, weight, shift, scale], eps);
            y
        }
    }

    #[derive(Debug)]
    struct ModulatedRmsNormBackward;
    impl Backward<LibTorch, 4> for ModulatedRmsNormBackward {
        /// Input, weight, scale, reciprocal root, factor.
        type State = ([Prim; 5], Option<Waiting>);
        fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x, to_weight, to_shift, to_scale] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let (kept, waiting) = ops.state;
            let [x, weight, scale, rstd, factor] = kept.each_ref().map(|kept| &kept.tensor);
            let stream = waiting.and_then(|waiting| waiting.take());
            let [gx, gshift, gfactor] = backward(&g, [x, factor, rstd], stream.as_ref());
            register(grads, to_x, fresh(gx));
            let to_rows = &gfactor * (scale + 1.0);
            register(grads, to_weight, fresh(to_rows.sum_dim_intlist(&[0i64][..], false, None)));
            register(grads, to_shift, fresh(gshift));
            register(grads, to_scale, fresh(gfactor * weight));
        }
    }

    impl<C: CheckpointStrategy> ModulatedRmsNormOp for Autodiff<LibTorch, C> {
        fn fused_modulated_rms_norm(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            shift: FloatTensor<Self>,
            scale: FloatTensor<Self>,
            eps: f64,
            waiting: Option<Waiting>,
        ) -> FloatTensor<Self> {
            let parts = [x, weight, shift, scale].map(|input| input.into_parts());
            let [(x, to_x), (weight, to_weight), (shift, to_shift), (scale, to_scale)] = parts;
            let ([x, weight, _, scale], [y, rstd, factor]) = evaluate([x, weight, shift, scale], eps);
            let parents = [to_x, to_weight, to_shift, to_scale];
            match ModulatedRmsNormBackward.prepare::<C>(parents).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(([x, weight, scale, rstd, factor], waiting), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
