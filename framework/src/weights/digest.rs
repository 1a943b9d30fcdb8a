//! Telling weights from others.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use sha2::{Digest, Sha256};

use super::modules::{Names, to_host};

/// SHA-256 over names, shapes and values of all float parameters, hexadecimal: the same for the same weights, whatever
/// file they came from.
pub fn digest<M: Module>(module: &M) -> String {
    struct Hash(Names, Sha256);
    impl ModuleVisitor for Hash {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.update(format!("{} {:?}\n", self.0.full(), param.lazy_shape().to_vec()));
            let bytes: Vec<u8> = to_host(param.val()).iter().flat_map(|value| value.to_le_bytes()).collect();
            self.1.update(bytes);
        }
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
    }
    let mut hash = Hash(Names::default(), Sha256::new());
    module.visit(&mut hash);
    hash.1.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
