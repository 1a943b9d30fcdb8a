//! Queries and keys that are normalized and turned before they meet.

use burn::tensor::Tensor;

use super::{attention::unpack_heads, rms_norm, rotate_pairs};

/// [`rms_norm`] of every head's query and key, then [`rotate_pairs`]; values stay as they are.
///
/// # Shapes
/// * `qkv` and result: `[batch, tokens, 3 · heads · head_dim]`, the layout of [`attention_packed`](super::attention_packed)
/// * `q_weight`, `k_weight`: `[head_dim]`
/// * `cos`, `sin`: `[tokens, head_dim / 2]`, constants: they get no gradient
pub fn rotary_qk_norm(
    qkv: Tensor<3>,
    heads: usize,
    [q_weight, k_weight]: [Tensor<1>; 2],
    [cos, sin]: [Tensor<2>; 2],
    eps: f64,
) -> Tensor<3> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&qkv.device()) {
        return fused::rotary_qk_norm(qkv, heads, [q_weight, k_weight], [cos, sin], eps);
    }
    let [batch, tokens, channels] = qkv.dims();
    let [q, k, v] = unpack_heads(qkv, heads);
    let turned = |x, weight| rotate_pairs(rms_norm(x, weight, eps), cos.clone(), sin.clone());
    let parts = [turned(q, q_weight), turned(k, k_weight), v];
    Tensor::stack::<5>(parts.map(|part| part.swap_dims(1, 2)).to_vec(), 2).reshape([batch, tokens, channels])
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
        fn rl_rotary_qk_norm(
            qkv: Handle,
            heads: i64,
            q: Handle,
            k: Handle,
            cos: Handle,
            sin: Handle,
            eps: f64,
            y: *mut Handle,
            rstd: *mut Handle,
        ) -> i32;
        fn rl_rotary_qk_norm_backward(
            g: Handle,
            qkv: Handle,
            heads: i64,
            q: Handle,
            k: Handle,
            cos: Handle,
            sin: Handle,
            rstd: Handle,
            gx: *mut Handle,
            gq: *mut Handle,
            gk: *mut Handle,
        ) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait QkNormOp: Backend {
        fn fused_qk_norm(
            qkv: FloatTensor<Self>,
            heads: usize,
            q_weight: FloatTensor<Self>,
            k_weight: FloatTensor<Self>,
            cos: FloatTensor<Self>,
            sin: FloatTensor<Self>,
            eps: f64,
        ) -> FloatTensor<Self>;
    }

    pub fn rotary_qk_norm(
        qkv: Tensor<3>,
        heads: usize,
        [q_weight, k_weight]: [Tensor<1>; 2],
        [cos, sin]: [Tensor<2>; 2],
        eps: f64,
    ) -> Tensor<3> {
        Tensor::from_dispatch(<Dispatch as QkNormOp>::fused_qk_norm(
            qkv.into_dispatch(),
            heads,
            q_weight.into_dispatch(),
            k_weight.into_dispatch(),
            cos.into_dispatch(),
            sin.into_dispatch(),
            eps,
        ))
    }

    /// Sines of the opposite angles: a gradient is turned back.
    fn back([cos, sin]: [&T; 2]) -> [T; 2] {
        [cos.shallow_clone(), -sin]
    }

    /// Queries and keys of the packed tokens, `[batch, tokens, 2, heads, head_dim]`.
    fn queries_and_keys(qkv: &T, heads: usize) -> T {
        let (size, heads) = (qkv.size(), heads as i64);
        qkv.reshape([size[0], size[1], 3, heads, size[2] / (3 * heads)]).narrow(2, 0, 2)
    }

    /// `x` in place of the queries and keys of `qkv`, packed again.
    fn packed(x: &T, qkv: &T, heads: usize) -> T {
        let (size, heads) = (qkv.size(), heads as i64);
        let values = qkv.reshape([size[0], size[1], 3, heads, size[2] / (3 * heads)]).narrow(2, 2, 1);
        T::cat(&[x, &values], 2).view([size[0], size[1], size[2]])
    }

    /// `[head_dim]` of queries and of keys as one factor of [`queries_and_keys`].
    fn weights([q, k]: [&T; 2]) -> T {
        T::stack(&[q, k], 0).unsqueeze(1)
    }

    fn turned(x: &T, [cos, sin]: [&T; 2]) -> T {
        let size = x.size();
        let half = size[4] / 2;
        let pairs = x.reshape([size[0], size[1], 2, size[3], half, 2]);
        let [a, b] = [pairs.select(5, 0), pairs.select(5, 1)];
        let [cos, sin] = [cos, sin].map(|table| table.view([1, size[1], 1, 1, half]));
        T::stack(&[&a * &cos - &b * &sin, b * cos + a * sin], 5).view([size[0], size[1], 2, size[3], size[4]])
    }

    /// Result, and the reciprocal roots `[batch · tokens, 2, heads]`.
    fn forward(qkv: &T, heads: usize, qk: [&T; 2], tables: [&T; 2], eps: f64) -> [T; 2] {
        if serves(qkv, heads) {
            return cuda::rotary(qkv, heads, qk, tables, eps);
        }
        let [y, rstd] = forward_in_f32(&half::full(qkv), heads, qk, tables, eps);
        [half::as_in(y, qkv), rstd]
    }

    /// Whether a kernel for NVIDIA devices takes these heads.
    fn serves(qkv: &T, heads: usize) -> bool {
        let width = qkv.size()[2] / (3 * heads as i64);
        (4..=256).contains(&width) && cuda::serves(qkv, width, true)
    }

    fn forward_in_f32(qkv: &T, heads: usize, qk: [&T; 2], tables: [&T; 2], eps: f64) -> [T; 2] {
        if is_cpu_f32(qkv) {
            let (mut y, mut rstd) = (std::ptr::null_mut(), std::ptr::null_mut());
            let ([q, k], [cos, sin]) = (qk.map(handle), tables.map(handle));
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe { rl_rotary_qk_norm(handle(qkv), heads as i64, q, k, cos, sin, eps, &mut y, &mut rstd) });
            return [own(y), own(rstd)];
        }
        let x = queries_and_keys(qkv, heads);
        let rstd = (x.square().mean_dim(&[-1i64][..], true, None) + eps).rsqrt();
        let y = packed(&turned(&(x * &rstd * weights(qk)), tables), qkv, heads);
        let size = rstd.size();
        [y, rstd.view([size[0] * size[1], 2, size[3]])]
    }

    /// Gradients of the packed tokens and of both weights.
    fn backward(g: &T, qkv: &T, heads: usize, qk: [&T; 2], tables: [&T; 2], rstd: &T) -> [T; 3] {
        if serves(qkv, heads) {
            return cuda::rotary_backward(g, qkv, heads, qk, tables, rstd);
        }
        let [to_x, to_q, to_k] = backward_in_f32(&half::full(g), &half::full(qkv), heads, qk, tables, rstd);
        [half::as_in(to_x, qkv), to_q, to_k]
    }

    fn backward_in_f32(g: &T, qkv: &T, heads: usize, qk: [&T; 2], tables: [&T; 2], rstd: &T) -> [T; 3] {
        if is_cpu_f32(qkv) {
            let null = std::ptr::null_mut();
            let (mut gx, mut gq, mut gk) = (null, null, null);
            let ([q, k], [cos, sin]) = (qk.map(handle), tables.map(handle));
            let (g, x, rstd, heads) = (handle(g), handle(qkv), handle(rstd), heads as i64);
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe { rl_rotary_qk_norm_backward(g, x, heads, q, k, cos, sin, rstd, &mut gx, &mut gq, &mut gk) });
            return [own(gx), own(gq), own(gk)];
        }
        let [cos, sin] = back(tables);
        let to_weighted = turned(&queries_and_keys(g, heads), [&cos, &sin]);
        let (normalized, rstd) = normalized(qkv, heads, rstd);
        let to_weights = (&to_weighted * &normalized).sum_dim_intlist(&[0i64, 1, 3][..], false, None); // [2, head_dim]
        let to_x = along(&normalized, &rstd, &(to_weighted * weights(qk)));
        [packed(&to_x, g, heads), to_weights.select(0, 0).copy(), to_weights.select(0, 1).copy()]
    }

    /// Queries and keys of length one, and their reciprocal roots, `[batch, tokens, 2, heads, 1]`.
    fn normalized(qkv: &T, heads: usize, rstd: &T) -> (T, T) {
        let x = queries_and_keys(qkv, heads);
        let size = x.size();
        let rstd = rstd.view([size[0], size[1], 2, size[3], 1]);
        (x * &rstd, rstd)
    }

    /// `rstd · (d − x̂ · mean(x̂ · d))`, the derivative of normalizing, which is symmetric.
    fn along(normalized: &T, rstd: &T, d: &T) -> T {
        let mean = (normalized * d).mean_dim(&[-1i64][..], true, None);
        (d - normalized * mean) * rstd
    }

    /// Inputs without tangents; the result and the reciprocal roots.
    fn evaluate(inputs: [Prim; 5], heads: usize, eps: f64) -> ([Prim; 5], [Prim; 2]) {
        let (inputs, tangents) = dual::part(inputs);
        let [qkv, q, k, cos, sin] = inputs.each_ref().map(|input| &input.tensor);
        let (qk, tables) = ([q, k], [cos, sin]);
        let [y, rstd] = forward(qkv, heads, qk, tables, eps);
        let tangent = tangents.and_then(|[dqkv, dq, dk, ..]| {
            let (normalized, rstd) = normalized(qkv, heads, &rstd);
            let by_x = dqkv.as_ref().map(|d| along(&normalized, &rstd, &queries_and_keys(d, heads)) * weights(qk));
            let [dq, dk] = [(dq, q), (dk, k)].map(|(d, like)| d.unwrap_or_else(|| like.zeros_like()));
            let moved = dual::sum([by_x, Some(normalized * weights([&dq, &dk]))])?;
            let values = dqkv.unwrap_or_else(|| qkv.zeros_like());
            Some(packed(&turned(&moved, tables), &values, heads))
        });
        (inputs, [dual::join(fresh(y), tangent), fresh(rstd)])
    }

    impl QkNormOp for LibTorch {
        fn fused_qk_norm(qkv: Prim, heads: usize, q: Prim, k: Prim, cos: Prim, sin: Prim, eps: f64) -> Prim {
            let (_, [y, _]) = evaluate([qkv, q, k, cos, sin], heads, eps);
            y
        }
    }

    #[derive(Debug)]
    struct QkNormBackward;
    impl Backward<LibTorch, 3> for QkNormBackward {
        /// Inputs, reciprocal roots, number of heads.
        type State = ([Prim; 5], Prim, usize);
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let parents = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let (inputs, rstd, heads) = ops.state;
            let [qkv, q, k, cos, sin] = inputs.each_ref().map(|input| &input.tensor);
            for (node, gradient) in parents.into_iter().zip(backward(&g, qkv, heads, [q, k], [cos, sin], &rstd.tensor))
            {
                register(grads, node, fresh(gradient));
            }
        }
    }

    impl<C: CheckpointStrategy> QkNormOp for Autodiff<LibTorch, C> {
        fn fused_qk_norm(
            qkv: FloatTensor<Self>,
            heads: usize,
            q: FloatTensor<Self>,
            k: FloatTensor<Self>,
            cos: FloatTensor<Self>,
            sin: FloatTensor<Self>,
            eps: f64,
        ) -> FloatTensor<Self> {
            let [(qkv, to_qkv), (q, to_q), (k, to_k), (cos, _), (sin, _)] =
                [qkv, q, k, cos, sin].map(|input| input.into_parts());
            let (inputs, [y, rstd]) = evaluate([qkv, q, k, cos, sin], heads, eps);
            match QkNormBackward.prepare::<C>([to_qkv, to_q, to_k]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((inputs, rstd, heads), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
