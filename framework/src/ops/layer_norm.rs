//! LayerNorm, with and without the modulation that follows it in adaptive blocks.

use burn::tensor::{Tensor, module};

/// LayerNorm over the last axis with affine parameters.
///
/// # Shapes
/// * `x`: `[.., channels]`
/// * `weight`, `bias`: `[channels]`
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return super::affine_layer_norm::affine_layer_norm(x, weight, bias, eps);
    }
    if !x.is_autodiff() {
        return module::layer_norm(x, weight, Some(bias), eps); // flex has one kernel for it, without a gradient
    }
    normalize(x, eps) * weight.unsqueeze::<D>() + bias.unsqueeze::<D>()
}

/// LayerNorm without affine parameters, then [`modulate`]. The result is for other ops here: under bf16 it is bf16 in
/// memory, as that of [`hidden_linear`](super::hidden_linear).
///
/// # Shapes
/// * `x`: `[batch, tokens, channels]`
/// * `shift`, `scale`: `[batch, channels]`
pub fn modulated_layer_norm(x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>, eps: f64) -> Tensor<3> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::modulated_layer_norm(x, shift, scale, eps, None);
    }
    modulate(normalize(x, eps), shift, scale)
}

/// A residual stream, and [`modulated_layer_norm`] of it for the branch that leaves it.
///
/// The gradients of both meet in one pass over memory. The branch must have a gradient wherever the stream has one:
/// [`gated_residual`](super::gated_residual) of both sees to that.
///
/// # Shapes
/// As [`modulated_layer_norm`].
pub fn forked_layer_norm(x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>, eps: f64) -> (Tensor<3>, Tensor<3>) {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        let waiting = super::fork::Waiting::default();
        let normed = fused::modulated_layer_norm(x.clone(), shift, scale, eps, Some(waiting.clone()));
        return (super::fork::stream(x, &normed, waiting), normed);
    }
    (x.clone(), modulated_layer_norm(x, shift, scale, eps))
}

/// `x · (1 + scale) + shift`, both repeated over tokens (adaLN).
///
/// # Shapes
/// * `x`: `[batch, tokens, channels]`
/// * `shift`, `scale`: `[batch, channels]`
pub fn modulate(x: Tensor<3>, shift: Tensor<2>, scale: Tensor<2>) -> Tensor<3> {
    x * (scale.unsqueeze_dim::<3>(1) + 1.0) + shift.unsqueeze_dim::<3>(1)
}

/// Splits the last axis into `N` equal parts: the shifts, scales and gates that one Linear makes (adaLN).
///
/// # Shapes
/// * `x`: `[batch, N · channels]`, results: `[batch, channels]`
pub fn chunk<const N: usize>(x: Tensor<2>) -> [Tensor<2>; N] {
    let width = x.dims()[1] / N;
    std::array::from_fn(|part| x.clone().narrow(1, part * width, width))
}

fn normalize<const D: usize>(x: Tensor<D>, eps: f64) -> Tensor<D> {
    let centered = x.clone() - x.mean_dim(D - 1);
    let variance = centered.clone().square().mean_dim(D - 1);
    centered / (variance + eps).sqrt()
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
        fn rl_layer_norm_backward(g: Handle, x: Handle, mean: Handle, rstd: Handle, d: i64, gx: *mut Handle) -> i32;
        fn rl_modulated_norm(
            x: Handle,
            shift: Handle,
            scale: Handle,
            eps: f64,
            y: *mut Handle,
            mean: *mut Handle,
            rstd: *mut Handle,
        ) -> i32;
        fn rl_modulated_norm_backward(
            g: Handle,
            x: Handle,
            scale: Handle,
            mean: Handle,
            rstd: Handle,
            gx: *mut Handle,
            gshift: *mut Handle,
            gscale: *mut Handle,
        ) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait ModulatedNormOp: Backend {
        fn fused_modulated_norm(
            x: FloatTensor<Self>,
            shift: FloatTensor<Self>,
            scale: FloatTensor<Self>,
            eps: f64,
            waiting: Option<Waiting>,
        ) -> FloatTensor<Self>;
    }

    pub fn modulated_layer_norm(
        x: Tensor<3>,
        shift: Tensor<2>,
        scale: Tensor<2>,
        eps: f64,
        waiting: Option<Waiting>,
    ) -> Tensor<3> {
        Tensor::from_dispatch(<Dispatch as ModulatedNormOp>::fused_modulated_norm(
            x.into_dispatch(),
            shift.into_dispatch(),
            scale.into_dispatch(),
            eps,
            waiting,
        ))
    }

    /// Result, mean and reciprocal deviation, the last two `[batch, tokens, 1]`.
    fn forward(x: &T, shift: &T, scale: &T, eps: f64, is_half: bool) -> [T; 3] {
        if cuda::serves(x, x.size()[2], true) {
            return cuda::norm(Norm::Layer, [x, shift, scale], eps, is_half);
        }
        let [y, mean, rstd] = forward_in_f32(x, shift, scale, eps);
        [if is_half { half::rounded(&y) } else { y }, mean, rstd]
    }

    fn forward_in_f32(x: &T, shift: &T, scale: &T, eps: f64) -> [T; 3] {
        if is_cpu_f32(x) {
            let null = std::ptr::null_mut();
            let (mut y, mut mean, mut rstd) = (null, null, null);
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe {
                rl_modulated_norm(handle(x), handle(shift), handle(scale), eps, &mut y, &mut mean, &mut rstd)
            });
            return [y, mean, rstd].map(own);
        }
        let channels = x.size()[2];
        let (normalized, mean, rstd) = x.native_layer_norm::<T>([channels], None, None, eps);
        [shift.unsqueeze(1).addcmul(&normalized, &(scale.unsqueeze(1) + 1.0)), mean, rstd]
    }

    /// Gradients of input, shift and scale; `stream` is added to the first.
    fn backward(g: &T, [x, scale, mean, rstd]: [&T; 4], stream: Option<&T>) -> [T; 3] {
        if cuda::serves(x, x.size()[2], true) {
            return cuda::norm_backward(Norm::Layer, g, [x, scale, mean, rstd], stream);
        }
        let [gx, gshift, gscale] = backward_in_f32(g, x, scale, mean, rstd);
        [half::with(gx, stream), gshift, gscale]
    }

    fn backward_in_f32(g: &T, x: &T, scale: &T, mean: &T, rstd: &T) -> [T; 3] {
        let g = &half::full(g);
        let null = std::ptr::null_mut();
        let (mut gx, mut gshift, mut gscale) = (null, null, null);
        if is_cpu_f32(x) {
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe {
                rl_modulated_norm_backward(
                    handle(g),
                    handle(x),
                    handle(scale),
                    handle(mean),
                    handle(rstd),
                    &mut gx,
                    &mut gshift,
                    &mut gscale,
                )
            });
            return [gx, gshift, gscale].map(own);
        }
        let normalized = (x - mean) * rstd;
        let to_scale = (g * &normalized).sum_dim_intlist(&[1i64][..], false, None);
        let to_shift = g.sum_dim_intlist(&[1i64][..], false, None);
        let to_normalized = g * (scale.unsqueeze(1) + 1.0);
        // SAFETY: live tensors in, an owned tensor out.
        check(unsafe {
            rl_layer_norm_backward(handle(&to_normalized), handle(x), handle(mean), handle(rstd), x.size()[2], &mut gx)
        });
        [own(gx), to_shift, to_scale]
    }

    fn tangent(x: &T, scale: &T, mean: &T, rstd: &T, [dx, dshift, dscale]: [Option<T>; 3]) -> Option<T> {
        let normalized = (x - mean) * rstd;
        let by_x = dx.map(|dx| {
            let mean_of = |x: &T| x.mean_dim(&[-1i64][..], true, None);
            let along = mean_of(&(&normalized * &dx));
            let d_normalized = (&dx - mean_of(&dx) - &normalized * along) * rstd;
            d_normalized * (scale.unsqueeze(1) + 1.0)
        });
        let by_scale = dscale.map(|dscale| normalized * dscale.unsqueeze(1));
        let by_shift = dshift.map(|dshift| dshift.unsqueeze(1).expand_as(x).copy());
        dual::sum([by_x, by_scale, by_shift])
    }

    /// Inputs without tangents; the result, mean and reciprocal deviation.
    fn evaluate(inputs: [Prim; 3], eps: f64) -> ([Prim; 3], [Prim; 3]) {
        let is_half = Precision::current() == Precision::Bf16;
        let ([x, shift, scale], tangents) = dual::part(inputs.map(half::full_prim));
        let [y, mean, rstd] = forward(&x.tensor, &shift.tensor, &scale.tensor, eps, is_half);
        let tangent = tangents.and_then(|tangents| tangent(&x.tensor, &scale.tensor, &mean, &rstd, tangents));
        ([x, shift, scale], [dual::join(fresh(y), tangent), fresh(mean), fresh(rstd)])
    }

    impl ModulatedNormOp for LibTorch {
        fn fused_modulated_norm(x: Prim, shift: Prim, scale: Prim, eps: f64, _: Option<Waiting>) -> Prim {
            let (_, [y, ..]) = evaluate([x, shift, scale], eps);
            y
        }
    }

    #[derive(Debug)]
    struct ModulatedNormBackward;
    impl Backward<LibTorch, 3> for ModulatedNormBackward {
        type State = ([Prim; 4], Option<Waiting>);
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x, to_shift, to_scale] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node);
            let (kept, waiting) = ops.state;
            let stream = waiting.and_then(|waiting| waiting.take());
            let kept = kept.each_ref().map(|kept| &kept.tensor);
            let [gx, gshift, gscale] = backward(&g.tensor, kept, stream.as_ref());
            register(grads, to_x, fresh(gx));
            register(grads, to_shift, fresh(gshift));
            register(grads, to_scale, fresh(gscale));
        }
    }

    impl<C: CheckpointStrategy> ModulatedNormOp for Autodiff<LibTorch, C> {
        fn fused_modulated_norm(
            x: FloatTensor<Self>,
            shift: FloatTensor<Self>,
            scale: FloatTensor<Self>,
            eps: f64,
            waiting: Option<Waiting>,
        ) -> FloatTensor<Self> {
            let ((x, to_x), (shift, to_shift), (scale, to_scale)) =
                (x.into_parts(), shift.into_parts(), scale.into_parts());
            let ([x, _, scale], [y, mean, rstd]) = evaluate([x, shift, scale], eps);
            match ModulatedNormBackward.prepare::<C>([to_x, to_shift, to_scale]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(([x, scale, mean, rstd], waiting), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
