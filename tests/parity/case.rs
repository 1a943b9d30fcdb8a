//! One recorded case: a sidecar with settings, and the tensors beside it.

use anyhow::{Context, Result, bail, ensure};
use realign::burn::tensor::{Device, Tensor, TensorData};
use realign::weights::{HostTensor, StateDict};
use safetensors::tensor::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was recorded.
pub struct Case {
    pub config: Config,
    pub tolerance: Tolerance,
    /// Names of the `param.*` in published files, where they differ.
    pub checkpoint_names: CheckpointNames,
    tensors: BTreeMap<String, Recorded>,
}

/// How a published file names the recorded parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CheckpointNames {
    /// From recorded to published name.
    pub map: BTreeMap<String, String>,
    /// Published tensors that hold several recorded ones.
    pub unmatched_published: Vec<String>,
    /// The recorded ones.
    pub unmatched_state_dict: Vec<String>,
}

/// A recorded tensor; integers and bytes are held exactly.
#[derive(Clone)]
pub struct Recorded {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// What a correct implementation reaches; absent entries are those of the collection's description.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Forward: `|a − b| <= atol + rtol · |b|`, element by element.
    pub rtol: f64,
    pub atol: f64,
    /// Gradients: `max |a − b| <= rel_to_max · max |b| + 1e-6`, per tensor.
    pub rel_to_max: f64,
    /// Levels that a byte of a resampled picture may be off.
    pub crop_atol: f64,
}

/// The sidecar's `config`.
pub struct Config(pub Value);

impl Case {
    /// Reads a sidecar and its tensors.
    pub fn read(sidecar: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(sidecar).context("the sidecar cannot be read")?;
        let mut json: Value = serde_json::from_str(&text).context("the sidecar is no JSON")?;
        ensure!(json.is_object(), "the sidecar is no JSON object");
        let path = sidecar.with_extension("safetensors");
        let tensors = read_tensors(&path).with_context(|| format!("`{}`", file_name(&path)))?;
        check_listed(&json["tensors"], &tensors)?;
        let checkpoint_names = match json["checkpoint_names"].take() {
            Value::Null => CheckpointNames::default(),
            names => serde_json::from_value(names).context("checkpoint_names")?,
        };
        Ok(Self {
            tolerance: Tolerance::read(&json["tolerance"]),
            config: Config(json["config"].take()),
            checkpoint_names,
            tensors,
        })
    }

    /// Names that start with `prefix`, without it.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.tensors.keys().filter_map(move |name| name.strip_prefix(prefix))
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn recorded(&self, name: &str) -> Result<&Recorded> {
        self.tensors.get(name).with_context(|| format!("tensor `{name}` is not in the file"))
    }

    pub fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let shape = &self.recorded(name)?.shape;
        let found = shape.as_slice().try_into().ok();
        found.with_context(|| format!("tensor `{name}` of {shape:?} has not the rank {D}"))
    }

    /// A recorded tensor on a device, in f32.
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Result<Tensor<D>> {
        let shape = self.shape::<D>(name)?;
        let values: Vec<f32> = self.recorded(name)?.values.iter().map(|value| *value as f32).collect();
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.recorded(name)?.values.iter().map(|value| *value as i64).collect())
    }

    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        Ok(self.recorded(name)?.values.iter().map(|value| *value as u8).collect())
    }

    /// Tensors whose names start with `prefix`, as parameters.
    pub fn params(&self, prefix: &str) -> StateDict {
        let host = |recorded: &Recorded| HostTensor {
            shape: recorded.shape.clone(),
            values: recorded.values.iter().map(|value| *value as f32).collect(),
        };
        let named =
            |(name, recorded): (&String, &Recorded)| Some((name.strip_prefix(prefix)?.to_string(), host(recorded)));
        self.tensors.iter().filter_map(named).collect()
    }
}

impl Tolerance {
    fn read(json: &Value) -> Self {
        let number = |group: &str, key: &str, otherwise: f64| json[group][key].as_f64().unwrap_or(otherwise);
        Self {
            rtol: number("forward", "rtol", 1e-4),
            atol: number("forward", "atol", 1e-5),
            rel_to_max: number("grad", "rel_to_max", 1e-3),
            crop_atol: number("forward", "crop_atol", 1.0),
        }
    }
}

impl Config {
    pub fn number(&self, key: &str, otherwise: f64) -> f64 {
        self.0[key].as_f64().unwrap_or(otherwise)
    }

    pub fn flag(&self, key: &str) -> bool {
        self.0[key].as_bool().unwrap_or(false)
    }

    pub fn word<'a>(&'a self, key: &str, otherwise: &'a str) -> &'a str {
        self.0[key].as_str().unwrap_or(otherwise)
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        let number = self.0[key].as_u64().with_context(|| format!("config.{key} is missing or no count"))?;
        Ok(usize::try_from(number)?)
    }

    pub fn size_or(&self, key: &str, otherwise: usize) -> Result<usize> {
        if self.0[key].is_null() { Ok(otherwise) } else { self.size(key) }
    }

    pub fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().map_or(&[], Vec::as_slice)
    }
}

/// A count inside a list of the config.
pub fn count(value: &Value) -> Result<usize> {
    let number = value.as_u64().with_context(|| format!("`{value}` in the config is no count"))?;
    Ok(usize::try_from(number)?)
}

/// All files of a folder with this ending, sorted.
pub fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let listing =
        std::fs::read_dir(folder).with_context(|| format!("cannot read the folder `{}`", folder.display()))?;
    let mut found = vec![];
    for entry in listing {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, Recorded>> {
    let bytes = std::fs::read(path).context("cannot be read")?;
    let file = SafeTensors::deserialize(&bytes).context("is not a whole safetensors file")?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => chunks::<4>(data).map(|bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
            Dtype::F64 => chunks::<8>(data).map(f64::from_le_bytes).collect(),
            Dtype::I64 => chunks::<8>(data).map(|bytes| i64::from_le_bytes(bytes) as f64).collect(),
            Dtype::I32 => chunks::<4>(data).map(|bytes| f64::from(i32::from_le_bytes(bytes))).collect(),
            Dtype::U8 | Dtype::BOOL => data.iter().map(|byte| f64::from(*byte)).collect(),
            other => bail!("tensor `{name}` has the element type {other:?}; known: F32, F64, I64, I32, U8, BOOL"),
        };
        tensors.insert(name.to_string(), Recorded { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.chunks_exact(N).filter_map(|chunk| chunk.try_into().ok())
}

/// The sidecar lists the tensors; the file must hold them, with these shapes.
fn check_listed(listed: &Value, tensors: &BTreeMap<String, Recorded>) -> Result<()> {
    for (name, entry) in listed.as_object().into_iter().flatten() {
        let found = tensors.get(name).with_context(|| format!("tensor `{name}` of the sidecar is not in the file"))?;
        let shape: Vec<usize> = match entry["shape"].as_array() {
            Some(shape) => shape.iter().map(count).collect::<Result<_>>()?,
            None => continue,
        };
        ensure!(found.shape == shape, "tensor `{name}` is {:?}, and {shape:?} in the sidecar", found.shape);
    }
    Ok(())
}
