//! Modules to named tensors and back.
//!
//! Names are those of PyTorch's `state_dict`. A leading segment `backbone` is dropped, so that a trained model has
//! the names of the official checkpoints: `blocks.0.attn.qkv.weight`, `projectors.0.projection_layer.weight`.

use anyhow::{Result, bail};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::{HostTensor, StateDict};

/// What is known of a parameter without making its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamInfo {
    /// PyTorch's name.
    pub name: String,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// Whether it is trained; always false for a module without autodiff.
    pub is_trainable: bool,
}

/// All float parameters in the order of the module's fields; makes no values.
pub fn parameters<M: Module>(module: &M) -> Vec<ParamInfo> {
    struct List(Names, Vec<ParamInfo>);
    impl ModuleVisitor for List {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let shape = param.lazy_shape().to_vec();
            self.1.push(ParamInfo { name: self.0.full(), shape, is_trainable: is_trainable(param) });
        }
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
    }
    let mut list = List(Names::default(), vec![]);
    module.visit(&mut list);
    list.1
}

/// A copy of all float parameters.
pub fn state_dict<M: Module>(module: &M) -> StateDict {
    struct Copy(Names, StateDict);
    impl ModuleVisitor for Copy {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let shape = param.lazy_shape().to_vec();
            let values = to_host(param.val());
            self.1.insert(self.0.full(), HostTensor { shape, values });
        }
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
    }
    let mut copy = Copy(Names::default(), StateDict::new());
    module.visit(&mut copy);
    copy.1
}

/// The module with all its float parameters taken from `dict`.
///
/// # Errors
/// Lists what is missing, what the module does not have, and what has another shape.
pub fn load_state_dict<M: Module>(module: M, mut dict: StateDict) -> Result<M> {
    check(&parameters(&module), &dict)?;
    struct Fill<'a>(Names, &'a mut StateDict);
    impl ModuleMapper for Fill<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(tensor) = self.1.remove(&self.0.full()) else { return param };
            let value = Tensor::from_data(TensorData::new(tensor.values, tensor.shape), &param.lazy_device());
            let id = param.id;
            param.transform_for_load(value, id)
        }
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
    }
    Ok(module.map(&mut Fill(Names::default(), &mut dict)))
}

/// The values of a tensor, row-major.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // Converted to f32 just before, so the element type is right.
    tensor.into_data().convert::<f32>().try_to_vec().unwrap_or_default()
}

/// burn keeps this private; a stand-in value with the parameter's settings shows it without making the real one.
fn is_trainable<const D: usize>(param: &Param<Tensor<D>>) -> bool {
    let stand_in = Tensor::zeros([1; D], &param.lazy_device());
    param.clone().transform_for_load(stand_in, param.id).val().is_require_grad()
}

fn check(params: &[ParamInfo], dict: &StateDict) -> Result<()> {
    let missing: Vec<_> = params.iter().filter(|p| !dict.contains_key(&p.name)).map(|p| p.name.as_str()).collect();
    let is_known = |name: &str| params.iter().any(|p| p.name == name);
    let unexpected: Vec<_> = dict.keys().filter(|name| !is_known(name)).map(String::as_str).collect();
    let misfit: Vec<_> = params
        .iter()
        .filter_map(|p| {
            let found = dict.get(&p.name).filter(|t| t.shape != p.shape)?;
            Some(format!("{}: found {:?}, expected {:?}", p.name, found.shape, p.shape))
        })
        .collect();
    let mut problems = vec![];
    for (what, names) in [("missing", missing), ("not in the model", unexpected)] {
        if !names.is_empty() {
            problems.push(format!("{what} ({}): {}", names.len(), shortened(&names)));
        }
    }
    if !misfit.is_empty() {
        let list: Vec<_> = misfit.iter().map(String::as_str).collect();
        problems.push(format!("other shapes ({}): {}", misfit.len(), shortened(&list)));
    }
    if !problems.is_empty() {
        bail!("weights do not fit the model\n  {}", problems.join("\n  "))
    }
    Ok(())
}

fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 6; // the whole list of a wrong file would fill the screen
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown}, …") } else { shown }
}

/// The name segments from the root to where a visitor is.
#[derive(Debug, Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.to_string());
    }

    pub(crate) fn exit(&mut self) {
        self.0.pop();
    }

    pub(crate) fn full(&self) -> String {
        let skipped = usize::from(self.0.first().is_some_and(|name| name == "backbone"));
        self.0[skipped..].join(".")
    }
}
