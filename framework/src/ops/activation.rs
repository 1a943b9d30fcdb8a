//! Pointwise activations.

use burn::tensor::{Tensor, activation};

/// GELU in its tanh form, in the type of what it gets: `x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))`.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::gelu(x);
    }
    activation::gelu_approximate(x)
}

/// `x · sigmoid(x)`, in the type of what it gets.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::silu(x);
    }
    activation::silu(x)
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use crate::ops::dual;
    use crate::ops::libtorch::{Prim, T, fresh, register};

    #[backend_extension(LibTorch, Autodiff)]
    pub trait ActivationOp: Backend {
        fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
        fn fused_silu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
        Tensor::from_dispatch(<Dispatch as ActivationOp>::fused_gelu(x.into_dispatch()))
    }

    pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
        Tensor::from_dispatch(<Dispatch as ActivationOp>::fused_silu(x.into_dispatch()))
    }

    #[derive(Debug, Clone, Copy)]
    enum Activation {
        Gelu,
        Silu,
    }

    impl Activation {
        fn forward(self, x: &Prim) -> Prim {
            fresh(match self {
                Self::Gelu => x.tensor.gelu("tanh"),
                Self::Silu => x.tensor.silu(),
            })
        }

        /// `by` times the derivative, which is diagonal: gradients and tangents take the same factor.
        fn scaled(self, x: &T, by: &T) -> T {
            let by = &by.to_kind(x.kind());
            match self {
                Self::Gelu => x.gelu_backward(by, "tanh"),
                Self::Silu => x.silu_backward(by),
            }
        }

        /// The input without tangent, and the result.
        fn evaluate(self, x: Prim) -> (Prim, Prim) {
            let ([x], tangents) = dual::part([x]);
            let y = self.forward(&x);
            let tangent = tangents.and_then(|[dx]| dx).map(|dx| self.scaled(&x.tensor, &dx));
            (x, dual::join(y, tangent))
        }
    }

    impl ActivationOp for LibTorch {
        fn fused_gelu(x: Prim) -> Prim {
            Activation::Gelu.evaluate(x).1
        }
        fn fused_silu(x: Prim) -> Prim {
            Activation::Silu.evaluate(x).1
        }
    }

    impl Backward<LibTorch, 1> for Activation {
        type State = Prim;
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            register(grads, to_x, fresh(self.scaled(&ops.state.tensor, &g)));
        }
    }

    fn tracked<C: CheckpointStrategy>(
        op: Activation,
        x: FloatTensor<Autodiff<LibTorch, C>>,
    ) -> FloatTensor<Autodiff<LibTorch, C>> {
        let (x, to_x) = x.into_parts();
        let (x, y) = op.evaluate(x);
        match op.prepare::<C>([to_x]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    impl<C: CheckpointStrategy> ActivationOp for Autodiff<LibTorch, C> {
        fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
            tracked::<C>(Activation::Gelu, x)
        }
        fn fused_silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
            tracked::<C>(Activation::Silu, x)
        }
    }
}
