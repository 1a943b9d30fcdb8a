//! Element-wise comparison of what was computed with what was recorded.

use super::case::{Case, Tolerance};
use anyhow::{Result, ensure};
use realign::burn::tensor::Tensor;
use realign::weights::to_host;
use std::collections::BTreeSet;

/// Absolute part of the gradients' tolerance.
const GRADIENT_FLOOR: f64 = 1e-6;

/// Everything that was compared in one case on one backend.
///
/// An error is scaled such that it passes exactly when it is at most the tolerance: forward errors are
/// `|a − b| / (|b| + atol/rtol)`, at most `rtol`; gradient errors are `max |a − b| / (max |b| + 1e-6/rel_to_max)`,
/// at most `rel_to_max`.
#[derive(Default)]
pub struct Comparison {
    /// Largest forward error.
    pub forward: f64,
    /// Largest gradient error, where there were gradients.
    pub gradient: Option<f64>,
    /// The first disagreement.
    pub failure: Option<String>,
    seen: BTreeSet<String>,
}

impl Comparison {
    /// A case that could not be compared at all.
    pub fn failed(reason: String) -> Self {
        Self { failure: Some(reason), ..Self::default() }
    }

    /// Compares a result with the recorded tensor `name`.
    pub fn forward<const D: usize>(&mut self, case: &Case, name: &str, found: Tensor<D>) -> Result<()> {
        let shape = found.dims().to_vec();
        let recorded = &case.recorded(name)?.shape;
        // A recorded scalar has no dimensions, a computed one has one.
        let is_scalar = recorded.is_empty() && shape == [1];
        ensure!(is_scalar || *recorded == shape, "`{name}` is {shape:?}, recorded {recorded:?}");
        self.values(case, name, &widen(to_host(found)))
    }

    /// As [`forward`](Self::forward), for values on the host.
    pub fn values(&mut self, case: &Case, name: &str, found: &[f64]) -> Result<()> {
        let Tolerance { rtol, atol, .. } = case.tolerance;
        self.values_within(case, name, found, |_| (rtol, atol))
    }

    /// As [`forward`](Self::forward), with `rtol` and `atol` of each element.
    pub fn values_within(
        &mut self,
        case: &Case,
        name: &str,
        found: &[f64],
        tolerance: impl Fn(usize) -> (f64, f64),
    ) -> Result<()> {
        let expected = &case.recorded(name)?.values;
        ensure!(expected.len() == found.len(), "`{name}` has {} values, recorded {}", found.len(), expected.len());
        self.seen.insert(name.to_string());
        let scale = case.tolerance.rtol.max(f64::MIN_POSITIVE);
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            let (rtol, atol) = tolerance(i);
            let share = if a.is_nan() && b.is_nan() { 0.0 } else { share((a - b).abs(), atol + rtol * b.abs()) };
            self.forward = self.forward.max(share * scale);
            if share > 1.0 {
                self.fail(format!("`{name}` element {i} is {a:e}, recorded {b:e}"));
            }
        }
        Ok(())
    }

    /// Values in groups of `size`, of which `exempt` of all groups may be off altogether: where a reference takes the
    /// larger of two nearly equal numbers, rounding decides.
    pub fn groups(&mut self, case: &Case, name: &str, found: &[f64], size: usize, exempt: f64) -> Result<()> {
        let Tolerance { rtol, atol, .. } = case.tolerance;
        let expected = &case.recorded(name)?.values;
        ensure!(expected.len() == found.len(), "`{name}` has {} values, recorded {}", found.len(), expected.len());
        self.seen.insert(name.to_string());
        let share_of = |(found, expected): (&[f64], &[f64])| {
            let shares = found.iter().zip(expected).map(|(a, b)| share((a - b).abs(), atol + rtol * b.abs()));
            shares.fold(0.0, f64::max)
        };
        let shares: Vec<f64> = found.chunks(size).zip(expected.chunks(size)).map(share_of).collect();
        let (within, off): (Vec<f64>, Vec<f64>) = shares.iter().partition(|share| **share <= 1.0);
        let worst = within.into_iter().fold(0.0, f64::max);
        self.forward = self.forward.max(worst * rtol);
        if off.len() as f64 > exempt * shares.len() as f64 {
            self.fail(format!("`{name}` is off in {} of {} groups of {size} values", off.len(), shares.len()));
        }
        Ok(())
    }

    /// Bytes that may be off by `crop_atol` levels on one pixel in a hundred.
    pub fn bytes(&mut self, case: &Case, name: &str, found: &[u8]) -> Result<()> {
        let expected = &case.recorded(name)?.values;
        ensure!(expected.len() == found.len(), "`{name}` has {} bytes, recorded {}", found.len(), expected.len());
        self.seen.insert(name.to_string());
        let gaps: Vec<f64> = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).collect();
        let worst = gaps.iter().copied().fold(0.0, f64::max);
        self.forward = self.forward.max(worst / 255.0);
        if worst > case.tolerance.crop_atol {
            self.fail(format!("`{name}` is off by {worst} levels"));
        }
        let differing = gaps.iter().filter(|gap| **gap > 0.0).count();
        if differing * 100 > found.len() {
            self.fail(format!("`{name}` differs in {differing} of {} bytes", found.len()));
        }
        Ok(())
    }

    /// Compares a gradient with the recorded tensor `name`.
    pub fn gradient(&mut self, case: &Case, name: &str, found: &[f32]) -> Result<()> {
        let expected = &case.recorded(name)?.values;
        ensure!(expected.len() == found.len(), "`{name}` has {} values, recorded {}", found.len(), expected.len());
        self.seen.insert(name.to_string());
        let tolerance = case.tolerance.rel_to_max;
        let largest = expected.iter().fold(0.0, |largest: f64, b| largest.max(b.abs()));
        let allowed = tolerance * largest + GRADIENT_FLOOR;
        let shares = found.iter().zip(expected).map(|(a, b)| share((f64::from(*a) - b).abs(), allowed));
        let (at, worst) = shares.enumerate().fold((0, 0.0), |best, next| if next.1 > best.1 { next } else { best });
        self.gradient = Some(self.gradient.unwrap_or(0.0).max(worst * tolerance));
        if worst > 1.0 {
            self.fail(format!("`{name}` element {at} is {:e}, recorded {:e}", found[at], expected[at]));
        }
        Ok(())
    }

    /// Fails when a recorded result was compared with nothing.
    pub fn finish(&mut self, case: &Case) {
        for kind in ["out.", "grad."] {
            let missed = case.names(kind).map(|name| format!("{kind}{name}")).find(|name| !self.seen.contains(name));
            if let Some(name) = missed {
                self.fail(format!("`{name}` was recorded and not compared"));
            }
        }
    }

    pub fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }
}

pub fn widen(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

/// The used share of what is allowed; above 1 is a disagreement, and so is whatever is no number.
fn share(gap: f64, allowed: f64) -> f64 {
    match gap {
        0.0 => 0.0,
        gap if gap.is_finite() => gap / allowed.max(f64::MIN_POSITIVE),
        _ => f64::INFINITY,
    }
}
