//! A module's parameters as flat tensors, and back.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Gradients as Graph;
use burn::tensor::Tensor;

use crate::weights::Names;

/// Flat parameters without graph, with their names. On libtorch they share memory with the module.
pub(crate) fn flat_parameters<M: Module>(module: &M, only_trainable: bool) -> (Vec<String>, Vec<Tensor<1>>) {
    struct Flatten {
        names: Names,
        only_trainable: bool,
        found: (Vec<String>, Vec<Tensor<1>>),
    }
    impl ModuleVisitor for Flatten {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if self.only_trainable && !value.is_require_grad() {
                return;
            }
            self.found.0.push(self.names.full());
            self.found.1.push(flat(plain(value)));
        }
        fn enter_module(&mut self, name: &str, _: &str) {
            self.names.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.names.exit();
        }
    }
    let mut flatten = Flatten { names: Names::default(), only_trainable, found: Default::default() };
    module.visit(&mut flatten);
    flatten.found
}

/// The gradients of all trainable parameters, in the order of [`flat_parameters`]; zero where none arrived.
pub(crate) fn flat_gradients<M: Module>(module: &M, graph: &mut Graph) -> Vec<Tensor<1>> {
    struct Take<'a>(&'a mut Graph, Vec<Tensor<1>>);
    impl ModuleVisitor for Take<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if value.is_require_grad() {
                let gradient = value.grad_remove(self.0);
                self.1.push(flat(gradient.unwrap_or_else(|| plain(value).zeros_like())));
            }
        }
    }
    let mut take = Take(graph, vec![]);
    module.visit(&mut take);
    take.1
}

/// The module with the parameters that [`flat_parameters`] listed replaced.
pub(crate) fn with_flat<M: Module>(module: M, values: &[Tensor<1>], only_trainable: bool) -> M {
    struct Put<'a>(std::slice::Iter<'a, Tensor<1>>, bool);
    impl ModuleMapper for Put<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let old = param.val();
            if self.1 && !old.is_require_grad() {
                return param;
            }
            let Some(value) = self.0.next() else { return param };
            let value = value.clone().reshape(old.dims());
            let value = if old.is_autodiff() { Tensor::from_inner(value) } else { value };
            let id = param.id;
            param.transform_for_load(value, id)
        }
    }
    module.map(&mut Put(values.iter(), only_trainable))
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.dims().iter().product::<usize>();
    tensor.reshape([count])
}

fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}
