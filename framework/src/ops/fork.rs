//! Where a residual stream goes on and a branch leaves it through a norm.
//!
//! Both give the stream a gradient. The one of the stream itself waits until the norm's is computed, which adds it in the
//! same pass over memory.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::libtorch::{Prim, T};

/// The gradient of a stream, between the backward pass of the stream and that of the norm.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<Option<Prim>>>);

impl Waiting {
    /// The gradient, which waits no more.
    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(|gradient| gradient.tensor)
    }

    fn put(&self, gradient: Prim) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }
}

#[backend_extension(LibTorch, Autodiff)]
pub trait ForkOp: Backend {
    fn fork(x: FloatTensor<Self>, normed: FloatTensor<Self>, waiting: Waiting) -> FloatTensor<Self>;
}

/// `x`, whose gradient waits for that of `normed`, a norm of `x` that knows of `waiting`.
pub(super) fn stream(x: Tensor<3>, normed: &Tensor<3>, waiting: Waiting) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as ForkOp>::fork(x.into_dispatch(), normed.clone().into_dispatch(), waiting))
}

impl ForkOp for LibTorch {
    fn fork(x: Prim, _: Prim, _: Waiting) -> Prim {
        x
    }
}

#[derive(Debug)]
struct ForkBackward;
impl Backward<LibTorch, 2> for ForkBackward {
    type State = Waiting;
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        ops.state.put(grads.consume::<LibTorch>(&ops.node));
    }
}

impl<C: CheckpointStrategy> ForkOp for Autodiff<LibTorch, C> {
    fn fork(x: FloatTensor<Self>, normed: FloatTensor<Self>, waiting: Waiting) -> FloatTensor<Self> {
        let ((x, to_x), (_, to_normed)) = (x.into_parts(), normed.into_parts());
        // The norm is a parent for the order alone: its backward pass comes after this one.
        match ForkBackward.prepare::<C>([to_x, to_normed]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(waiting, x),
            OpsKind::UnTracked(prep) => prep.finish(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::{self, DeviceChoice};
    use burn::tensor::Tensor;

    /// The stream's gradient waits for the branch's: without the branch it would be lost.
    #[test]
    fn a_stream_whose_branch_is_dropped_is_an_error_and_no_wrong_gradient() {
        let device = ops::open(DeviceChoice::Cpu).unwrap().autodiff();
        let x = Tensor::<3>::ones([2, 3, 4], &device).require_grad();
        let row = || Tensor::<2>::ones([2, 4], &device);
        let (stream, branch) = ops::forked_layer_norm(x.clone(), row(), row(), 1e-6);
        drop(branch);
        assert!(ops::guard(|| Ok(stream.sum().backward())).is_err());
    }
}
