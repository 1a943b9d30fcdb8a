//! What the tensor library does during a piece of work: operations with their times, waits of the host, memory.

use std::marker::PhantomData;

use anyhow::{Result, bail};
use burn::tensor::Device;

/// Part of a training step that an operation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Losses, and whatever no other phase claims.
    Forward,
    /// Gradients.
    Backward,
    /// Clipping, optimizer and moving averages.
    Update,
}

/// All phases, in the order of a step.
pub const PHASES: [Phase; 3] = [Phase::Forward, Phase::Backward, Phase::Update];

/// Calls of one operation in one phase.
#[derive(Debug, Clone, PartialEq)]
pub struct OpTime {
    /// The library's name, `aten::addmm`; fused operations of this project begin with `realign::`.
    pub name: String,
    /// Where it was called.
    pub phase: Phase,
    /// Number of calls.
    pub calls: u64,
    /// Seconds inside it, without the operations that it calls.
    pub own_s: f64,
    /// Seconds inside it, with those.
    pub total_s: f64,
}

/// What a recording saw.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recording {
    /// Operations by name and phase, the longest own time first.
    pub ops: Vec<OpTime>,
    /// Calls that make the host wait for the device, by kind: `read`, `upload` and operations such as `aten::nonzero`.
    pub waits: Vec<(String, u64)>,
    /// Most bytes that were alive at once since the last restart, of what was allocated since the recording was opened.
    pub peak_bytes: u64,
}

impl Recording {
    /// Calls that make the host wait for the device.
    pub fn num_waits(&self) -> u64 {
        self.waits.iter().map(|(_, count)| count).sum()
    }
}

/// A recording of everything that this thread asks of libtorch; ends when dropped.
///
/// On a CPU, where nothing waits, the calls that would on a GPU are counted all the same. On a GPU the host waits after
/// each operation while a recording is open, so that times are those of the device; these waits are not counted.
///
/// ```
/// use burn::tensor::Tensor;
/// use realign::ops::{DeviceChoice, Recorder, open};
/// # if !realign::ops::backend_names().contains(&"libtorch") { return }
/// let device = open(DeviceChoice::Cpu).unwrap();
/// let recorder = Recorder::open(&device).unwrap();
/// let sum = Tensor::<2>::zeros([3, 5], &device).sum();
/// assert_eq!(recorder.num_waits().unwrap(), 0);
/// sum.into_scalar::<f32>();
/// assert_eq!(recorder.close().unwrap().waits, [("read".to_string(), 1)]);
/// ```
#[derive(Debug)]
pub struct Recorder(PhantomData<*const ()>); // the recording belongs to the thread that opened it

impl Recorder {
    /// Starts recording.
    ///
    /// # Errors
    /// The device is not one of libtorch, or this thread has a recording open.
    pub fn open(device: &Device) -> Result<Self> {
        #[cfg(feature = "tch")]
        if super::on_libtorch(device) {
            let cuda = super::libtorch::cuda_index(device).map_or(-1, |index| i32::try_from(index).unwrap_or(-1));
            // SAFETY: plain call.
            fused::answer(unsafe { fused::rl_record_open(cuda) })?;
            return Ok(Self(PhantomData));
        }
        bail!("`{}` cannot be recorded; use `device: cpu` or `device: cuda`", super::describe(device))
    }

    /// Calls so far that make the host wait.
    ///
    /// # Errors
    /// Never while it is open.
    pub fn num_waits(&self) -> Result<u64> {
        #[cfg(feature = "tch")]
        {
            let mut count = 0;
            // SAFETY: a number to be written.
            fused::answer(unsafe { fused::rl_record_count_waits(&mut count) })?;
            Ok(count.unsigned_abs())
        }
        #[cfg(not(feature = "tch"))]
        bail!("this program was built without libtorch")
    }

    /// Bytes alive now, of what was allocated since the recording was opened, and the most that were since its last
    /// restart.
    ///
    /// # Errors
    /// Never while it is open.
    pub fn memory(&self) -> Result<[u64; 2]> {
        #[cfg(feature = "tch")]
        return fused::memory();
        #[cfg(not(feature = "tch"))]
        bail!("this program was built without libtorch")
    }

    /// Forgets operations, waits and the peak; what is alive is still known.
    ///
    /// # Errors
    /// Never while it is open.
    pub fn restart(&self) -> Result<()> {
        #[cfg(feature = "tch")]
        // SAFETY: plain call.
        return fused::answer(unsafe { fused::rl_record_restart() });
        #[cfg(not(feature = "tch"))]
        bail!("this program was built without libtorch")
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// Never while it is open.
    pub fn close(self) -> Result<Recording> {
        #[cfg(feature = "tch")]
        return fused::close();
        #[cfg(not(feature = "tch"))]
        bail!("this program was built without libtorch")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        #[cfg(feature = "tch")]
        // SAFETY: plain call; it ends what this thread opened.
        unsafe {
            fused::rl_record_drop();
        }
    }
}

/// Does work whose operations a recording counts in `phase`.
pub fn in_phase<T>(phase: Phase, work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "tch")]
    {
        /// Goes back to the phase before, also when the work panics.
        struct Back(i32);
        impl Drop for Back {
            fn drop(&mut self) {
                // SAFETY: plain call.
                unsafe { fused::rl_record_phase(self.0) };
            }
        }
        // SAFETY: plain call.
        let _back = Back(unsafe { fused::rl_record_phase(phase as i32) });
        work()
    }
    #[cfg(not(feature = "tch"))]
    {
        let _ = phase;
        work()
    }
}

#[cfg(feature = "tch")]
mod fused {
    use std::ffi::{CStr, c_char, c_int};

    use anyhow::{Result, bail};

    use super::{OpTime, PHASES, Recording};

    unsafe extern "C" {
        pub fn rl_record_open(cuda: c_int) -> c_int;
        pub fn rl_record_drop() -> c_int;
        pub fn rl_record_phase(phase: c_int) -> c_int;
        pub fn rl_record_restart() -> c_int;
        fn rl_record_memory(live_bytes: *mut i64, peak_bytes: *mut i64) -> c_int;
        pub fn rl_record_count_waits(count: *mut i64) -> c_int;
        fn rl_record_close(num_ops: *mut i64, num_waits: *mut i64) -> c_int;
        fn rl_record_op(
            place: i64,
            phase: c_int,
            name: *mut *const c_char,
            calls: *mut i64,
            own_s: *mut f64,
            total_s: *mut f64,
        ) -> c_int;
        fn rl_record_wait(place: i64, name: *mut *const c_char, count: *mut i64) -> c_int;
    }

    pub fn answer(code: c_int) -> Result<()> {
        if code != 0 {
            bail!("{}", crate::ops::libtorch::last_error())
        }
        Ok(())
    }

    pub fn memory() -> Result<[u64; 2]> {
        let (mut live, mut peak) = (0, 0);
        // SAFETY: two numbers to be written.
        answer(unsafe { rl_record_memory(&mut live, &mut peak) })?;
        Ok([live, peak].map(|bytes| u64::try_from(bytes).unwrap_or(0)))
    }

    pub fn close() -> Result<Recording> {
        let [_, peak_bytes] = memory()?;
        let (mut num_ops, mut num_waits) = (0, 0);
        // SAFETY: two numbers to be written.
        answer(unsafe { rl_record_close(&mut num_ops, &mut num_waits) })?;
        let mut recording = Recording { peak_bytes, ..Recording::default() };
        for (place, phase) in (0..num_ops).flat_map(|place| PHASES.map(|phase| (place, phase))) {
            let (mut name, mut calls, mut own_s, mut total_s) = (std::ptr::null(), 0, 0.0, 0.0);
            // SAFETY: numbers and a pointer to be written; the shim refuses a place that is none.
            answer(unsafe { rl_record_op(place, phase as i32, &mut name, &mut calls, &mut own_s, &mut total_s) })?;
            if calls > 0 {
                recording.ops.push(OpTime { name: text(name), phase, calls: calls.unsigned_abs(), own_s, total_s });
            }
        }
        for place in 0..num_waits {
            let (mut name, mut count) = (std::ptr::null(), 0);
            // SAFETY: as above.
            answer(unsafe { rl_record_wait(place, &mut name, &mut count) })?;
            recording.waits.push((text(name), count.unsigned_abs()));
        }
        recording.ops.sort_by(|a, b| b.own_s.total_cmp(&a.own_s));
        Ok(recording)
    }

    fn text(name: *const c_char) -> String {
        // SAFETY: the shim's names are NUL-terminated and live until the recording is dropped.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}

#[cfg(all(test, feature = "tch"))]
mod tests {
    use burn::tensor::{Int, Tensor, TensorData};

    use super::*;
    use crate::ops::{self, DeviceChoice};

    fn cpu() -> Device {
        ops::open(DeviceChoice::Cpu).unwrap()
    }

    #[test]
    fn every_way_to_read_or_fill_a_tensor_counts_as_one_wait() {
        let device = cpu();
        let floats = Tensor::<2>::ones([3, 5], &device);
        let ints = Tensor::<1, Int>::arange(0..7, &device);
        let recorder = Recorder::open(&device).unwrap();
        drop(floats.clone().matmul(floats.clone().transpose()).sum());
        drop(ints.clone().float() * 2.0);
        assert_eq!(recorder.num_waits().unwrap(), 0, "work alone");
        let mut expected = 0;
        let mut waits_once = |what: &str, call: &dyn Fn()| {
            call();
            expected += 1;
            assert_eq!(recorder.num_waits().unwrap(), expected, "{what}");
        };
        waits_once("floats", &|| drop(floats.to_data()));
        waits_once("a scalar", &|| assert_eq!(floats.clone().sum().into_scalar::<f32>(), 15.0));
        waits_once("numbers", &|| drop(ints.to_data()));
        waits_once("flags", &|| drop(floats.clone().greater_elem(0.5).to_data()));
        waits_once("places", &|| drop(floats.clone().greater_elem(0.5).argwhere()));
        waits_once("filling", &|| drop(Tensor::<1>::from_data(TensorData::new(vec![1.0f32; 3], [3]), &device)));
    }

    #[test]
    fn memory_is_what_lived_at_once_and_times_have_their_phase() {
        let device = cpu();
        let floats = |count| Tensor::<1>::zeros([count], &device);
        let before = floats(3000);
        let recorder = Recorder::open(&device).unwrap();
        let kept = floats(1000);
        drop(floats(5000));
        drop(before);
        assert_eq!(recorder.memory().unwrap(), [4000, 24_000]);
        recorder.restart().unwrap();
        in_phase(Phase::Backward, || drop(floats(7000)));
        drop(kept);
        drop([floats(3), floats(5)]);
        let recording = recorder.close().unwrap();
        assert_eq!(recording.peak_bytes, 32_000);
        let zeros = |phase| recording.ops.iter().find(|op| op.name == "aten::zeros" && op.phase == phase);
        assert_eq!(zeros(Phase::Forward).unwrap().calls, 2);
        let backward = zeros(Phase::Backward).unwrap();
        assert_eq!(backward.calls, 1);
        assert!(backward.own_s <= backward.total_s, "zeros calls others");
    }

    #[test]
    fn one_recording_at_a_time_and_only_of_libtorch() {
        let recorder = Recorder::open(&cpu()).unwrap();
        assert!(Recorder::open(&cpu()).unwrap_err().to_string().contains("already"));
        drop(recorder);
        drop(Recorder::open(&cpu()).unwrap());
        assert!(Recorder::open(&Device::flex()).unwrap_err().to_string().contains("device: cpu"));
    }
}
