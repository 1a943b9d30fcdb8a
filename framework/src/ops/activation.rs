//! Pointwise activations.

use burn::tensor::{Tensor, activation};

/// GELU in its tanh form: `x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))`.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::gelu(x);
    }
    activation::gelu_approximate(x)
}

/// `x · sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::silu(x);
    }
    activation::silu(x)
}

/// `silu(a) · b` for the two halves of the last axis, `a` first (Shazeer, 2020).
///
/// # Shapes
/// * `x`: `[.., 2 · channels]`, result: `[.., channels]`
pub fn swiglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let channels = x.dims()[D - 1] / 2;
    silu(x.clone().narrow(D - 1, 0, channels)) * x.narrow(D - 1, channels, channels)
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use crate::ops::libtorch::{Prim, fresh, register};

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
    }

    impl ActivationOp for LibTorch {
        fn fused_gelu(x: Prim) -> Prim {
            Activation::Gelu.forward(&x)
        }
        fn fused_silu(x: Prim) -> Prim {
            Activation::Silu.forward(&x)
        }
    }

    impl Backward<LibTorch, 1> for Activation {
        type State = Prim;
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let x = ops.state.tensor;
            let gradient = match self {
                Self::Gelu => x.gelu_backward(&g, "tanh"),
                Self::Silu => x.silu_backward(&g),
            };
            register(grads, to_x, fresh(gradient));
        }
    }

    fn tracked<C: CheckpointStrategy>(
        op: Activation,
        x: FloatTensor<Autodiff<LibTorch, C>>,
    ) -> FloatTensor<Autodiff<LibTorch, C>> {
        let (x, to_x) = x.into_parts();
        match op.prepare::<C>([to_x]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = op.forward(&x);
                prep.finish(x, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(op.forward(&x)),
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
