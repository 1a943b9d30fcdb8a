//! Residual branch with a gate per sample and channel.

use burn::tensor::Tensor;

/// `x + gate · branch`, the gate repeated over tokens.
///
/// # Shapes
/// * `x`, `branch`: `[batch, tokens, channels]`
/// * `gate`: `[batch, channels]`
pub fn gated_residual(x: Tensor<3>, gate: Tensor<2>, branch: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&x.device()) {
        return fused::gated_residual(x, gate, branch);
    }
    x + gate.unsqueeze_dim::<3>(1) * branch
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
        fn rl_gated_residual_backward(
            g: Handle,
            gate: Handle,
            branch: Handle,
            to_gate: *mut Handle,
            to_branch: *mut Handle,
        ) -> i32;
    }

    #[backend_extension(LibTorch, Autodiff)]
    pub trait ResidualOp: Backend {
        fn fused_gate(x: FloatTensor<Self>, gate: FloatTensor<Self>, branch: FloatTensor<Self>) -> FloatTensor<Self>;
    }

    pub fn gated_residual(x: Tensor<3>, gate: Tensor<2>, branch: Tensor<3>) -> Tensor<3> {
        Tensor::from_dispatch(<Dispatch as ResidualOp>::fused_gate(
            x.into_dispatch(),
            gate.into_dispatch(),
            branch.into_dispatch(),
        ))
    }

    fn forward([x, gate, branch]: [&T; 3]) -> T {
        if cuda::serves(x, x.size()[2], false) {
            return cuda::gate(x, gate, branch);
        }
        x.addcmul(&gate.unsqueeze(1), &half::full(branch))
    }

    /// Gradients of the gate, and of the branch in its type.
    fn backward(g: &T, gate: &T, branch: &T) -> [T; 2] {
        if cuda::serves(g, g.size()[2], true) {
            return cuda::gate_backward(g, gate, branch);
        }
        let [to_gate, to_branch] = backward_in_f32(&half::full(g), gate, &half::full(branch));
        [to_gate, half::as_in(to_branch, branch)]
    }

    fn backward_in_f32(g: &T, gate: &T, branch: &T) -> [T; 2] {
        if is_cpu_f32(g) {
            let (mut to_gate, mut to_branch) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: live tensors in, owned tensors out.
            check(unsafe {
                rl_gated_residual_backward(handle(g), handle(gate), handle(branch), &mut to_gate, &mut to_branch)
            });
            return [to_gate, to_branch].map(own);
        }
        [(g * branch).sum_dim_intlist(&[1i64][..], false, None), g * gate.unsqueeze(1)]
    }

    /// `dx + gate · dbranch + dgate · branch`.
    fn tangent(gate: &T, branch: &T, [dx, dgate, dbranch]: [Option<T>; 3]) -> Option<T> {
        let add = |sum: Option<T>, gate: &T, branch: &T| match sum {
            Some(sum) => sum.addcmul(&gate.unsqueeze(1), branch),
            None => gate.unsqueeze(1) * branch,
        };
        let sum = match dbranch {
            Some(dbranch) => Some(add(dx, gate, &dbranch)),
            None => dx.map(|dx| dx.copy()),
        };
        match dgate {
            Some(dgate) => Some(add(sum, &dgate, branch)),
            None => sum,
        }
    }

    /// Inputs without tangents, and the result.
    fn evaluate(inputs: [Prim; 3]) -> ([Prim; 3], Prim) {
        let [x, gate, branch] = inputs;
        let ([x, gate, branch], tangents) = dual::part([half::full_prim(x), half::full_prim(gate), branch]);
        let y = fresh(forward([&x.tensor, &gate.tensor, &branch.tensor]));
        let tangent = tangents.and_then(|tangents| tangent(&gate.tensor, &branch.tensor, tangents));
        ([x, gate, branch], dual::join(y, tangent))
    }

    impl ResidualOp for LibTorch {
        fn fused_gate(x: Prim, gate: Prim, branch: Prim) -> Prim {
            evaluate([x, gate, branch]).1
        }
    }

    #[derive(Debug)]
    struct GateBackward;
    impl Backward<LibTorch, 3> for GateBackward {
        type State = (Prim, Prim);
        fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
            let [to_x, to_gate, to_branch] = ops.parents.map(|node| node.map(|node| node.id));
            let g = grads.consume::<LibTorch>(&ops.node);
            let (gate, branch) = ops.state;
            let [gate_gradient, branch_gradient] = backward(&g.tensor, &gate.tensor, &branch.tensor);
            register(grads, to_gate, fresh(gate_gradient));
            register(grads, to_branch, fresh(branch_gradient));
            register(grads, to_x, g);
        }
    }

    impl<C: CheckpointStrategy> ResidualOp for Autodiff<LibTorch, C> {
        fn fused_gate(x: FloatTensor<Self>, gate: FloatTensor<Self>, branch: FloatTensor<Self>) -> FloatTensor<Self> {
            let ((x, to_x), (gate, to_gate), (branch, to_branch)) =
                (x.into_parts(), gate.into_parts(), branch.into_parts());
            let ([_, gate, branch], y) = evaluate([x, gate, branch]);
            match GateBackward.prepare::<C>([to_x, to_gate, to_branch]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish((gate, branch), y),
                OpsKind::UnTracked(prep) => prep.finish(y),
            }
        }
    }
}
