//! What the tensor library's messages mean, and what to do about them.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use super::memory::{available_memory, gigabytes};

/// Recipe keys that take less memory, in the order in which they cost least.
const KEYS_THAT_REDUCE: &str = "a smaller train.micro_batch_size needs less (`auto` finds what fits), so do precision \
                                `bf16` and `train.activation_checkpointing: true`; where pictures were drawn, a smaller \
                                sample.num_preview or evaluation.batch_size";
const DRIVERS: &str = "https://www.nvidia.com/drivers";

/// A device has not as much memory as was asked for. Work in smaller parts may still succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfMemory(String);

impl Display for OutOfMemory {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for OutOfMemory {}

/// A message of libtorch in this project's words, as [`OutOfMemory`] where it says so; nothing where it is not one of
/// those that users can do something about.
pub(super) fn explain(message: &str) -> Option<anyhow::Error> {
    out_of_memory(message).map(anyhow::Error::new).or_else(|| unusable_device(message).map(anyhow::Error::msg))
}

///
/// Source of the texts: `c10/core/impl/alloc_cpu.cpp`, `c10/cuda/CUDACachingAllocator.cpp` and `CUDAFunctions.cpp` of
/// PyTorch 2.11; those of CUDA's runtime are `cudaGetErrorString`'s.
fn out_of_memory(message: &str) -> Option<OutOfMemory> {
    if let Some(asked) = between(message, "you tried to allocate ", " bytes") {
        let asked = asked.parse().map_or(asked.to_string(), |bytes: f64| gigabytes(bytes));
        let free = available_memory().map(|bytes| format!(" and {} are available", gigabytes(bytes as f64)));
        let free = free.unwrap_or_default();
        return Some(OutOfMemory(format!("out of memory: {asked} were asked for{free}; {KEYS_THAT_REDUCE}")));
    }
    if let Some(asked) = between(message, "CUDA out of memory. Tried to allocate ", ". GPU") {
        let place = between(message, ". GPU ", " has").map_or("cuda".into(), |index| format!("cuda:{index}"));
        let total = between(message, "total capacity of ", " of which").unwrap_or("an unknown size");
        let free = between(message, "of which ", " is free").unwrap_or("an unknown part");
        return Some(OutOfMemory(format!(
            "out of memory on `{place}`: {asked} were asked for, {free} of its {total} are free; {KEYS_THAT_REDUCE}"
        )));
    }
    let texts = ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"];
    texts
        .iter()
        .any(|text| message.contains(text))
        .then(|| OutOfMemory(format!("out of memory on the GPU, beside what libtorch keeps; {KEYS_THAT_REDUCE}")))
}

fn unusable_device(message: &str) -> Option<String> {
    let says = |text: &str| message.contains(text);
    if says("Found no NVIDIA driver") {
        return Some(no_driver());
    }
    if says("driver on your system is too old") || says("driver version is insufficient") {
        let found = between(message, "found version ", ")").and_then(|version| version.parse().ok());
        return Some(old_driver(found, None));
    }
    if says("no kernel image is available") {
        return Some("this libtorch has no code for a GPU of this age; use a newer GPU, or `device: cpu`".into());
    }
    says("invalid device ordinal").then(|| "there is no GPU with this index; `nvidia-smi -L` lists them".into())
}

/// What is known of CUDA on this machine. Versions are CUDA's numbers: 13000 is 13.0.
#[cfg(any(test, feature = "tch"))]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CudaFacts {
    /// Why libtorch's CUDA library does not load.
    pub unloaded: Option<String>,
    /// Newest CUDA that the driver knows.
    pub driver: Option<u32>,
    /// CUDA that libtorch was built with.
    pub runtime: Option<u32>,
    /// GPUs that programs may use.
    pub num_devices: usize,
}

#[cfg(any(test, feature = "tch"))]
impl CudaFacts {
    /// What keeps this program from `cuda:index`, with the command that fixes it; nothing where nothing does.
    pub fn problem(&self, index: usize) -> Option<String> {
        if let Some(reason) = &self.unloaded {
            return Some(unloaded(reason));
        }
        match (self.num_devices, self.driver, self.runtime) {
            (count, ..) if index < count => None,
            (0, None | Some(0), _) => Some(no_driver()),
            (0, Some(driver), Some(runtime)) if driver / 1000 < runtime / 1000 => {
                Some(old_driver(Some(driver), Some(runtime)))
            }
            (0, ..) => Some(
                "the driver shows no GPU to this program; `nvidia-smi -L` lists them, and CUDA_VISIBLE_DEVICES may hide \
                 them; `device: cpu` runs here"
                    .into(),
            ),
            (1, ..) => Some(format!("there is no GPU with index {index}: one was found; allowed is `cuda:0`")),
            (count, ..) => Some(format!(
                "there is no GPU with index {index}: {count} were found; allowed are `cuda:0` to `cuda:{}`",
                count - 1
            )),
        }
    }
}

#[cfg(any(test, feature = "tch"))]
fn unloaded(reason: &str) -> String {
    let fix = "get one with `cargo xtask libtorch --cuda`, or use `device: cpu`";
    match between(reason, "", ": cannot open shared object file") {
        Some(library) if !library.contains("libtorch_cuda") => {
            let name = library.rsplit(['/', ' ']).next().unwrap_or(library);
            format!("`{name}`, which libtorch needs for CUDA, is not there; {fix}")
        }
        Some(_) => format!("this libtorch is built without CUDA; {fix}"),
        // A stand-in for the linker is not a library.
        None if reason.contains("file too short") || reason.contains("invalid ELF header") => {
            format!("this libtorch is built without CUDA; {fix}")
        }
        None => format!("this libtorch has no usable CUDA ({reason}); {fix}"),
    }
}

fn no_driver() -> String {
    format!(
        "no NVIDIA driver is loaded; install one from {DRIVERS}, after which `nvidia-smi` lists the GPU, or use `device: cpu`"
    )
}

fn old_driver(driver: Option<u32>, runtime: Option<u32>) -> String {
    let version = |number: u32| format!("{}.{}", number / 1000, number % 1000 / 10);
    let found = driver.map(|number| format!(" (it knows CUDA {})", version(number))).unwrap_or_default();
    let needed = runtime.map(|number| format!(" CUDA {}", version(number))).unwrap_or_default();
    format!(
        "the NVIDIA driver is too old{found} for this libtorch{needed}; update it from {DRIVERS}, or use `device: cpu`"
    )
}

/// The text between two others, the first of them; from the beginning where `before` is empty.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.find(after).map(|end| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_libtorch_become_what_a_user_can_do() {
        let out_of_memory = "CUDA out of memory. Tried to allocate 1.95 GiB. GPU 2 has a total capacity of 14.57 GiB of \
            which 966.00 MiB is free. Including non-PyTorch memory, this process has 12.02 GiB memory in use. Of the \
            allocated memory 734.07 MiB is allocated by PyTorch, and 33.93 MiB is reserved by PyTorch but unallocated.";
        let cases = [
            (
                out_of_memory,
                "`cuda:2`: 1.95 GiB were asked for, 966.00 MiB of its 14.57 GiB are free; a smaller train.",
            ),
            (
                "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to \
                 allocate 6383992832 bytes. Error code 12 (Cannot allocate memory)",
                "out of memory: 6.38 GB were asked for",
            ),
            ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "train.micro_batch_size"),
            ("CUDA error: out of memory", "out of memory on the GPU"),
            (
                "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver",
                "`nvidia-smi` lists the GPU",
            ),
            (
                "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by",
                "too old (it knows CUDA 11.4)",
            ),
            ("CUDA error: CUDA driver version is insufficient for CUDA runtime version", "driver is too old for"),
            ("CUDA error: invalid device ordinal", "`nvidia-smi -L`"),
            ("CUDA error: no kernel image is available for execution on the device", "`device: cpu`"),
        ];
        for (message, expected) in cases {
            let found = explain(message).unwrap();
            assert!(found.to_string().contains(expected), "{message}: {found}");
            let says_memory = message.contains("memory") || message.contains("ALLOC");
            assert_eq!(found.is::<OutOfMemory>(), says_memory, "{message}");
        }
        assert!(explain("The size of tensor a (3) must match the size of tensor b (5)").is_none());
    }

    #[test]
    fn each_reason_why_a_gpu_cannot_be_used_has_its_own_words() {
        let usable = CudaFacts { unloaded: None, driver: Some(13000), runtime: Some(13000), num_devices: 2 };
        assert_eq!([0, 1].map(|index| usable.problem(index)), [None, None]);
        let unloaded = |reason: &str| CudaFacts { unloaded: Some(reason.into()), ..CudaFacts::default() };
        let cases = [
            (usable.clone(), "index 5: 2 were found; allowed are `cuda:0` to `cuda:1`"),
            (CudaFacts { num_devices: 1, ..usable.clone() }, "one was found"),
            (CudaFacts { num_devices: 0, driver: None, ..usable.clone() }, "no NVIDIA driver is loaded"),
            (
                CudaFacts { num_devices: 0, driver: Some(12080), ..usable.clone() },
                "CUDA 12.8) for this libtorch CUDA 13.0",
            ),
            (CudaFacts { num_devices: 0, ..usable }, "CUDA_VISIBLE_DEVICES"),
            (
                unloaded("/x/lib/libtorch_cuda.so: cannot open shared object file: No such file or directory"),
                "built without CUDA; get one with `cargo xtask libtorch --cuda`",
            ),
            (unloaded("libcudnn.so.9: cannot open shared object file: No such file or directory"), "`libcudnn.so.9`"),
            (unloaded("/x/lib/libtorch_cuda.so: file too short"), "built without CUDA"),
            (
                unloaded("/x/lib/libtorch_cuda.so: undefined symbol: x"),
                "no usable CUDA (/x/lib/libtorch_cuda.so: undefined",
            ),
        ];
        for (facts, expected) in cases {
            let found = facts.problem(5).unwrap_or_default();
            assert!(found.contains(expected), "{facts:?}: {found}");
        }
    }

    #[cfg(feature = "tch")]
    #[test]
    fn too_much_memory_is_refused_with_the_numbers() {
        let device = crate::ops::open(crate::ops::DeviceChoice::Cpu).unwrap();
        let result = crate::ops::guard(|| Ok(burn::tensor::Tensor::<1>::zeros([1_usize << 50], &device)));
        let message = result.unwrap_err().to_string();
        assert!(message.contains("out of memory: 4503599.63 GB were asked for"), "{message}");
    }
}
