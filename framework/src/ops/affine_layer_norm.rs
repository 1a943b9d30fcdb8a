//! libtorch's LayerNorm with weight and bias, with its gradient and tangent.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::libtorch::{Handle, Prim, T, check, fresh, handle, own, register};
use super::{dual, half};

unsafe extern "C" {
    fn rl_layer_norm_backward(g: Handle, x: Handle, mean: Handle, rstd: Handle, d: i64, gx: *mut Handle) -> i32;
}

#[backend_extension(LibTorch, Autodiff)]
pub trait AffineNormOp: Backend {
    fn fused_affine_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
}

pub fn affine_layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as AffineNormOp>::fused_affine_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        eps,
    ))
}

fn tangent(x: &T, weight: &T, mean: &T, rstd: &T, [dx, dweight, dbias]: [Option<T>; 3]) -> Option<T> {
    let normalized = (x - mean) * rstd;
    let by_x = dx.map(|dx| {
        let mean_of = |x: &T| x.mean_dim(&[-1i64][..], true, None);
        let along = mean_of(&(&normalized * &dx));
        (&dx - mean_of(&dx) - &normalized * along) * rstd * weight
    });
    let by_weight = dweight.map(|dweight| normalized * dweight);
    let by_bias = dbias.map(|dbias| dbias.expand_as(x).copy());
    dual::sum([by_x, by_weight, by_bias])
}

/// Inputs without tangents; the result, mean and reciprocal deviation.
fn evaluate(inputs: [Prim; 3], eps: f64) -> ([Prim; 3], [Prim; 3]) {
    let ([x, weight, bias], tangents) = dual::part(inputs.map(half::full_prim));
    let channels = weight.tensor.size();
    let (y, mean, rstd) = x.tensor.native_layer_norm(channels, Some(&weight.tensor), Some(&bias.tensor), eps);
    let tangent = tangents.and_then(|tangents| tangent(&x.tensor, &weight.tensor, &mean, &rstd, tangents));
    ([x, weight, bias], [dual::join(fresh(y), tangent), fresh(mean), fresh(rstd)])
}

impl AffineNormOp for LibTorch {
    fn fused_affine_norm(x: Prim, weight: Prim, bias: Prim, eps: f64) -> Prim {
        let (_, [y, ..]) = evaluate([x, weight, bias], eps);
        y
    }
}

#[derive(Debug)]
struct AffineNormBackward;
impl Backward<LibTorch, 3> for AffineNormBackward {
    type State = [Prim; 4];
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [to_x, to_weight, to_bias] = ops.parents.map(|node| node.map(|node| node.id));
        let g = half::full(&grads.consume::<LibTorch>(&ops.node).tensor);
        let [x, weight, mean, rstd] = ops.state.map(|state| state.tensor);
        let over_rows = |x: T| x.reshape([-1, weight.size()[0]]).sum_dim_intlist(&[0i64][..], false, None);
        if to_weight.is_some() {
            register(grads, to_weight, fresh(over_rows((&x - &mean) * &rstd * &g)));
        }
        if to_bias.is_some() {
            register(grads, to_bias, fresh(over_rows(g.copy())));
        }
        if to_x.is_some() {
            let (to_normalized, mut gx) = (g * &weight, std::ptr::null_mut());
            // SAFETY: live tensors in, an owned tensor out.
            check(unsafe {
                let (g, x, mean, rstd) = (handle(&to_normalized), handle(&x), handle(&mean), handle(&rstd));
                rl_layer_norm_backward(g, x, mean, rstd, weight.size()[0], &mut gx)
            });
            register(grads, to_x, fresh(own(gx)));
        }
    }
}

impl<C: CheckpointStrategy> AffineNormOp for Autodiff<LibTorch, C> {
    fn fused_affine_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let ((x, to_x), (weight, to_weight), (bias, to_bias)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let ([x, weight, _], [y, mean, rstd]) = evaluate([x, weight, bias], eps);
        match AffineNormBackward.prepare::<C>([to_x, to_weight, to_bias]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([x, weight, mean, rstd], y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
