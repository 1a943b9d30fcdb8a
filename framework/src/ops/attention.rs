//! Scaled dot-product attention without mask or dropout.

use burn::tensor::{Tensor, activation::softmax};

/// `softmax(q · kᵀ / √head_dim) · v`.
///
/// # Shapes
/// * `q`, `k`, `v` and the result: `[batch, heads, tokens, head_dim]`
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&q.device()) {
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
    if super::on_libtorch(&qkv.device()) {
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

    use crate::ops::attention_kernel::{self, Memory};
    use crate::ops::libtorch::{Prim, T, fresh, register};
    use crate::ops::{Precision, dual, half};

    /// Scores whose tangent is taken at once on a device with memory of its own: 256 MiB in f32.
    const MAX_SCORES: i64 = 1 << 26;

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

    fn unpack(qkv: &T, heads: usize) -> [T; 3] {
        let (size, heads) = (qkv.size(), heads as i64);
        let parts = qkv.view([size[0], size[1], 3, heads, size[2] / (3 * heads)]).permute([2, 0, 3, 1, 4]);
        [0, 1, 2].map(|part| parts.select(0, part))
    }

    fn pack(heads: &T) -> T {
        let size = heads.size();
        heads.transpose(1, 2).reshape([size[0], size[2], size[1] * size[3]])
    }

    /// `dP · v + P · dv` for `P = softmax(S)`, `dP = P ⊙ (dS − Σ P ⊙ dS)`; a few samples at a time, so that the square
    /// matrices stay in the cache of a CPU, and in the memory of another device.
    fn tangent([q, k, v]: [&T; 3], [dq, dk, dv]: [Option<T>; 3]) -> T {
        let size = q.size();
        let scale = 1.0 / (size[3] as f64).sqrt();
        let chunk = match q.device() {
            tch::Device::Cpu => 1,
            _ => (MAX_SCORES / (size[1] * size[2] * k.size()[2]).max(1)).max(1),
        };
        let samples = |first: i64| {
            let part = |x: &T| x.narrow(0, first, chunk.min(size[0] - first));
            let [q, k, v] = [q, k, v].map(part);
            let [dq, dk, dv] = [&dq, &dk, &dv].map(|d| d.as_ref().map(part));
            let q = q * scale;
            let p = q.matmul(&k.transpose(2, 3)).softmax(-1, None);
            let by_q = dq.map(|dq| (dq * scale).matmul(&k.transpose(2, 3)));
            let by_k = dk.map(|dk| q.matmul(&dk.transpose(2, 3)));
            let by_scores = dual::sum([by_q, by_k]).map(|mut ds| {
                let _ = ds.g_mul_(&p);
                let along = ds.sum_dim_intlist(&[-1i64][..], true, None);
                (ds - &p * along).matmul(&v)
            });
            dual::sum([by_scores, dv.map(|dv| p.matmul(&dv))]).unwrap_or_else(|| v.zeros_like())
        };
        let firsts = (0..size[0]).step_by(usize::try_from(chunk).unwrap_or(1));
        T::cat(&firsts.map(samples).collect::<Vec<_>>(), 0)
    }

    /// An operand as kernels take it and the backward pass keeps it.
    fn kept(x: Prim, precision: Precision) -> Prim {
        if precision == Precision::Bf16 { half::rounded_prim(x) } else { half::full_prim(x) }
    }

    /// A kernel's result, as it is kept, and in the type of the operands.
    fn results(out: T, precision: Precision, is_half: bool) -> [Prim; 2] {
        let kept = kept(fresh(out), precision);
        let out = if is_half { half::rounded_prim(kept.clone()) } else { half::full_prim(kept.clone()) };
        [kept, out]
    }

    /// Operands and result as the backward pass needs them, and the result with tangent.
    fn evaluate(inputs: [Prim; 3]) -> (Kept<4>, Prim) {
        let precision = Precision::current();
        let is_half = precision == Precision::Bf16 && half::is_half(&inputs[0].tensor);
        let (inputs, tangents) = dual::part(inputs);
        let inputs = inputs.map(|input| kept(input, precision));
        let [q, k, v] = inputs.each_ref().map(|input| &input.tensor);
        let (out, memory) = attention_kernel::forward([q, k, v]);
        let tangent = tangents.map(|tangents| tangent([q, k, v], tangents));
        let [kept, out] = results(out, precision, is_half);
        let dual = dual::join(out, tangent);
        let [q, k, v] = inputs;
        (Kept { tensors: [q, k, v, kept], memory, precision, is_half }, dual)
    }

    /// As [`evaluate`], packed.
    fn evaluate_packed(qkv: Prim, heads: usize) -> (Kept<2>, Prim) {
        let precision = Precision::current();
        let is_half = precision == Precision::Bf16 && half::is_half(&qkv.tensor);
        let ([qkv], tangents) = dual::part([qkv]);
        let qkv = kept(Prim { tensor: qkv.tensor.contiguous(), ..qkv }, precision);
        let [q, k, v] = unpack(&qkv.tensor, heads);
        let (out, memory) = attention_kernel::forward([&q, &k, &v]);
        let tangent = tangents.and_then(|[tangent]| tangent).map(|d| {
            let tangents = unpack(&d.contiguous(), heads).map(Some);
            pack(&tangent([&q, &k, &v], tangents))
        });
        let [kept, out] = results(pack(&out), precision, is_half);
        let dual = dual::join(out, tangent);
        (Kept { tensors: [qkv, kept], memory, precision, is_half }, dual)
    }

    /// What the backward pass needs: operands, the result, what the kernel left, the policy of the forward pass.
    #[derive(Debug, Clone)]
    struct Kept<const N: usize> {
        tensors: [Prim; N],
        memory: Memory,
        precision: Precision,
        /// Whether the operands came in bf16, as their gradients leave then.
        is_half: bool,
    }

    impl<const N: usize> Kept<N> {
        /// Gradients of queries, keys and values, as the kernel leaves them.
        fn backward(&self, g: &T, qkv: [&T; 3], out: &T) -> [T; 3] {
            let g = if self.precision == Precision::Bf16 { half::rounded(g) } else { half::full(g) };
            self.precision.scope(|| attention_kernel::backward(&g, qkv, out, &self.memory))
        }

        /// A gradient in the type of the operands.
        fn finished(&self, gradient: T) -> Prim {
            fresh(match self.precision {
                Precision::Bf16 if self.is_half => half::rounded(&gradient),
                Precision::Bf16 => half::result(&gradient),
                Precision::F32 | Precision::Tf32 => gradient,
            })
        }
    }

    impl AttentionOp for LibTorch {
        fn fused_attention(q: Prim, k: Prim, v: Prim) -> Prim {
            evaluate([q, k, v]).1
        }
        fn fused_attention_packed(qkv: Prim, heads: usize) -> Prim {
            evaluate_packed(qkv, heads).1
        }
    }

    #[derive(Debug)]
    struct AttentionBackward;
    impl Backward<LibTorch, 3> for AttentionBackward {
        type State = Kept<4>;
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let parents = ops.parents.map(|node| node.map(|node| node.id));
            let (g, state) = (grads.consume::<LibTorch>(&ops.node).tensor, ops.state);
            let [q, k, v, out] = state.tensors.each_ref().map(|kept| &kept.tensor);
            for (node, gradient) in parents.into_iter().zip(state.backward(&g, [q, k, v], out)) {
                register(grads, node, state.finished(gradient));
            }
        }
    }

    #[derive(Debug)]
    struct PackedBackward;
    impl Backward<LibTorch, 1> for PackedBackward {
        type State = (Kept<2>, usize);
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let node = ops.parents[0].as_ref().map(|node| node.id);
            let g = grads.consume::<LibTorch>(&ops.node).tensor;
            let (state, heads) = ops.state;
            let [qkv, out] = state.tensors.each_ref().map(|kept| &kept.tensor);
            let (size, h) = (qkv.size(), heads as i64);
            let (batch, tokens, channels) = (size[0], size[1], size[2] / 3);
            let split = |packed: &T| packed.reshape([batch, tokens, h, channels / h]).transpose(1, 2);
            let [q, k, v] = unpack(qkv, heads);
            let parts = state.backward(&split(&g), [&q, &k, &v], &split(out)).map(|part| part.transpose(1, 2));
            let gradient = T::stack(&parts, 2).view([batch, tokens, 3 * channels]);
            register(grads, node, state.finished(gradient));
        }
    }

    impl<C: CheckpointStrategy> AttentionOp for Autodiff<LibTorch, C> {
        fn fused_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>) -> FloatTensor<Self> {
            let ((q, to_q), (k, to_k), (v, to_v)) = (q.into_parts(), k.into_parts(), v.into_parts());
            let (kept, out) = evaluate([q, k, v]);
            match AttentionBackward.prepare::<C>([to_q, to_k, to_v]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(kept, out),
                OpsKind::UnTracked(prep) => prep.finish(out),
            }
        }
        fn fused_attention_packed(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
            let (qkv, to_qkv) = qkv.into_parts();
            let (kept, out) = evaluate_packed(qkv, heads);
            match PackedBackward.prepare::<C>([to_qkv]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((kept, heads), out),
                OpsKind::UnTracked(prep) => prep.finish(out),
            }
        }
    }
}
