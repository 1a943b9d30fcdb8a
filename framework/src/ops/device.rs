//! The one place where a device is made.

use anyhow::{Result, bail};
use burn::backend::DispatchDevice;
use burn::tensor::Device;

use crate::registry::nearest;

/// What a recipe's `device` key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else libtorch on the CPU, else flex.
    Auto,
    /// libtorch on the CPU.
    Cpu,
    /// burn's pure-Rust backend on the CPU.
    Flex,
    /// libtorch on the CUDA device with this index.
    Cuda(usize),
}

const NAMES: [&str; 4] = ["auto", "cpu", "cuda", "flex"];

impl DeviceChoice {
    /// Reads `auto`, `cpu`, `flex`, `cuda` or `cuda:1`.
    ///
    /// # Errors
    /// Any other word, with the nearest allowed one.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("cuda", index)) => match index.parse() {
                Ok(index) => Ok(Self::Cuda(index)),
                Err(_) => bail!("`{text}`: `{index}` is not a device index; write `cuda:0`"),
            },
            _ => match text {
                "auto" => Ok(Self::Auto),
                "cpu" => Ok(Self::Cpu),
                "flex" => Ok(Self::Flex),
                "cuda" => Ok(Self::Cuda(0)),
                _ => {
                    let hint = nearest(text, NAMES).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
                    bail!("unknown device `{text}`{hint} (allowed: auto, cpu, cuda, cuda:<index>, flex)")
                }
            },
        }
    }

    /// Whether it can only be burn's pure-Rust backend.
    pub fn is_flex(self) -> bool {
        match self {
            Self::Flex => true,
            Self::Auto => cfg!(not(feature = "tch")),
            Self::Cpu | Self::Cuda(_) => false,
        }
    }
}

/// Opens a device, without autodiff.
///
/// # Errors
/// The device is not there, or this program was built without the backend that it needs.
pub fn open(choice: DeviceChoice) -> Result<Device> {
    match choice {
        DeviceChoice::Flex => Ok(flex()),
        #[cfg(feature = "tch")]
        DeviceChoice::Auto => Ok(open_cuda(0).unwrap_or_else(|_| libtorch_cpu())),
        #[cfg(feature = "tch")]
        DeviceChoice::Cpu => Ok(libtorch_cpu()),
        #[cfg(not(feature = "tch"))]
        DeviceChoice::Auto => Ok(flex()),
        #[cfg(not(feature = "tch"))]
        DeviceChoice::Cpu => {
            bail!("`cpu` needs libtorch, and this program was built without it; use `device: flex`")
        }
        DeviceChoice::Cuda(index) => open_cuda(index),
    }
}

fn flex() -> Device {
    super::heap::keep_freed_memory();
    Device::flex()
}

#[cfg(feature = "tch")]
#[allow(deprecated)] // upstream moves libtorch out of the default set; this function is the only caller
fn libtorch_cpu() -> Device {
    super::heap::keep_freed_memory();
    Device::libtorch()
}

#[cfg(feature = "tch")]
#[allow(deprecated)]
fn open_cuda(index: usize) -> Result<Device> {
    match super::libtorch::cuda_facts().problem(index) {
        Some(problem) => bail!("`cuda:{index}`: {problem}"),
        None => {
            super::libtorch::allow_tf32(false);
            super::heap::keep_freed_memory(); // of batches and noise
            Ok(Device::libtorch_cuda(index))
        }
    }
}

#[cfg(not(feature = "tch"))]
fn open_cuda(index: usize) -> Result<Device> {
    bail!("`cuda:{index}` needs libtorch, and this program was built without it; use `device: flex`")
}

/// Every kind of device that this program can compute on here, by name: libtorch on the CPU, the first CUDA device
/// where there is one, flex. Tests run on all of them.
pub fn devices() -> Vec<(&'static str, Device)> {
    let libtorch = [("libtorch", DeviceChoice::Cpu), ("cuda", DeviceChoice::Cuda(0))];
    let choices = libtorch.into_iter().chain([("flex", DeviceChoice::Flex)]);
    choices.filter_map(|(name, choice)| Some((name, open(choice).ok()?))).collect()
}

/// Whether the fused libtorch kernels serve this device.
pub fn on_libtorch(device: &Device) -> bool {
    #[cfg(feature = "tch")]
    return matches!(device.as_dispatch().clone().inner(), DispatchDevice::LibTorch(_));
    #[cfg(not(feature = "tch"))]
    {
        let _: &DispatchDevice = device.as_dispatch();
        false
    }
}

/// Whether the single-pass CPU kernels of libtorch serve this device.
#[cfg(feature = "tch")]
pub(super) fn on_libtorch_cpu(device: &Device) -> bool {
    let device = device.as_dispatch().clone().inner();
    matches!(device, DispatchDevice::LibTorch(burn_tch::LibTorchDevice::Cpu))
}

/// Major and minor compute capability of an NVIDIA device; none of another.
pub(super) fn compute_capability(device: &Device) -> Option<[u32; 2]> {
    #[cfg(feature = "tch")]
    if let DispatchDevice::LibTorch(burn_tch::LibTorchDevice::Cuda(index)) = device.as_dispatch().clone().inner() {
        return Some(super::libtorch::compute_capability(index));
    }
    let _ = device;
    None
}

/// The device in words: `libtorch cpu, 2 threads`.
pub fn describe(device: &Device) -> String {
    #[cfg(feature = "tch")]
    if on_libtorch(device) {
        return format!("libtorch {}, {} threads", super::libtorch::name(device), num_threads());
    }
    let _ = device;
    format!("flex (pure Rust), {} threads", num_threads())
}

/// Version of the libtorch that serves the device; none on other backends.
pub fn libtorch_version(device: &Device) -> Option<String> {
    #[cfg(feature = "tch")]
    if on_libtorch(device) {
        return Some(super::libtorch::version());
    }
    let _ = device;
    None
}

/// Backends this program was built with.
pub fn backend_names() -> &'static [&'static str] {
    #[cfg(feature = "tch")]
    return &["libtorch", "flex"];
    #[cfg(not(feature = "tch"))]
    &["flex"]
}

/// Threads that one operation may use.
pub fn num_threads() -> usize {
    #[cfg(feature = "tch")]
    return super::libtorch::threads();
    #[cfg(not(feature = "tch"))]
    rayon::current_num_threads()
}

/// Sets the threads that one libtorch operation may use; no effect on flex.
pub fn set_num_threads(count: usize) {
    #[cfg(feature = "tch")]
    super::libtorch::set_threads(count);
    #[cfg(not(feature = "tch"))]
    let _ = count;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_device_names_the_nearest() {
        let message = DeviceChoice::parse("cudda").unwrap_err().to_string();
        assert!(message.contains("`cuda`?"), "{message}");
        assert!(DeviceChoice::parse("cuda:x").is_err());
        assert_eq!(DeviceChoice::parse("cuda:3").unwrap(), DeviceChoice::Cuda(3));
    }
}
