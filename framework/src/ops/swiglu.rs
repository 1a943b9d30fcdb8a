//! The gated activation of SwiGLU.

use burn::tensor::Tensor;

use super::silu;

/// `silu(a) · b` for the two halves of the last axis, `a` first (Shazeer, 2020), in the type of what it gets.
///
/// # Shapes
/// * `x`: `[.., 2 · channels]`, result: `[.., channels]`
pub fn swiglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let shape = x.dims();
    let (width, channels) = (shape[D - 1], shape[D - 1] / 2);
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        let rows = shape[..D - 1].iter().product();
        let halved = std::array::from_fn::<_, D, _>(|axis| if axis == D - 1 { channels } else { shape[axis] });
        return fused::swiglu(x.reshape([rows, width])).reshape(halved);
    }
    silu(x.clone().narrow(D - 1, 0, channels)) * x.narrow(D - 1, channels, width - channels)
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use crate::ops::libtorch::{Handle, Prim, T, check, fresh, handle, is_cpu_f32, own, register};
    use crate::ops::{cuda, dual, half};

    unsafe extern "C" {
        fn rl_swiglu(x: Handle, y: *mut Handle) -> i32;
        fn rl_swiglu_backward(g: Handle, x: Handle, gx: *mut Handle) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait SwiGluOp: Backend {
        fn fused_swiglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    pub fn swiglu(x: Tensor<2>) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as SwiGluOp>::fused_swiglu(x.into_dispatch()))
    }

    fn halves(x: &T) -> [T; 2] {
        let channels = x.size()[1] / 2;
        [x.narrow(1, 0, channels), x.narrow(1, channels, channels)]
    }

    fn forward(x: &T) -> T {
        if cuda::serves(x, x.size()[1] / 2, false) {
            return cuda::swiglu(x);
        }
        half::as_in(forward_in_f32(&half::full(x)), x)
    }

    fn backward(g: &T, x: &T) -> T {
        if cuda::serves(x, x.size()[1] / 2, false) {
            return cuda::swiglu_backward(g, x);
        }
        half::as_in(backward_in_f32(&half::full(g), &half::full(x)), x)
    }

    fn forward_in_f32(x: &T) -> T {
        if is_cpu_f32(x) {
            let mut y = std::ptr::null_mut();
            // SAFETY: a live tensor in, an owned tensor out.
            check(unsafe { rl_swiglu(handle(x), &mut y) });
            return own(y);
        }
        let [a, b] = halves(x);
        a.silu() * b
    }

    fn backward_in_f32(g: &T, x: &T) -> T {
        if is_cpu_f32(x) {
            let mut gx = std::ptr::null_mut();
            // SAFETY: live tensors in, an owned tensor out.
            check(unsafe { rl_swiglu_backward(handle(g), handle(x), &mut gx) });
            return own(gx);
        }
        let [a, b] = halves(x);
        T::cat(&[a.silu_backward(&(g * b)), g * a.silu()], 1)
    }

    /// The input without tangent, and the result.
    fn evaluate(x: Prim) -> (Prim, Prim) {
        let ([x], tangents) = dual::part([x]);
        let y = fresh(forward(&x.tensor));
        let tangent = tangents.and_then(|[dx]| dx).map(|dx| {
            let ([a, b], [da, db]) = (halves(&x.tensor), halves(&dx));
            a.silu_backward(&(da * b)) + a.silu() * db
        });
        (x, dual::join(y, tangent))
    }

    impl SwiGluOp for LibTorch {
        fn fused_swiglu(x: Prim) -> Prim {
            evaluate(x).1
        }
    }

    #[derive(Debug)]
    struct SwiGluBackward;
    impl Backward<LibTorch, 1> for SwiGluBackward {
        type State = Prim;
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            register(grads, to_x, fresh(backward(&g, &ops.state.tensor)));
        }
    }

    impl<C: CheckpointStrategy> SwiGluOp for Autodiff<LibTorch, C> {
        fn fused_swiglu(x: FloatTensor<Self>) -> FloatTensor<Self> {
            let (x, to_x) = x.into_parts();
            let (x, y) = evaluate(x);
            match SwiGluBackward.prepare::<C>([to_x]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(x, y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
