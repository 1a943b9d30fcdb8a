//! Parameters by name: reading published files, writing safetensors, filling modules.
//!
//! [`TensorFile`] opens a file of any known format and lists its tensors without reading their values; [`KeyMap`]
//! says how published names become ours; [`load_state_dict`] fills a module.
//!
//! ```no_run
//! use realign::weights::KeyMap;
//! # fn fill<M: realign::burn::module::Module>(vit: M) -> anyhow::Result<M> {
//! let layout = KeyMap::new()
//!     .strip(&["state_dict."])
//!     .strip(&["module.base_encoder."])
//!     .concat("blocks.*.attn.qkv.**", &["layer.*.query.**", "layer.*.key.**", "layer.*.value.**"])
//!     .rename("blocks.*.norm1.**", "layer.*.layernorm_before.**")
//!     .ignore(&["head.**"]);
//! layout.fill(vit, std::path::Path::new("vit.pth"))
//! # }
//! ```

mod digest;
mod elements;
mod hostile_files;
mod key_import;
mod key_map;
mod layout;
mod misfit;
mod modules;
mod pattern;
mod pickle;
mod published;
mod safetensors_file;
mod tensor_file;
mod torch_file;
mod torch_fixtures;
mod torch_objects;
mod torch_writer;

pub use digest::digest;
pub use elements::ElementType;
pub use key_map::KeyMap;
pub use layout::{CheckpointLayout, LayoutContext, checkpoint_layouts, find_layout};
pub use modules::{ParamInfo, load_state_dict, parameters, state_dict, to_host};
pub use published::{Fit, PublishedWeights, find_published, published_weights};
pub use safetensors_file::{parse_safetensors, read_safetensors, write_safetensors};
pub use tensor_file::{TensorFile, TensorInfo, read_weights};
pub use torch_writer::write_torch;
#[doc(hidden)]
pub use {layout::Layout, published::PublishedList};

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
