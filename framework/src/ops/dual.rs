//! Duals: libtorch tensors that carry a tangent while [`jvp`](super::jvp) runs.
//!
//! libtorch propagates tangents through its own operations. A fused op works below that, so it takes its inputs apart
//! with [`part`], computes value and tangent, and puts them together with [`join`]. What it keeps for the backward
//! pass are values only, so tangents are freed as the forward pass goes on.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};

use super::libtorch::{Prim, T, check, fresh};

unsafe extern "C" {
    fn rl_forward_ad_enter(level: *mut u64) -> i32;
    fn rl_forward_ad_exit(level: u64) -> i32;
}

/// libtorch allows one level in a process, on whatever thread.
static ONE_LEVEL: Mutex<()> = Mutex::new(());

thread_local! {
    /// The level that this thread has open. Tangents live on its tensors only.
    static OPEN: Cell<Option<i64>> = const { Cell::new(None) };
}

/// An open level; closing it takes the tangents from all duals that are still alive.
pub(super) struct Level {
    index: u64,
    _one: MutexGuard<'static, ()>,
}

impl Level {
    /// # Errors
    /// This thread has one open already.
    pub(super) fn open() -> Result<Self> {
        ensure!(!is_open(), "a derivative inside a derivative is not supported");
        let one = ONE_LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = 0;
        // SAFETY: writes one number.
        check(unsafe { rl_forward_ad_enter(&mut index) });
        OPEN.set(Some(index as i64));
        Ok(Self { index, _one: one })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        OPEN.set(None);
        // SAFETY: closes what `open` opened. It fails for a level that is not open, and this one is.
        unsafe { rl_forward_ad_exit(self.index) };
    }
}

/// Whether this thread runs inside [`jvp`](super::jvp).
pub(super) fn is_open() -> bool {
    OPEN.get().is_some()
}

/// A dual of `value` and `tangent`, which must own its storage: an in-place operation on the dual writes into it.
pub(super) fn join(value: Prim, tangent: Option<T>) -> Prim {
    match (OPEN.get(), tangent) {
        (Some(level), Some(tangent)) => {
            let dual = T::internal_make_dual(&value.tensor, &tangent, level);
            // The dual is a view of the value: it shares the storage's count, so that burn sees the alias.
            Prim::from_existing(dual, value.storage)
        }
        _ => value,
    }
}

/// The tangent, when there is one.
pub(super) fn tangent(dual: &Prim) -> Option<T> {
    let (_, tangent) = T::internal_unpack_dual(&dual.tensor, OPEN.get()?);
    tangent.defined().then_some(tangent)
}

/// Values without tangents, and their tangents; nothing of the latter where no input has one.
pub(super) fn part<const N: usize>(inputs: [Prim; N]) -> ([Prim; N], Option<[Option<T>; N]>) {
    let Some(level) = OPEN.get() else { return (inputs, None) };
    let mut tangents = [const { None }; N];
    let mut at = 0;
    let values = inputs.map(|input| {
        let (value, tangent) = T::internal_unpack_dual(&input.tensor, level);
        let value = if tangent.defined() {
            tangents[at] = Some(tangent);
            Prim { tensor: value, storage: input.storage }
        } else {
            input
        };
        at += 1;
        value
    });
    let has_tangent = tangents.iter().any(Option::is_some);
    (values, has_tangent.then_some(tangents))
}

/// The sum of the terms that there are.
pub(super) fn sum(terms: impl IntoIterator<Item = Option<T>>) -> Option<T> {
    terms.into_iter().flatten().reduce(|sum, term| sum + term)
}

/// A copy of a tangent with storage of its own.
pub(super) fn detached(tangent: &T) -> Prim {
    fresh(tangent.copy())
}
