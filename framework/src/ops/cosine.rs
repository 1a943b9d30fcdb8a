//! Cosine similarity of two sets of tokens.

use burn::tensor::Tensor;

/// The mean over tokens of `<z/max(|z|, eps), target/max(|target|, eps)>`; no gradient reaches the target.
///
/// # Shapes
/// * `z`, `target`: `[batch, tokens, channels]`
/// * result: `[1]`, in `[-1, 1]`
pub fn mean_cosine_similarity(z: Tensor<3>, target: Tensor<3>, eps: f64) -> Tensor<1> {
    let [z, target] = [z, target.detach()].map(super::precision::full);
    #[cfg(feature = "tch")]
    if super::device::on_libtorch_cpu(&z.device()) && !super::dual::is_open() {
        return fused::mean_cosine(z, target, eps);
    }
    (unit(z, eps) * unit(target, eps)).sum_dim(2).mean()
}

fn unit(x: Tensor<3>, eps: f64) -> Tensor<3> {
    // Clamped before the root: the root's gradient is infinite at zero.
    let norm = x.clone().square().sum_dim(2).clamp_min(eps * eps).sqrt();
    x / norm
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use crate::ops::libtorch::{Handle, Prim, T, check, fresh, handle, own, register};

    unsafe extern "C" {
        fn rl_cosine(z: Handle, target: Handle, eps: f64, mean: *mut Handle, stats: *mut Handle) -> i32;
        fn rl_cosine_backward(g: Handle, z: Handle, target: Handle, stats: Handle, eps: f64, gz: *mut Handle) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait CosineOp: Backend {
        fn fused_cosine(z: FloatTensor<Self>, target: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    }

    pub fn mean_cosine(z: Tensor<3>, target: Tensor<3>, eps: f64) -> Tensor<1> {
        let [batch, tokens, channels] = z.dims();
        let rows = [batch * tokens, channels];
        Tensor::from_dispatch(<Dispatch as CosineOp>::fused_cosine(
            z.reshape(rows).into_dispatch(),
            target.reshape(rows).into_dispatch(),
            eps,
        ))
    }

    /// Mean, and per row `|z|²`, `|target|²`, `<z, target>`.
    fn forward(z: &T, target: &T, eps: f64) -> (Prim, Prim) {
        let (mut mean, mut stats) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: live f32 CPU tensors in, owned tensors out.
        check(unsafe { rl_cosine(handle(z), handle(target), eps, &mut mean, &mut stats) });
        (fresh(own(mean)), fresh(own(stats)))
    }

    impl CosineOp for LibTorch {
        fn fused_cosine(z: Prim, target: Prim, eps: f64) -> Prim {
            forward(&z.tensor, &target.tensor, eps).0
        }
    }

    #[derive(Debug)]
    struct CosineBackward;
    impl Backward<LibTorch, 1> for CosineBackward {
        type State = (Prim, Prim, Prim, f64);
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let node = ops.parents[0].as_ref().map(|node| node.id);
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let (z, target, stats, eps) = ops.state;
            let mut gz = std::ptr::null_mut();
            // SAFETY: live f32 CPU tensors in, an owned tensor out.
            check(unsafe {
                let (z, target, stats) = (handle(&z.tensor), handle(&target.tensor), handle(&stats.tensor));
                rl_cosine_backward(handle(&g), z, target, stats, eps, &mut gz)
            });
            register(grads, node, fresh(own(gz)));
        }
    }

    impl<C: CheckpointStrategy> CosineOp for Autodiff<LibTorch, C> {
        fn fused_cosine(z: FloatTensor<Self>, target: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
            let ((z, to_z), (target, _)) = (z.into_parts(), target.into_parts());
            let (mean, stats) = forward(&z.tensor, &target.tensor, eps);
            match CosineBackward.prepare::<C>([to_z]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((z, target, stats, eps), mean),
                OpsKind::UnTracked(prep) => prep.finish(mean),
            }
        }
    }
}
