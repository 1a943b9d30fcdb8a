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
        return fused::linear(x, weight, bias);
    }
    portable(x, weight, bias)
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

    use crate::ops::libtorch::{Prim, T, fresh, register};
    use crate::ops::{Precision, dual, half};

    #[backend_extension(LibTorch, Autodiff)]
    pub trait LinearOp: Backend {
        fn fused_linear(x: FloatTensor<Self>, w: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    pub fn linear<const D: usize>(x: Tensor<D>, w: Tensor<2>, b: Tensor<1>) -> Tensor<D> {
        Tensor::from_dispatch(<Dispatch as LinearOp>::fused_linear(
            x.into_dispatch(),
            w.into_dispatch(),
            b.into_dispatch(),
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

    /// The input as the backward pass needs it, the weight, and the result, for operands in bf16.
    fn evaluate_rounded([x, w, b]: [Prim; 3]) -> ([Prim; 3], Prim) {
        let (mut shape, weight) = (x.tensor.size(), half::rounded(&w.tensor));
        let x = half::rounded(&x.tensor);
        let mut y = half::matmul(&x.reshape([-1, weight.size()[1]]), &weight.tr());
        let _ = y.g_add_(&b.tensor);
        if let Some(last) = shape.last_mut() {
            *last = weight.size()[0];
        }
        ([fresh(x), w, b], fresh(y.view(&shape[..])))
    }

    /// Inputs without tangents as the backward pass needs them, and the result.
    fn evaluate(inputs: [Prim; 3]) -> ([Prim; 3], Prim) {
        if Precision::current() == Precision::Bf16 {
            return evaluate_rounded(inputs);
        }
        let ([x, w, b], tangents) = dual::part(inputs);
        let y = forward(&x, &w, &b);
        let tangent = tangents.and_then(|tangents| tangent(&x, &w, &y, tangents));
        ([x, w, b], dual::join(y, tangent))
    }

    impl LinearOp for LibTorch {
        fn fused_linear(x: Prim, w: Prim, b: Prim) -> Prim {
            evaluate([x, w, b]).1
        }
    }

    #[derive(Debug)]
    struct LinearBackward;
    impl Backward<LibTorch, 3> for LinearBackward {
        type State = (Prim, Prim, Precision);
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x, to_w, to_b] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let (x, w, precision) = (ops.state.0.tensor, ops.state.1.tensor, ops.state.2);
            let weight = w.size();
            let rows = g.reshape([-1, weight[0]]);
            if to_b.is_some() {
                register(grads, to_b, fresh(rows.sum_dim_intlist(&[0i64][..], false, None)));
            }
            let (rows, w, multiply): (T, T, fn(&T, &T) -> T) = match precision {
                Precision::Bf16 => (half::rounded(&rows), half::rounded(&w), half::matmul),
                Precision::F32 | Precision::Tf32 => (rows, w, T::mm),
            };
            precision.scope(|| {
                if to_x.is_some() {
                    register(grads, to_x, fresh(multiply(&rows, &w).view(&x.size()[..])));
                }
                if to_w.is_some() {
                    register(grads, to_w, fresh(multiply(&rows.tr(), &x.reshape([-1, weight[1]]))));
                }
            });
        }
    }

    impl<C: CheckpointStrategy> LinearOp for Autodiff<LibTorch, C> {
        fn fused_linear(x: FloatTensor<Self>, w: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
            let ((x, to_x), (w, to_w), (b, to_b)) = (x.into_parts(), w.into_parts(), b.into_parts());
            let ([x, w, _], y) = evaluate([x, w, b]);
            match LinearBackward.prepare::<C>([to_x, to_w, to_b]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((x, w, Precision::current()), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
