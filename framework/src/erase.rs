//! The erasure layer: makes `Box<dyn Backbone>` and its kin ordinary burn modules.
//!
//! burn's visitors and mappers are generic over the rank, so `Module` cannot be a trait object. [`DynVisitor`] and
//! [`DynMapper`] are their object-safe twins: the rank becomes a number and the parameter travels as `dyn Any`.
//! Adapters convert each way, so a visitor written against burn's traits passes through a `dyn` boundary unchanged.
//! A plugin author never sees this file: [`module_kind!`](crate::module_kind) covers every module of a kind.

use std::any::Any;
use std::fmt::{self, Debug, Formatter};
use std::ops::Deref;

use burn::module::{
    Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
};
use burn::tensor::{Bool, Device, Int, Tensor};

/// A boxed plugin that is a burn module: it can sit in a `#[derive(Module)]` struct, and every generic burn
/// facility (visitors, mappers, `num_params`, `valid`) works on it.
pub struct Slot<K: Kind>(Box<K::Object>);

impl<K: Kind> Slot<K> {
    /// Wraps a plugin.
    pub fn new(object: Box<K::Object>) -> Self {
        Self(object)
    }
}

impl<K: Kind> Deref for Slot<K> {
    type Target = K::Object;
    fn deref(&self) -> &K::Object {
        &self.0
    }
}

impl<K: Kind> Clone for Slot<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone_dyn())
    }
}

impl<K: Kind> Debug for Slot<K> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.0, f)
    }
}

impl<K: Kind> ModuleDisplayDefault for Slot<K> {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content_dyn(content)
    }
    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl<K: Kind> ModuleDisplay for Slot<K> {}

impl<K: Kind> Module for Slot<K> {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit_dyn(&mut FromDyn(visitor));
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self(self.0.map_dyn(&mut FromDyn(mapper)))
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices_dyn(devices)
    }
    fn fork(self, device: &Device) -> Self {
        Self(self.0.fork_dyn(device))
    }
    fn to_device(self, device: &Device) -> Self {
        Self(self.0.to_device_dyn(device))
    }
    fn train(self) -> Self {
        Self(self.0.train_dyn())
    }
    fn valid(&self) -> Self {
        Self(self.0.valid_dyn())
    }
    fn materialize(self) -> Self {
        Self(self.0.materialize_dyn())
    }
}

/// One kind of plugin with parameters. A marker type stands in for `dyn Backbone`, because
/// `trait Backbone: Erased<dyn Backbone>` would be a cycle.
pub trait Kind: Sized + 'static {
    /// The trait object of this kind.
    type Object: ?Sized + Erased<Self> + Send + Sync + 'static;
    /// The kind's name in recipes.
    const NAME: &'static str;
}

/// Object-safe mirror of burn's `Module`; [`module_kind!`](crate::module_kind) implements it.
#[allow(missing_docs)]
pub trait Erased<K: Kind>: Debug + Send + Sync {
    fn visit_dyn(&self, visitor: &mut dyn DynVisitor);
    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<K::Object>;
    fn clone_dyn(&self) -> Box<K::Object>;
    fn valid_dyn(&self) -> Box<K::Object>;
    fn train_dyn(self: Box<Self>) -> Box<K::Object>;
    fn fork_dyn(self: Box<Self>, device: &Device) -> Box<K::Object>;
    fn to_device_dyn(self: Box<Self>, device: &Device) -> Box<K::Object>;
    fn materialize_dyn(self: Box<Self>) -> Box<K::Object>;
    fn collect_devices_dyn(&self, devices: Devices) -> Devices;
    fn content_dyn(&self, content: Content) -> Option<Content>;
}

/// Declares a kind of plugin that holds parameters: `module_kind!(ProjectorKind, "projector", Projector);`
#[macro_export]
macro_rules! module_kind {
    ($(#[$doc:meta])* $marker:ident, $name:literal, $object:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $marker;

        impl $crate::erase::Kind for $marker {
            type Object = dyn $object;
            const NAME: &'static str = $name;
        }

        impl<M> $crate::erase::Erased<$marker> for M
        where
            M: $crate::burn::module::Module + $crate::burn::module::ModuleDisplay + $object + Sync + 'static,
        {
            fn visit_dyn(&self, visitor: &mut dyn $crate::erase::DynVisitor) {
                $crate::erase::visit_erased(self, visitor)
            }
            fn map_dyn(self: Box<Self>, mapper: &mut dyn $crate::erase::DynMapper) -> Box<dyn $object> {
                Box::new($crate::erase::map_erased(*self, mapper))
            }
            fn clone_dyn(&self) -> Box<dyn $object> {
                Box::new(self.clone())
            }
            fn valid_dyn(&self) -> Box<dyn $object> {
                Box::new($crate::burn::module::Module::valid(self))
            }
            fn train_dyn(self: Box<Self>) -> Box<dyn $object> {
                Box::new($crate::burn::module::Module::train(*self))
            }
            fn fork_dyn(self: Box<Self>, device: &$crate::burn::tensor::Device) -> Box<dyn $object> {
                Box::new($crate::burn::module::Module::fork(*self, device))
            }
            fn to_device_dyn(self: Box<Self>, device: &$crate::burn::tensor::Device) -> Box<dyn $object> {
                Box::new($crate::burn::module::Module::to_device(*self, device))
            }
            fn materialize_dyn(self: Box<Self>) -> Box<dyn $object> {
                Box::new($crate::burn::module::Module::materialize(*self))
            }
            fn collect_devices_dyn(&self, devices: $crate::burn::module::Devices) -> $crate::burn::module::Devices {
                $crate::burn::module::Module::collect_devices(self, devices)
            }
            fn content_dyn(
                &self,
                content: $crate::burn::module::Content,
            ) -> Option<$crate::burn::module::Content> {
                $crate::burn::module::ModuleDisplayDefault::content(self, content)
            }
        }
    };
}

/// What a parameter's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// Floating point.
    Float,
    /// Integers.
    Int,
    /// Booleans.
    Bool,
}

/// A parameter seen through the erased boundary: `value` is `Param<Tensor<rank, kind>>`.
#[allow(missing_docs)]
pub struct DynParamRef<'a> {
    pub kind: ParamKind,
    pub rank: usize,
    pub value: &'a dyn Any,
}

/// A parameter on its way through a mapper.
#[allow(missing_docs)]
pub struct DynParam {
    pub kind: ParamKind,
    pub rank: usize,
    pub value: Box<dyn Any>,
}

/// Object-safe form of burn's `ModuleVisitor`.
#[allow(missing_docs)]
pub trait DynVisitor {
    fn param(&mut self, param: DynParamRef<'_>);
    fn flag(&mut self, flag: &Param<Flag>);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// Object-safe form of burn's `ModuleMapper`.
#[allow(missing_docs)]
pub trait DynMapper {
    fn param(&mut self, param: DynParam) -> DynParam;
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

#[doc(hidden)]
pub fn visit_erased<M: Module>(module: &M, visitor: &mut dyn DynVisitor) {
    module.visit(&mut ToDyn(visitor));
}

#[doc(hidden)]
pub fn map_erased<M: Module>(module: M, mapper: &mut dyn DynMapper) -> M {
    module.map(&mut ToDyn(mapper))
}

/// Generic call to dyn call: runs inside the plugin, where the module's type is known.
struct ToDyn<'a, T: ?Sized>(&'a mut T);

const TYPED: &str = "kind and rank fix the parameter's type";

impl DynParam {
    fn take<T: 'static>(self) -> T {
        // The pair (kind, rank) was recorded from the very same type parameter.
        *self.value.downcast::<T>().unwrap_or_else(|_| unreachable!("{TYPED}"))
    }
}

impl ModuleVisitor for ToDyn<'_, dyn DynVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.param(DynParamRef { kind: ParamKind::Float, rank: D, value: param });
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.param(DynParamRef { kind: ParamKind::Int, rank: D, value: param });
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.param(DynParamRef { kind: ParamKind::Bool, rank: D, value: param });
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag);
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl ModuleMapper for ToDyn<'_, dyn DynMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0.param(DynParam { kind: ParamKind::Float, rank: D, value: Box::new(param) }).take()
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.0.param(DynParam { kind: ParamKind::Int, rank: D, value: Box::new(param) }).take()
    }
    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.0.param(DynParam { kind: ParamKind::Bool, rank: D, value: Box::new(param) }).take()
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

/// Runs the body with the rank as a constant. burn itself goes no higher than these ranks.
macro_rules! with_rank {
    ($rank:expr, $d:ident => $body:expr) => {
        with_rank!(@arms $rank, $d => $body; 1 2 3 4 5 6 7 8)
    };
    (@arms $rank:expr, $d:ident => $body:expr; $($n:literal)*) => {
        match $rank {
            $($n => { const $d: usize = $n; $body })*
            rank => unreachable!("a parameter of rank {rank}; burn's tensors have at most 8"),
        }
    };
}

/// Dyn call to generic call: runs in the caller, where the visitor's type is known.
struct FromDyn<'a, V>(&'a mut V);

impl<V: ModuleVisitor> DynVisitor for FromDyn<'_, V> {
    fn param(&mut self, param: DynParamRef<'_>) {
        fn cast<T: 'static>(value: &dyn Any) -> &T {
            value.downcast_ref().unwrap_or_else(|| unreachable!("{TYPED}"))
        }
        with_rank!(param.rank, D => match param.kind {
            ParamKind::Float => self.0.visit_float(cast::<Param<Tensor<D>>>(param.value)),
            ParamKind::Int => self.0.visit_int(cast::<Param<Tensor<D, Int>>>(param.value)),
            ParamKind::Bool => self.0.visit_bool(cast::<Param<Tensor<D, Bool>>>(param.value)),
        });
    }
    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(torch_name(name), container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(torch_name(name), container);
    }
}

impl<M: ModuleMapper> DynMapper for FromDyn<'_, M> {
    fn param(&mut self, param: DynParam) -> DynParam {
        let (kind, rank) = (param.kind, param.rank);
        let value: Box<dyn Any> = with_rank!(rank, D => match kind {
            ParamKind::Float => Box::new(self.0.map_float(param.take::<Param<Tensor<D>>>())),
            ParamKind::Int => Box::new(self.0.map_int(param.take::<Param<Tensor<D, Int>>>())),
            ParamKind::Bool => Box::new(self.0.map_bool(param.take::<Param<Tensor<D, Bool>>>())),
        });
        DynParam { kind, rank, value }
    }
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(torch_name(name), container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(torch_name(name), container);
    }
}

/// A Rust field cannot be called `0`: the field `_0` is stored as `0`, as in `nn.Sequential`. Done at the boundary,
/// so that parameter names, optimizer groups and files all agree with PyTorch.
fn torch_name(name: &str) -> &str {
    match name.strip_prefix('_') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits,
        _ => name,
    }
}

/// Gives a module one more numeric name segment, as `nn.Sequential` does:
/// `adaLN_modulation: At<1, Linear>` is stored as `adaLN_modulation.1.weight`.
#[derive(Clone, Debug)]
pub struct At<const I: usize, M>(pub M);

impl<const I: usize, M> Deref for At<I, M> {
    type Target = M;
    fn deref(&self) -> &M {
        &self.0
    }
}

impl<const I: usize, M: ModuleDisplay> ModuleDisplayDefault for At<I, M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }
}

impl<const I: usize, M: ModuleDisplay> ModuleDisplay for At<I, M> {}

impl<const I: usize, M: Module> Module for At<I, M> {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        let name = I.to_string();
        visitor.enter_module(&name, "Sequential");
        self.0.visit(visitor);
        visitor.exit_module(&name, "Sequential");
    }
    fn map<T: ModuleMapper>(self, mapper: &mut T) -> Self {
        let name = I.to_string();
        mapper.enter_module(&name, "Sequential");
        let inner = self.0.map(mapper);
        mapper.exit_module(&name, "Sequential");
        Self(inner)
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        Self(self.0.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        Self(self.0.to_device(device))
    }
    fn train(self) -> Self {
        Self(self.0.train())
    }
    fn valid(&self) -> Self {
        Self(self.0.valid())
    }
    fn materialize(self) -> Self {
        Self(self.0.materialize())
    }
}

#[cfg(test)]
mod tests {
    use super::torch_name;

    #[test]
    fn only_underscored_numbers_lose_the_underscore() {
        assert_eq!(["_0", "_12", "_", "_a1", "x_0"].map(torch_name), ["0", "12", "_", "_a1", "x_0"]);
    }
}
