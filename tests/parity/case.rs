//! A recorded case: tensors and the sidecar that says what they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, TensorData};
use realign::weights::{HostTensor, StateDict};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Names of all cases of a folder, sorted.
pub fn sidecars(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json"))
        .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    if names.is_empty() {
        bail!("`{}` holds no case", folder.display());
    }
    Ok(names)
}

/// What a correct implementation must reach.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
    /// Largest gradient error, in units of the tensor's largest value.
    pub rel_to_max: f64,
}

pub struct Case {
    pub config: Value,
    pub tolerance: Tolerance,
    pub sidecar: Value,
    tensors: BTreeMap<String, Recorded>,
}

struct Recorded {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Case {
    pub fn read(folder: &Path, name: &str) -> Result<Self> {
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        let text = fs::read_to_string(path("json")).with_context(|| format!("{name}.json"))?;
        let sidecar: Value = serde_json::from_str(&text).with_context(|| format!("{name}.json"))?;
        let bytes = fs::read(path("safetensors")).with_context(|| format!("{name}.safetensors"))?;
        let file = SafeTensors::deserialize(&bytes).with_context(|| format!("{name}.safetensors"))?;
        let mut tensors = BTreeMap::new();
        for (tensor, view) in file.iter() {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => {
                    data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
                }
                Dtype::F64 => {
                    data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
                }
                Dtype::I64 => data
                    .chunks_exact(8)
                    .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")) as f64)
                    .collect(),
                Dtype::U8 => data.iter().map(|byte| f64::from(*byte)).collect(),
                other => bail!("{name}: `{tensor}` has the element type {other:?}"),
            };
            tensors.insert(tensor.to_string(), Recorded { shape: view.shape().to_vec(), values });
        }
        let number = |path: &str, default: f64| sidecar.pointer(path).and_then(Value::as_f64).unwrap_or(default);
        let tolerance = Tolerance {
            rtol: number("/tolerance/forward/rtol", 1e-4),
            atol: number("/tolerance/forward/atol", 1e-5),
            rel_to_max: number("/tolerance/grad/rel_to_max", 1e-3),
        };
        Ok(Self { config: sidecar["config"].clone(), tolerance, sidecar, tensors })
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn names(&self, prefix: &str) -> Vec<&str> {
        self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).collect()
    }

    fn recorded(&self, name: &str) -> Result<&Recorded> {
        self.tensors.get(name).with_context(|| format!("tensor `{name}` is missing"))
    }

    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.recorded(name)?.shape)
    }

    pub fn values(&self, name: &str) -> Result<&[f64]> {
        Ok(&self.recorded(name)?.values)
    }

    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Result<Tensor<D>> {
        let recorded = self.recorded(name)?;
        if recorded.shape.len() != D {
            bail!("tensor `{name}` has the shape {:?}, expected {D} axes", recorded.shape);
        }
        let values: Vec<f32> = recorded.values.iter().map(|value| *value as f32).collect();
        Ok(Tensor::from_data(TensorData::new(values, recorded.shape.clone()), device))
    }

    pub fn labels(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.values(name)?.iter().map(|value| *value as i64).collect())
    }

    /// All `param.*` tensors under their own names.
    pub fn params(&self) -> StateDict {
        let named = self.tensors.iter().filter_map(|(name, recorded)| {
            let values = recorded.values.iter().map(|value| *value as f32).collect();
            Some((name.strip_prefix("param.")?.to_string(), HostTensor { shape: recorded.shape.clone(), values }))
        });
        named.collect()
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        self.config.get(key).and_then(Value::as_f64)
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        let value = self.config.get(key).and_then(Value::as_u64).with_context(|| format!("config has no `{key}`"))?;
        Ok(value as usize)
    }

    pub fn word(&self, key: &str, default: &str) -> String {
        self.config.get(key).and_then(Value::as_str).unwrap_or(default).to_string()
    }

    pub fn is(&self, key: &str) -> bool {
        self.config.get(key).and_then(Value::as_bool).unwrap_or(false)
    }
}
