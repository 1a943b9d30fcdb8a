//! Modules in a row under numbers, as PyTorch's `nn.Sequential` names them.

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

/// Modules with their places in a row. Layers without parameters take places too, so the numbers have gaps.
#[derive(Clone, Debug)]
pub struct Sequential<M>(pub Vec<(usize, M)>);

impl<M: Module> Sequential<M> {
    fn each(self, change: impl Fn(M) -> M) -> Self {
        Self(self.0.into_iter().map(|(place, module)| (place, change(module))).collect())
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Sequential<M> {
    fn content(&self, content: Content) -> Option<Content> {
        let content = self.0.iter().fold(content, |content, (place, module)| content.add(&place.to_string(), module));
        content.optional()
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Sequential<M> {}

impl<M: Module> Module for Sequential<M> {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (place, module) in &self.0 {
            let name = place.to_string();
            visitor.enter_module(&name, "Sequential");
            module.visit(visitor);
            visitor.exit_module(&name, "Sequential");
        }
    }
    fn map<T: ModuleMapper>(self, mapper: &mut T) -> Self {
        let mut modules = Vec::with_capacity(self.0.len());
        for (place, module) in self.0 {
            let name = place.to_string();
            mapper.enter_module(&name, "Sequential");
            modules.push((place, module.map(mapper)));
            mapper.exit_module(&name, "Sequential");
        }
        Self(modules)
    }
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.iter().fold(devices, |devices, (_, module)| module.collect_devices(devices))
    }
    fn fork(self, device: &Device) -> Self {
        self.each(|module| module.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.each(|module| module.to_device(device))
    }
    fn train(self) -> Self {
        self.each(M::train)
    }
    fn valid(&self) -> Self {
        Self(self.0.iter().map(|(place, module)| (*place, module.valid())).collect())
    }
    fn materialize(self) -> Self {
        self.each(M::materialize)
    }
}
