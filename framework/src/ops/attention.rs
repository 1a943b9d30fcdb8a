//! Scaled dot-product attention without mask or dropout.

use burn::tensor::{Tensor, activation::softmax};

/// `softmax(q · kᵀ / √head_dim) · v`.
///
/// # Shapes
/// * `q`, `k`, `v` and the result: `[batch, heads, tokens, head_dim]`
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if super::device::on_libtorch_cpu(&q.device()) {
        return fused::attention(q, k, v);
    }
    portable(q, k, v)
}

/// Self-attention over queries, keys and values packed along the last axis, the layout of `nn.Linear(D, 3D)`.
///
/// # Shapes
/// * `qkv`: `[batch, tokens, 3 · heads · head_dim]`
/// * result: `[batch, tokens, heads · head_dim]`
pub fn attention_packed(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    #[cfg(feature = "tch")]
    if super::device::on_libtorch_cpu(&qkv.device()) {
        return fused::attention_packed(qkv, heads);
    }
    let [batch, tokens, channels] = qkv.dims();
    let [q, k, v] = unpack_heads(qkv, heads);
    portable(q, k, v).swap_dims(1, 2).reshape([batch, tokens, channels / 3])
}

/// Splits `[batch, tokens, 3 · heads · head_dim]` into three of `[batch, heads, tokens, head_dim]`.
pub fn unpack_heads(qkv: Tensor<3>, heads: usize) -> [Tensor<4>; 3] {
    let [batch, tokens, channels] = qkv.dims();
    let head_dim = channels / (3 * heads);
    let qkv = qkv.reshape([batch, tokens, 3, heads, head_dim]).permute([2, 0, 3, 1, 4]);
    [0, 1, 2].map(|part| qkv.clone().narrow(0, part, 1).squeeze_dim::<4>(0))
}

fn portable(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let scale = 1.0 / (q.dims()[3] as f64).sqrt();
    softmax((q * scale).matmul(k.swap_dims(2, 3)), 3).matmul(v)
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
    pub trait AttentionOp: Backend {
        fn fused_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self>;
        fn fused_attention_packed(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
    }

    pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
        Tensor::from_dispatch(<Dispatch as AttentionOp>::fused_attention(
            q.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
        ))
    }

    pub fn attention_packed(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
        Tensor::from_dispatch(<Dispatch as AttentionOp>::fused_attention_packed(qkv.into_dispatch(), heads))
    }

    /// Result `[batch, heads, tokens, head_dim]` and the log-sum-exp that its gradient needs.
    fn flash(q: &T, k: &T, v: &T) -> (T, T) {
        let [q, k, v] = [q, k, v].map(dense);
        T::internal_scaled_dot_product_flash_attention_for_cpu::<T>(&q, &k, &v, 0.0, false, None, None)
    }

    /// The kernel reads rows as if their values were adjacent, and returns garbage when they are not.
    fn dense(tensor: &T) -> T {
        if tensor.stride().last() == Some(&1) { tensor.shallow_clone() } else { tensor.contiguous() }
    }

    fn flash_backward(g: &T, [q, k, v]: [&T; 3], out: &T, lse: &T) -> [T; 3] {
        let [g, q, k, v, out] = [g, q, k, v, out].map(dense);
        let (q, k, v) = T::internal_scaled_dot_product_flash_attention_for_cpu_backward::<T>(
            &g, &q, &k, &v, &out, lse, 0.0, false, None, None,
        );
        [q, k, v]
    }

    fn unpack(qkv: &T, heads: usize) -> [T; 3] {
        let (size, heads) = (qkv.size(), heads as i64);
        let parts = qkv.view([size[0], size[1], 3, heads, size[2] / (3 * heads)]).permute([2, 0, 3, 1, 4]);
        [0, 1, 2].map(|part| parts.select(0, part))
    }

    fn pack(heads: &T) -> T {
        let size = heads.size();
        heads.transpose(1, 2).reshape([size[0], size[2], size[1] * size[3]])
    }

    /// `dP · v + P · dv` for `P = softmax(S)`, `dP = P ⊙ (dS − Σ P ⊙ dS)`; one sample at a time, so that the square
    /// matrices stay in the cache.
    fn tangent([q, k, v]: [&T; 3], [dq, dk, dv]: [Option<T>; 3]) -> T {
        let scale = 1.0 / (q.size()[3] as f64).sqrt();
        let sample = |n: i64| {
            let [q, k, v] = [q, k, v].map(|x| x.select(0, n));
            let [dq, dk, dv] = [&dq, &dk, &dv].map(|d| d.as_ref().map(|d| d.select(0, n)));
            let q = q * scale;
            let p = q.matmul(&k.transpose(1, 2)).softmax(-1, None);
            let by_q = dq.map(|dq| (dq * scale).matmul(&k.transpose(1, 2)));
            let by_k = dk.map(|dk| q.matmul(&dk.transpose(1, 2)));
            let by_scores = dual::sum([by_q, by_k]).map(|mut ds| {
                let _ = ds.g_mul_(&p);
                let along = ds.sum_dim_intlist(&[-1i64][..], true, None);
                (ds - &p * along).matmul(&v)
            });
            dual::sum([by_scores, dv.map(|dv| p.matmul(&dv))]).unwrap_or_else(|| v.zeros_like())
        };
        T::stack(&(0..q.size()[0]).map(sample).collect::<Vec<_>>(), 0)
    }

    /// Inputs without tangents; the result and the log-sum-exp.
    fn evaluate(inputs: [Prim; 3]) -> ([Prim; 3], [Prim; 3]) {
        let (inputs, tangents) = dual::part(inputs);
        let [q, k, v] = inputs.each_ref().map(|input| &input.tensor);
        let (out, lse) = flash(q, k, v);
        let tangent = tangents.map(|tangents| tangent([q, k, v], tangents));
        let out = fresh(out);
        let dual = dual::join(out.clone(), tangent);
        (inputs, [out, fresh(lse), dual])
    }

    /// The packed input without tangent; the result without and with tangent, and the log-sum-exp.
    fn evaluate_packed(qkv: Prim, heads: usize) -> (Prim, [Prim; 3]) {
        let ([qkv], tangents) = dual::part([qkv]);
        let qkv = Prim { tensor: qkv.tensor.contiguous(), ..qkv };
        let [q, k, v] = unpack(&qkv.tensor, heads);
        let (out, lse) = flash(&q, &k, &v);
        let tangent = tangents.and_then(|[tangent]| tangent).map(|d| {
            let tangents = unpack(&d.contiguous(), heads).map(Some);
            pack(&tangent([&q, &k, &v], tangents))
        });
        let out = fresh(pack(&out));
        let dual = dual::join(out.clone(), tangent);
        (qkv, [out, fresh(lse), dual])
    }

    impl AttentionOp for LibTorch {
        fn fused_attention(q: Prim, k: Prim, v: Prim) -> Prim {
            let (_, [_, _, out]) = evaluate([q, k, v]);
            out
        }
        fn fused_attention_packed(qkv: Prim, heads: usize) -> Prim {
            let (_, [_, _, out]) = evaluate_packed(qkv, heads);
            out
        }
    }

    #[derive(Debug)]
    struct AttentionBackward;
    impl Backward<LibTorch, 3> for AttentionBackward {
        type State = [Prim; 5];
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let parents = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let [q, k, v, out, lse] = ops.state.each_ref().map(|state| &state.tensor);
            for (node, gradient) in parents.into_iter().zip(flash_backward(&g, [q, k, v], out, lse)) {
                register(grads, node, fresh(gradient));
            }
        }
    }

    #[derive(Debug)]
    struct PackedBackward;
    impl Backward<LibTorch, 1> for PackedBackward {
        type State = (T3, usize);
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let node = ops.parents[0].as_ref().map(|node| node.id);
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let ([qkv, out, lse], heads) = ops.state;
            let (size, h) = (qkv.tensor.size(), heads as i64);
            let (batch, tokens, channels) = (size[0], size[1], size[2] / 3);
            let split = |packed: &T| packed.reshape([batch, tokens, h, channels / h]).transpose(1, 2);
            let [q, k, v] = unpack(&qkv.tensor, heads);
            let parts = flash_backward(&split(&g), [&q, &k, &v], &split(&out.tensor), &lse.tensor);
            let parts = parts.map(|part| part.transpose(1, 2));
            register(grads, node, fresh(T::stack(&parts, 2).view([batch, tokens, 3 * channels])));
        }
    }
    /// Packed input, result, log-sum-exp.
    type T3 = [Prim; 3];

    impl<C: CheckpointStrategy> AttentionOp for Autodiff<LibTorch, C> {
        fn fused_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
            let ((q, to_q), (k, to_k), (v, to_v)) = (q.into_parts(), k.into_parts(), v.into_parts());
            let ([q, k, v], [out, lse, dual]) = evaluate([q, k, v]);
            match AttentionBackward.prepare::<C>([to_q, to_k, to_v]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish([q, k, v, out, lse], dual),
                OpsKind::UnTracked(prep) => prep.finish(dual),
            }
        }
        fn fused_attention_packed(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
            let (qkv, to_qkv) = qkv.into_parts();
            let (qkv, [out, lse, dual]) = evaluate_packed(qkv, heads);
            match PackedBackward.prepare::<C>([to_qkv]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(([qkv, out, lse], heads), dual),
                OpsKind::UnTracked(prep) => prep.finish(dual),
            }
        }
    }
}
