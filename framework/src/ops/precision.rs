//! The arithmetic of the heavy operations: a policy of the ops, of which no plugin knows.

use std::cell::Cell;

use anyhow::{Result, bail};
use burn::tensor::{DType, Device, FloatDType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The arithmetic of linear layers, convolutions and attention.
///
/// Norms, softmax, activations and losses compute in f32 under each of them; parameters, their gradients, optimizer and
/// moving averages are f32. Inside [`jvp`](super::jvp) bf16 is tf32. What an op keeps for its backward pass is of the policy
/// it ran under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32; tensor cores that round to tf32 stay off.
    #[default]
    F32,
    /// f32 whose products NVIDIA's tensor cores take of operands with 10 bits behind the point.
    Tf32,
    /// Operands rounded to bf16, sums in f32. A CPU multiplies the rounded operands in f32 and gains no time by it.
    Bf16,
}

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

impl Precision {
    /// The policy that ops on this thread follow: that of the innermost [`scope`](Self::scope), f32 outside of all.
    ///
    /// Work that runs later or on another thread takes it along:
    ///
    /// ```
    /// use realign::ops::Precision;
    /// let later = Precision::Bf16.scope(|| {
    ///     let precision = Precision::current();
    ///     move || precision.scope(Precision::current)
    /// });
    /// assert_eq!((Precision::current(), later()), (Precision::F32, Precision::Bf16));
    /// ```
    pub fn current() -> Self {
        #[cfg(feature = "tch")]
        if super::dual::is_open() {
            return CURRENT.get().of_derivative();
        }
        CURRENT.get()
    }

    /// The policy of a derivative under this one: an op that rounds to bf16 carries no tangent.
    #[cfg(feature = "tch")]
    pub(super) fn of_derivative(self) -> Self {
        match self {
            Self::F32 => Self::F32,
            Self::Tf32 | Self::Bf16 => Self::Tf32,
        }
    }

    /// Runs `work` under this policy. tf32 is a switch of the whole process: two threads must not disagree about it.
    pub fn scope<T>(self, work: impl FnOnce() -> T) -> T {
        let _outer = Outer(CURRENT.replace(self));
        self.switch();
        work()
    }

    /// As recipes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// Refuses a policy that the device does not have.
    ///
    /// # Errors
    /// tf32 anywhere but on an NVIDIA device of compute capability 8.0 or more; bf16 on flex, or on an older NVIDIA device.
    pub fn check(self, device: &Device) -> Result<()> {
        if self == Self::F32 {
            return Ok(());
        }
        let (name, on) = (self.name(), super::describe(device));
        match super::device::compute_capability(device) {
            Some(capability) if capability < FIRST_CAPABILITY => bail!(
                "precision: `{name}` needs an NVIDIA device of compute capability {}.{} or more, and this one has \
                 {}.{}; set precision to f32",
                FIRST_CAPABILITY[0],
                FIRST_CAPABILITY[1],
                capability[0],
                capability[1]
            ),
            Some(_) => Ok(()),
            None if self == Self::Bf16 && super::on_libtorch(device) => Ok(()),
            None => bail!("precision: {on} has no `{name}`; set precision to f32"),
        }
    }

    fn switch(self) {
        #[cfg(feature = "tch")]
        super::libtorch::allow_tf32(self == Self::Tf32);
    }
}

/// The values in f32, as plain operations and losses compute: what a hidden layer hands on may be in bf16.
pub(super) fn full<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::BF16 { x.cast(FloatDType::F32) } else { x }
}

/// Compute capability of the first NVIDIA devices with bf16 and tf32.
const FIRST_CAPABILITY: [u32; 2] = [8, 0];

/// The policy outside of a scope, which comes back when the scope ends, by an error too.
struct Outer(Precision);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.set(self.0);
        self.0.switch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{DeviceChoice, guard, open};

    #[test]
    fn a_scope_ends_with_its_work_or_its_panic() {
        Precision::Bf16.scope(|| {
            assert_eq!(Precision::F32.scope(Precision::current), Precision::F32);
            let failed = guard(|| Precision::F32.scope(|| -> Result<()> { panic!("tensors do not fit") }));
            assert!(failed.is_err());
            assert_eq!(Precision::current(), Precision::Bf16);
        });
        assert_eq!(Precision::current(), Precision::F32);
    }

    #[test]
    fn a_thread_starts_with_f32() {
        let other = Precision::Bf16.scope(|| std::thread::spawn(Precision::current).join());
        assert_eq!(other.unwrap(), Precision::F32);
    }

    #[test]
    fn a_device_that_lacks_a_policy_refuses_it_by_its_key() {
        let flex = open(DeviceChoice::Flex).unwrap();
        for precision in [Precision::Tf32, Precision::Bf16] {
            let message = precision.check(&flex).unwrap_err().to_string();
            assert!(message.starts_with("precision: flex") && message.contains(precision.name()), "{message}");
        }
        assert!(Precision::F32.check(&flex).is_ok());
        if cfg!(feature = "tch") {
            let cpu = open(DeviceChoice::Cpu).unwrap();
            assert!(Precision::Bf16.check(&cpu).is_ok());
            assert!(Precision::Tf32.check(&cpu).unwrap_err().to_string().contains("libtorch cpu"));
        }
    }
}
