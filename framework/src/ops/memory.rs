//! Memory of the device: the most that was used, and what is left.

use anyhow::{Result, bail};
use burn::tensor::Device;
#[cfg(feature = "tch")]
use burn::tensor::Tensor;

/// Most bytes that were in use so far: of the whole program on a CPU, of libtorch's tensors and its reserve on CUDA.
/// Nothing where the system does not tell.
pub fn peak_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "tch")]
    if let Some(index) = cuda(device) {
        return cuda_memory(index).map(|[peak, _]| peak).ok();
    }
    let _ = device;
    of_process("VmHWM:")
}

/// Gives memory that libtorch keeps for later tensors back to a CUDA device, where other programs can take it.
pub fn release_memory(device: &Device) {
    #[cfg(feature = "tch")]
    if cuda(device).is_some() {
        unsafe extern "C" {
            fn rl_release_cuda_memory() -> i32;
        }
        // SAFETY: plain call.
        super::libtorch::check(unsafe { rl_release_cuda_memory() });
    }
    let _: &Device = device;
}

/// Lets [`peak_memory`] of a CUDA device begin again with what is in use now, so that trials do not count. That of a CPU
/// is the system's and goes on.
pub fn restart_peak_memory(device: &Device) {
    #[cfg(feature = "tch")]
    if let Some(index) = cuda(device) {
        unsafe extern "C" {
            fn rl_restart_cuda_peak(cuda: i32) -> i32;
        }
        // SAFETY: plain call.
        super::libtorch::check(unsafe { rl_restart_cuda_peak(index as i32) });
    }
    let _: &Device = device;
}

/// Whether a device has memory of its own.
pub fn is_cuda(device: &Device) -> bool {
    #[cfg(feature = "tch")]
    return cuda(device).is_some();
    #[cfg(not(feature = "tch"))]
    {
        let _: &Device = device;
        false
    }
}

/// Bytes that the program holds now on a CPU, beside tensors too; nothing where the system does not tell.
pub fn resident_memory() -> Option<u64> {
    of_process("VmRSS:")
}

/// Memory that programs can still take, in bytes.
///
/// # Errors
/// The device or the system does not tell.
pub fn free_memory(device: &Device) -> Result<u64> {
    #[cfg(feature = "tch")]
    if let Some(index) = cuda(device) {
        drop(Tensor::<1>::zeros([1], device)); // the answer counts what libtorch needs for itself
        return cuda_memory(index).map(|[_, free]| free);
    }
    let _: &Device = device;
    match available_memory() {
        Some(bytes) => Ok(bytes),
        None => bail!("this system does not tell how much memory is free"),
    }
}

/// Bytes as a person reads them: `1.50 GB`.
pub fn gigabytes(bytes: f64) -> String {
    format!("{:.2} GB", bytes / 1e9)
}

/// Memory that programs can still take on this machine, in bytes, where the system tells.
pub(super) fn available_memory() -> Option<u64> {
    kib("/proc/meminfo", "MemAvailable:")
}

fn of_process(name: &str) -> Option<u64> {
    kib("/proc/self/status", name)
}

fn kib(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(feature = "tch")]
fn cuda(device: &Device) -> Option<usize> {
    super::on_libtorch(device).then(|| super::libtorch::cuda_index(device)).flatten()
}

#[cfg(feature = "tch")]
fn cuda_memory(index: usize) -> Result<[u64; 2]> {
    unsafe extern "C" {
        fn rl_cuda_memory(cuda: i32, peak: *mut i64, free: *mut i64) -> i32;
    }
    let (mut peak, mut free) = (0, 0);
    // SAFETY: two numbers to be written.
    if unsafe { rl_cuda_memory(i32::try_from(index)?, &mut peak, &mut free) } != 0 {
        bail!("{}", super::libtorch::last_error())
    }
    Ok([peak, free].map(i64::unsigned_abs))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_tells_peak_and_free_memory() {
        let device = Device::flex();
        let before = peak_memory(&device).unwrap();
        let held = vec![1u8; 50 << 20];
        let during = peak_memory(&device).unwrap();
        assert!(during >= before && during >= resident_memory().unwrap() && during > held.len() as u64);
        assert!(free_memory(&device).unwrap() > 1 << 20);
    }
}
