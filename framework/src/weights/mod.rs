//! Parameters by name: listing, reading and writing safetensors files, filling modules.

mod files;
mod modules;

pub use files::{read_safetensors, write_safetensors};
pub use modules::{ParamInfo, load_state_dict, parameters, state_dict, to_host};

pub(crate) use modules::Names;

use std::collections::BTreeMap;

/// A tensor in the host's memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
    /// As many values as the shape says.
    pub values: Vec<f32>,
}

/// Tensors by their PyTorch names.
pub type StateDict = BTreeMap<String, HostTensor>;
