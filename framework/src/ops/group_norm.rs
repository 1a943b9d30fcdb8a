//! GroupNorm of pictures, alone and followed by SiLU.

use burn::tensor::Tensor;

/// PyTorch's `group_norm`: zero mean and unit variance over the pixels and channels of each group, then an affine map
/// per channel.
///
/// # Shapes
/// * `x` and result: `[batch, channels, height, width]`, channels a multiple of `num_groups`
/// * `weight`, `bias`: `[channels]`
pub fn group_norm(x: Tensor<4>, num_groups: usize, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::group_norm(x, num_groups, weight, bias, eps, false);
    }
    portable(x, num_groups, weight, bias, eps)
}

/// [`group_norm`], then SiLU, in one pass over the picture.
///
/// # Shapes
/// As [`group_norm`].
pub fn group_norm_silu(x: Tensor<4>, num_groups: usize, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::group_norm(x, num_groups, weight, bias, eps, true);
    }
    super::silu(portable(x, num_groups, weight, bias, eps))
}

fn portable(x: Tensor<4>, num_groups: usize, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<4> {
    let shape @ [batch, channels, height, width] = x.dims();
    let x = x.reshape([batch, num_groups, channels / num_groups * height * width]);
    let centered = x.clone() - x.mean_dim(2);
    let variance = centered.clone().square().mean_dim(2);
    let normalized = (centered / (variance + eps).sqrt()).reshape(shape);
    normalized * weight.reshape([1, channels, 1, 1]) + bias.reshape([1, channels, 1, 1])
}

#[cfg(feature = "tch")]
mod fused {
    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
    use burn::backend::{Autodiff, Backend, Dispatch, LibTorch, backend_extension, tensor::FloatTensor};
    use burn::tensor::Tensor;

    use crate::ops::libtorch::{Handle, Prim, T, channels_last, check, fresh, handle, own, register};
    use crate::ops::{dual, half};

    unsafe extern "C" {
        fn rl_group_norm(
            x: Handle,
            weight: Handle,
            bias: Handle,
            groups: i64,
            eps: f64,
            silu: i32,
            y: *mut Handle,
            mean: *mut Handle,
            rstd: *mut Handle,
        ) -> i32;
        fn rl_group_norm_backward(
            g: Handle,
            x: Handle,
            weight: Handle,
            bias: Handle,
            mean: Handle,
            rstd: Handle,
            groups: i64,
            silu: i32,
            gx: *mut Handle,
            gw: *mut Handle,
            gb: *mut Handle,
        ) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait GroupNormOp: Backend {
        fn fused_group_norm(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            num_groups: usize,
            eps: f64,
            has_silu: bool,
        ) -> FloatTensor<Self>;
    }

    pub fn group_norm(
        x: Tensor<4>,
        num_groups: usize,
        weight: Tensor<1>,
        bias: Tensor<1>,
        eps: f64,
        has_silu: bool,
    ) -> Tensor<4> {
        let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
        Tensor::from_dispatch(<Dispatch as GroupNormOp>::fused_group_norm(x, weight, bias, num_groups, eps, has_silu))
    }

    #[derive(Debug, Clone, Copy)]
    struct GroupNorm {
        num_groups: i64,
        eps: f64,
        has_silu: bool,
    }

    /// What the gradients need: inputs, and per group mean and reciprocal deviation, both `[batch, groups]`.
    #[derive(Debug, Clone)]
    struct Kept {
        inputs: [Prim; 3],
        mean: Prim,
        rstd: Prim,
    }

    impl GroupNorm {
        /// Result, mean and reciprocal deviation.
        fn forward(self, x: &T, weight: &T, bias: &T) -> [Prim; 3] {
            let null = std::ptr::null_mut();
            let (mut y, mut mean, mut rstd) = (null, null, null);
            let (x, silu) = (channels_last(x), i32::from(self.has_silu));
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe {
                let (x, weight, bias) = (handle(&x), handle(weight), handle(bias));
                rl_group_norm(x, weight, bias, self.num_groups, self.eps, silu, &mut y, &mut mean, &mut rstd)
            });
            [y, mean, rstd].map(|tensor| fresh(own(tensor)))
        }

        fn gradients(self, g: &T, kept: &Kept) -> [T; 3] {
            let null = std::ptr::null_mut();
            let (mut gx, mut gw, mut gb) = (null, null, null);
            let [x, weight, bias] = &kept.inputs;
            let (g, x, silu) = (channels_last(g), channels_last(&x.tensor), i32::from(self.has_silu));
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe {
                let (g, x, weight, bias) = (handle(&g), handle(&x), handle(&weight.tensor), handle(&bias.tensor));
                let (mean, rstd) = (handle(&kept.mean.tensor), handle(&kept.rstd.tensor));
                let groups = self.num_groups;
                rl_group_norm_backward(g, x, weight, bias, mean, rstd, groups, silu, &mut gx, &mut gw, &mut gb)
            });
            [gx, gw, gb].map(own)
        }

        fn tangent(self, kept: &Kept, [dx, dweight, dbias]: [Option<T>; 3]) -> Option<T> {
            let [x, weight, bias] = &kept.inputs;
            let size = x.tensor.size();
            let grouped = |x: &T| x.reshape([size[0], self.num_groups, -1]);
            let (mean, rstd) = (kept.mean.tensor.unsqueeze(2), kept.rstd.tensor.unsqueeze(2));
            let normalized = (grouped(&x.tensor) - mean) * &rstd;
            let by_channel = |parameter: &T| parameter.view([1, -1, 1, 1]);
            let by_x = dx.map(|dx| {
                let mean_of = |x: &T| x.mean_dim(&[-1i64][..], true, None);
                let dx = grouped(&dx);
                let along = mean_of(&(&normalized * &dx));
                let moved = (&dx - mean_of(&dx) - &normalized * along) * &rstd;
                moved.view(&size[..]) * by_channel(&weight.tensor)
            });
            let normalized = normalized.view(&size[..]);
            let by_weight = dweight.map(|dweight| &normalized * by_channel(&dweight));
            let by_bias = dbias.map(|dbias| by_channel(&dbias).expand_as(&x.tensor).copy());
            let sum = dual::sum([by_x, by_weight, by_bias])?;
            if !self.has_silu {
                return Some(sum);
            }
            let affine = normalized * by_channel(&weight.tensor) + by_channel(&bias.tensor);
            Some(affine.silu_backward(&sum))
        }

        /// The result, and what its gradients need.
        fn evaluate(self, inputs: [Prim; 3]) -> (Kept, Prim) {
            let (inputs, tangents) = dual::part(inputs.map(half::full_prim));
            let [x, weight, bias] = &inputs;
            let [y, mean, rstd] = self.forward(&x.tensor, &weight.tensor, &bias.tensor);
            let kept = Kept { inputs, mean, rstd };
            let tangent = tangents.and_then(|tangents| self.tangent(&kept, tangents));
            (kept, dual::join(y, tangent))
        }
    }

    impl GroupNormOp for LibTorch {
        fn fused_group_norm(x: Prim, weight: Prim, bias: Prim, num_groups: usize, eps: f64, has_silu: bool) -> Prim {
            GroupNorm { num_groups: num_groups as i64, eps, has_silu }.evaluate([x, weight, bias]).1
        }
    }

    impl Backward<LibTorch, 3> for GroupNorm {
        type State = Kept;
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let nodes = ops.parents.map(|node| node.map(|node| node.id));
            let g = half::full(&grads.consume::<LibTorch>(&ops.node).tensor);
            for (node, gradient) in nodes.into_iter().zip(self.gradients(&g, &ops.state)) {
                register(grads, node, fresh(gradient));
            }
        }
    }

    impl<C: CheckpointStrategy> GroupNormOp for Autodiff<LibTorch, C> {
        fn fused_group_norm(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            num_groups: usize,
            eps: f64,
            has_silu: bool,
        ) -> FloatTensor<Self> {
            let op = GroupNorm { num_groups: num_groups as i64, eps, has_silu };
            let ((x, to_x), (weight, to_weight), (bias, to_bias)) =
                (x.into_parts(), weight.into_parts(), bias.into_parts());
            let (kept, y) = op.evaluate([x, weight, bias]);
            match op.prepare::<C>([to_x, to_weight, to_bias]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(kept, y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
