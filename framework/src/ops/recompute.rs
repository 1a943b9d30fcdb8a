//! A part of a network that keeps what goes in, and is computed again in the backward pass.

use burn::module::Module;
use burn::tensor::Tensor;

/// Tensors of any ranks, as a tuple: what a [`recomputed`] part is given.
pub trait Tensors: Clone + Send + Sync + 'static {
    #[doc(hidden)]
    fn is_recomputable(&self) -> bool;
    #[cfg(feature = "tch")]
    #[doc(hidden)]
    fn into_tracked(self) -> Vec<graph::Tracked>;
    #[cfg(feature = "tch")]
    #[doc(hidden)]
    fn from_tracked(tensors: Vec<graph::Tracked>) -> Self;
    #[cfg(feature = "tch")]
    #[doc(hidden)]
    fn from_plain(tensors: Vec<graph::Plain>) -> Self;
}

macro_rules! tuple {
    ($($rank:ident $at:tt),+) => {
        impl<$(const $rank: usize),+> Tensors for ($(Tensor<$rank>,)+) {
            fn is_recomputable(&self) -> bool {
                super::on_libtorch(&self.0.device()) && ($(self.$at.is_autodiff())||+)
            }
            #[cfg(feature = "tch")]
            fn into_tracked(self) -> Vec<graph::Tracked> {
                vec![$(graph::tracked(self.$at)),+]
            }
            #[cfg(feature = "tch")]
            fn from_tracked(tensors: Vec<graph::Tracked>) -> Self {
                let mut tensors = tensors.into_iter();
                ($(graph::with_graph::<$rank>(tensors.next()),)+)
            }
            #[cfg(feature = "tch")]
            fn from_plain(tensors: Vec<graph::Plain>) -> Self {
                let mut tensors = tensors.into_iter();
                ($(graph::without_graph::<$rank>(tensors.next()),)+)
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);

/// `forward(module, inputs)`, of which only the inputs are kept for the backward pass (Chen et al., 2016).
///
/// The backward pass runs `forward` once more to get the gradients of the inputs and of the module's parameters. They
/// are bit for bit those without recomputation, as long as `forward` draws nothing and each input is used at most once
/// outside. Without graph, and on other backends than libtorch, it is a plain call.
///
/// # Panics
/// The module has more than 60 parameters, or its tensors are on another device than the inputs.
pub fn recomputed<M, I, const D: usize>(
    module: &M,
    inputs: I,
    forward: impl Fn(&M, I) -> Tensor<D> + Send + Sync + 'static,
) -> Tensor<D>
where
    M: Module + Sync + 'static,
    I: Tensors,
{
    #[cfg(feature = "tch")]
    if inputs.is_recomputable() {
        return graph::recomputed(module, inputs, forward);
    }
    forward(module, inputs)
}

#[cfg(feature = "tch")]
#[doc(hidden)]
pub mod graph {
    use std::fmt::{self, Debug, Formatter};
    use std::sync::Arc;

    use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
    use burn::backend::{Autodiff, LibTorch, tensor::FloatTensor};
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::Tensor;

    use super::Tensors;
    use crate::ops::dual;
    use crate::ops::libtorch::{Prim, T, fresh, register};
    use crate::ops::precision::Precision;

    /// A tensor with its place in the graph.
    pub type Tracked = FloatTensor<Autodiff<LibTorch>>;
    /// A tensor without graph.
    pub type Plain = FloatTensor<LibTorch>;

    /// Most inputs and parameters of one part; operations of burn's graph have a fixed number of parents.
    const MAX_PARENTS: usize = 64;
    /// Most tensors at which the inner backward pass begins: the result, and inputs that have part of their gradient.
    const MAX_SEEDS: usize = 5;
    const SAME_LENGTH: &str = "the list was made from a tuple of the same length";

    pub fn tracked<const D: usize>(tensor: Tensor<D>) -> Tracked {
        let tensor = if tensor.is_autodiff() { tensor } else { Tensor::from_inner(tensor) };
        match tensor.try_into_primitive::<Autodiff<LibTorch>>() {
            Ok(tensor) => tensor,
            Err(problem) => panic!("a recomputed part has tensors on several backends: {problem:?}"),
        }
    }

    pub fn with_graph<const D: usize>(tensor: Option<Tracked>) -> Tensor<D> {
        tensor.map(Tensor::from_primitive::<Autodiff<LibTorch>>).unwrap_or_else(|| unreachable!("{SAME_LENGTH}"))
    }

    pub fn without_graph<const D: usize>(tensor: Option<Plain>) -> Tensor<D> {
        tensor.map(Tensor::from_primitive::<LibTorch>).unwrap_or_else(|| unreachable!("{SAME_LENGTH}"))
    }

    /// A part of the network with its graph, made in the backward pass.
    struct Recomputation {
        output: Tracked,
        inputs: Vec<Tracked>,
        params: Vec<Tracked>,
    }

    /// Computes the part once more.
    #[derive(Clone)]
    struct Again(Arc<dyn Fn() -> Recomputation + Send + Sync>);

    impl Debug for Again {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            f.write_str("Again")
        }
    }

    pub fn recomputed<M, I, const D: usize>(
        module: &M,
        inputs: I,
        forward: impl Fn(&M, I) -> Tensor<D> + Send + Sync + 'static,
    ) -> Tensor<D>
    where
        M: Module + Sync + 'static,
        I: Tensors,
    {
        let (inputs, params, frozen) = (inputs.into_tracked(), parameters(module), module.valid());
        let plain: Vec<Prim> = inputs.iter().map(|input| input.primitive().clone()).collect();
        let output = forward(&frozen, I::from_plain(plain.clone()));
        let Ok(output) = output.try_into_primitive::<LibTorch>() else {
            unreachable!("a module without graph made a tensor with one")
        };
        let is_tracked: Vec<bool> = inputs.iter().map(Tracked::is_tracked).collect();
        // Tangents are of the first pass only.
        let kept: Vec<Prim> = plain.into_iter().flat_map(|input| dual::part([input]).0).collect();
        let precision = Precision::current();
        let again = move || {
            let module = frozen.clone().train();
            let leaf = |(input, is_tracked): (&Prim, &bool)| {
                let leaf = Tracked::new(input.clone());
                if *is_tracked { leaf.require_grad() } else { leaf }
            };
            let inputs: Vec<Tracked> = kept.iter().zip(&is_tracked).map(leaf).collect();
            let output = precision.scope(|| tracked(forward(&module, I::from_tracked(inputs.clone()))));
            Recomputation { output, inputs, params: parameters(&module) }
        };
        let prepared = Recompute.prepare::<NoCheckpointing>(parents(inputs.iter().chain(&params), &output));
        Tensor::from_primitive::<Autodiff<LibTorch>>(match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Again(Arc::new(again)), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        })
    }

    fn parameters<M: Module>(module: &M) -> Vec<Tracked> {
        struct Collect(Vec<Tracked>);
        impl ModuleVisitor for Collect {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.push(tracked(param.val()));
            }
        }
        let mut collect = Collect(vec![]);
        module.visit(&mut collect);
        collect.0
    }

    /// Their places in the graph, filled up with constants.
    fn parents<'a, const N: usize>(tensors: impl Iterator<Item = &'a Tracked>, any: &Prim) -> [NodeGuard; N] {
        let constant = Tracked::new(any.clone());
        let mut tensors = tensors.fuse();
        let guards = std::array::from_fn(|_| tensors.next().unwrap_or(&constant).node());
        assert!(tensors.next().is_none(), "a recomputed part has more than {N} inputs and parameters");
        guards
    }

    #[derive(Debug)]
    struct Recompute;
    impl Backward<LibTorch, MAX_PARENTS> for Recompute {
        type State = Again;
        fn backward(self, ops: Ops<Self::State, MAX_PARENTS>, grads: &mut Gradients, _: &mut Checkpointer) {
            let g = grads.consume::<LibTorch>(&ops.node);
            let Recomputation { output, inputs, params } = (ops.state.0)();
            // The sums of gradients go on where they stand, so that they round as without recomputation.
            let mut seeds = vec![(output, g)];
            for (parent, input) in ops.parents.iter().zip(&inputs) {
                let Some(parent) = parent.as_ref().filter(|parent| parent.order > 0) else { continue };
                let none = nothing(input.primitive());
                grads.register::<LibTorch>(parent.id, none.clone());
                let arrived = grads.consume::<LibTorch>(parent);
                if arrived.tensor.data_ptr() != none.tensor.data_ptr() {
                    seeds.push((input.clone(), arrived));
                }
            }
            let mut inner = seed(seeds).backward();
            for (parent, leaf) in ops.parents.iter().zip(inputs.iter().chain(&params)) {
                if let (Some(parent), Some(gradient)) = (parent, leaf.grad_remove(&mut inner)) {
                    grads.register::<LibTorch>(parent.id, gradient);
                }
            }
        }
    }

    /// A gradient that changes no other when it is added, and takes no memory.
    fn nothing(like: &Prim) -> Prim {
        let zero = T::full([1], -0.0, (like.tensor.kind(), like.tensor.device()));
        fresh(zero.expand(like.tensor.size(), false))
    }

    /// A number whose backward pass gives each tensor the gradient beside it.
    fn seed(seeds: Vec<(Tracked, Prim)>) -> Tracked {
        let (tensors, gradients): (Vec<_>, Vec<_>) = seeds.into_iter().unzip();
        let number = fresh(T::zeros([1], (tch::Kind::Float, gradients[0].tensor.device())));
        match Seed.prepare::<NoCheckpointing>(parents(tensors.iter(), &number)).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradients, number),
            OpsKind::UnTracked(prep) => prep.finish(number),
        }
    }

    #[derive(Debug)]
    struct Seed;
    impl Backward<LibTorch, MAX_SEEDS> for Seed {
        type State = Vec<Prim>;
        fn backward(self, ops: Ops<Self::State, MAX_SEEDS>, grads: &mut Gradients, _: &mut Checkpointer) {
            for (parent, gradient) in ops.parents.iter().zip(ops.state) {
                register(grads, parent.as_ref().map(|parent| parent.id), gradient);
            }
        }
    }
}

#[cfg(all(test, feature = "tch"))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::nn::{Linear, ParamBuilder};
    use crate::ops::{self, DeviceChoice, Precision};
    use crate::streams::Streams;
    use crate::train::Gradients;
    use crate::weights::{StateDict, to_host};

    #[derive(Module, Debug)]
    struct Part {
        first: Linear,
        second: Linear,
    }

    impl Part {
        fn forward(&self, x: Tensor<3>, gate: Tensor<2>) -> Tensor<3> {
            let h = self.second.forward(ops::gelu_tanh(self.first.forward(x.clone())));
            ops::gated_residual(x, gate, h)
        }
    }

    fn device() -> Device {
        ops::open(DeviceChoice::Cpu).unwrap().autodiff()
    }

    fn parts(count: usize) -> Vec<Part> {
        let params = ParamBuilder::new(&device(), 1);
        let linear = |name: &str, n: usize, [from, to]: [usize; 2]| Linear::new(&params.child(n).child(name), from, to);
        (0..count).map(|n| Part { first: linear("1", n, [12, 35]), second: linear("2", n, [35, 12]) }).collect()
    }

    fn draw<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
        let values = Streams::new(2).normal(name, shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), &device())
    }

    /// Loss, gradients of parameters, then of the input and of the gates; the tokens behind the first part are used
    /// twice. The backward pass is outside of the precision's scope, as it may be anywhere.
    fn step(recomputes: bool, precision: Precision, calls: &Arc<AtomicUsize>) -> (f32, StateDict, Vec<Vec<f32>>) {
        let model = parts(3);
        let leaves = (draw("x", [2, 5, 12]).require_grad(), draw("gates", [2, 36]).require_grad());
        let (mut x, gates) = (leaves.0.clone() * 1.5, leaves.1.clone());
        let mut tap: Option<Tensor<3>> = None;
        precision.scope(|| {
            for (part, gate) in model.iter().zip(ops::chunk::<3>(gates)) {
                let calls = calls.clone();
                let forward = move |part: &Part, (x, gate)| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    part.forward(x, gate)
                };
                let given = x.clone();
                x = if recomputes { recomputed(part, (given, gate), forward) } else { forward(part, (given, gate)) };
                tap.get_or_insert_with(|| x.clone());
            }
        });
        let tap = (tap.unwrap() * draw("target", [2, 5, 12])).mean();
        let total = x.square().mean() + tap;
        let loss = to_host(total.clone())[0];
        let mut graph = total.backward();
        let inputs = vec![to_host(leaves.0.grad(&graph).unwrap()), to_host(leaves.1.grad(&graph).unwrap())];
        let mut gradients = Gradients::default();
        gradients.take(&model, &mut graph);
        (loss, gradients.by_name(&model), inputs)
    }

    #[test]
    fn gradients_are_the_same_bits_and_every_part_runs_once_more() {
        let losses = [Precision::F32, Precision::Bf16].map(|precision| {
            let calls = [Arc::default(), Arc::default()];
            let plain = step(false, precision, &calls[0]);
            assert!(plain.1.values().all(|gradient| gradient.values.iter().any(|value| *value != 0.0)));
            assert_eq!(step(true, precision, &calls[1]), plain);
            assert_eq!(calls.map(|calls| calls.load(Ordering::Relaxed)), [3, 6]);
            plain.0
        });
        assert_ne!(losses[0], losses[1], "bf16 must round");
    }

    #[test]
    fn tangents_pass_through_the_first_pass_and_gradients_stay_exact() {
        let derivative = |recomputes: bool| {
            let model = parts(2);
            let gate = draw("gate", [2, 12]);
            let network = |x: Tensor<3>| {
                let run = |x, part: &Part| match recomputes {
                    true => recomputed(part, (x, gate.clone()), |part: &Part, (x, gate)| part.forward(x, gate)),
                    false => part.forward(x, gate.clone()),
                };
                Ok((model.iter().fold(x, run), ()))
            };
            let jvp = ops::jvp(network, draw("x", [2, 5, 12]), draw("direction", [2, 5, 12])).unwrap();
            let tangent = to_host(jvp.tangent);
            let mut gradients = Gradients::default();
            gradients.add(&model, jvp.value.square().mean().backward());
            (tangent, gradients.by_name(&model))
        };
        assert_eq!(derivative(true), derivative(false));
    }

    #[test]
    fn what_has_no_graph_is_a_plain_call() {
        let calls = Arc::new(AtomicUsize::new(0));
        let (part, counted) = (parts(1).remove(0).valid(), calls.clone());
        let y = recomputed(
            &part,
            (draw("x", [2, 5, 12]).inner(), draw("gate", [2, 12]).inner()),
            move |part, (x, gate)| {
                counted.fetch_add(1, Ordering::Relaxed);
                part.forward(x, gate)
            },
        );
        assert!(!y.is_autodiff());
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
