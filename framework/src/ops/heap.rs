//! Memory that a step frees is kept for the next one.

/// Blocks up to this size, and as much at the end of the heap, are kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 1 << 30;

/// Lets freed tensors stay with the program instead of going back to the system, whose fresh pages cost a tenth of a
/// small network's step. Acts where glibc allocates, from the next allocation on.
pub(super) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: mallopt only stores the values, and may be called at any time; where it refuses one, its default stays.
        ONCE.call_once(|| unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        });
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// Pages that this thread got from the system.
    fn num_faults() -> i64 {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: getrusage fills the structure that it is given, and says so with 0.
        unsafe {
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()), 0);
            usage.assume_init().ru_minflt
        }
    }

    #[test]
    fn a_block_that_was_freed_is_had_again_without_new_pages() {
        keep_freed_memory();
        let take = || black_box(vec![1u8; 16 << 20]).len();
        take();
        let before = num_faults();
        let bytes: usize = (0..10).map(|_| take()).sum();
        let faults = num_faults() - before;
        assert!(faults < 4000, "{faults} new pages for {bytes} bytes, 4096 pages each time");
    }
}
