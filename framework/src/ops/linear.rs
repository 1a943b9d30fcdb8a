//! Affine map of the last axis.

use burn::tensor::Tensor;

/// `x · weightᵀ + bias`, PyTorch's `nn.Linear`.
///
/// # Shapes
/// * `x`: `[.., in]`
/// * `weight`: `[out, in]`
/// * `bias`: `[out]`
/// * result: `[.., out]`
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) && (bias.is_some() || super::Precision::current() == super::Precision::Bf16) {
        let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &weight.device()));
        return fused::linear(x, weight, bias, false);
    }
    portable(x, weight, bias)
}

/// As [`linear`], for a result that other ops of this module take: under bf16 it is bf16 in memory, too.
///
/// Everything here takes tensors in bf16. Give them to nothing else: burn's own operations would compute in bf16.
///
/// # Shapes
/// As [`linear`].
pub fn hidden_linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) && super::Precision::current() == super::Precision::Bf16 {
        let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &weight.device()));
        return fused::linear(x, weight, bias, true);
    }
    linear(x, weight, bias)
}

fn portable<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let [out, width] = weight.dims();
    let mut shape = x.dims();
    let rows = shape.iter().product::<usize>() / width.max(1);
    shape[D - 1] = out;
    let y = x.reshape([rows, width]).matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    };
    y.reshape(shape)
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;
    use tch::Kind;

    use crate::ops::libtorch::{Prim, T, fresh, register};
    use crate::ops::{Precision, dual, half};

    #[backend_extension(LibTorch, Autodiff)]
    pub trait LinearOp: Backend {
        fn fused_linear(
            x: FloatTensor<Self>,
            w: FloatTensor<Self>,
            b: FloatTensor<Self>,
            is_hidden: bool,
        ) -> FloatTensor<Self>;
    }

    pub fn linear<const D: usize>(x: Tensor<D>, w: Tensor<2>, b: Tensor<1>, is_hidden: bool) -> Tensor<D> {
        Tensor::from_dispatch(<Dispatch as LinearOp>::fused_linear(
            x.into_dispatch(),
            w.into_dispatch(),
            b.into_dispatch(),
            is_hidden,
        ))
    }

    fn forward(x: &Prim, w: &Prim, b: &Prim) -> Prim {
        let (mut shape, weight) = (x.tensor.size(), w.tensor.size());
        let rows = x.tensor.reshape([-1, weight[1]]);
        if let Some(last) = shape.last_mut() {
            *last = weight[0];
        }
        fresh(b.tensor.addmm(&rows, &w.tensor.tr()).view(&shape[..]))
    }

    /// `dx · wᵀ + x · dwᵀ + db`.
    fn tangent(x: &Prim, w: &Prim, y: &Prim, [dx, dw, db]: [Option<T>; 3]) -> Option<T> {
        let (inputs, outputs) = (w.tensor.size()[1], w.tensor.size()[0]);
        let map = |x: &T, w: &T| x.reshape([-1, inputs]).mm(&w.tr()).view(&y.tensor.size()[..]);
        let by_x = dx.map(|dx| map(&dx, &w.tensor));
        let by_w = dw.map(|dw| map(&x.tensor, &dw));
        let by_b = db.map(|db| db.view([outputs]).expand_as(&y.tensor).copy());
        dual::sum([by_x, by_w, by_b])
    }

    /// What the backward pass needs, the first two as they were multiplied.
    #[derive(Debug, Clone)]
    struct Kept {
        x: Prim,
        w: Prim,
        precision: Precision,
        /// Whether the input came in bf16, as its gradient leaves then.
        is_half: bool,
    }

    /// Operands in bf16, and the result: in bf16 where it `is_hidden`.
    fn evaluate_rounded([x, w, b]: [Prim; 3], is_hidden: bool) -> (Kept, Prim) {
        let is_half = half::is_half(&x.tensor);
        let (mut shape, x, w) = (x.tensor.size(), half::rounded_prim(x), half::rounded_prim(w));
        let (inputs, outputs) = (w.tensor.size()[1], w.tensor.size()[0]);
        let rows = x.tensor.reshape([-1, inputs]);
        let y = if is_hidden {
            half::rounded_affine(&half::rounded(&b.tensor), &rows, &w.tensor.tr())
        } else {
            half::matmul(&rows, &w.tensor.tr()).g_add_(&b.tensor)
        };
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        (Kept { x, w, precision: Precision::Bf16, is_half }, fresh(y.view(&shape[..])))
    }

    /// What the backward pass needs, without tangents, and the result.
    fn evaluate(inputs: [Prim; 3], is_hidden: bool) -> (Kept, Prim) {
        let precision = Precision::current();
        if precision == Precision::Bf16 {
            return evaluate_rounded(inputs, is_hidden);
        }
        let ([x, w, b], tangents) = dual::part(inputs.map(half::full_prim));
        let y = forward(&x, &w, &b);
        let tangent = tangents.and_then(|tangents| tangent(&x, &w, &y, tangents));
        (Kept { x, w, precision, is_half: false }, dual::join(y, tangent))
    }

    impl LinearOp for LibTorch {
        fn fused_linear(x: Prim, w: Prim, b: Prim, is_hidden: bool) -> Prim {
            evaluate([x, w, b], is_hidden).1
        }
    }

    #[derive(Debug)]
    struct LinearBackward;
    impl Backward<LibTorch, 3> for LinearBackward {
        type State = Kept;
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x, to_w, to_b] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let Kept { x, w, precision, is_half } = ops.state;
            let (x, w) = (x.tensor, w.tensor);
            let weight = w.size();
            let rows = g.reshape([-1, weight[0]]);
            if to_b.is_some() {
                register(grads, to_b, fresh(rows.sum_dim_intlist(&[0i64][..], false, Kind::Float)));
            }
            let is_rounded = precision == Precision::Bf16;
            let rows = if is_rounded { half::rounded(&rows) } else { half::full(&rows) };
            let multiply: fn(&T, &T) -> T = if is_rounded { half::matmul } else { T::mm };
            precision.scope(|| {
                if to_x.is_some() {
                    let gradient = if is_half { half::rounded_matmul(&rows, &w) } else { multiply(&rows, &w) };
                    register(grads, to_x, fresh(gradient.view(&x.size()[..])));
                }
                if to_w.is_some() {
                    register(grads, to_w, fresh(multiply(&rows.tr(), &x.reshape([-1, weight[1]]))));
                }
            });
        }
    }

    impl<C: CheckpointStrategy> LinearOp for Autodiff<LibTorch, C> {
        fn fused_linear(
            x: FloatTensor<Self>,
            w: FloatTensor<Self>,
            b: FloatTensor<Self>,
            is_hidden: bool,
        ) -> FloatTensor<Self> {
            let ((x, to_x), (w, to_w), (b, to_b)) = (x.into_parts(), w.into_parts(), b.into_parts());
            let (kept, y) = evaluate([x, w, b], is_hidden);
            match LinearBackward.prepare::<C>([to_x, to_w, to_b]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(kept, y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
