//! How far a case is off.

use std::fmt::{self, Display, Formatter};

use anyhow::Result;
use burn::tensor::{DType, Tensor};
use realign::weights::to_host;

use super::case::Case;

/// Largest errors of a case, and what exceeds its tolerance.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Largest absolute error of an output.
    forward: f64,
    /// Largest gradient error in units of its tensor's largest value; none when the case has no gradients.
    gradient: Option<f64>,
    problems: Vec<String>,
    num_compared: usize,
}

impl Verdict {
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty() && self.num_compared > 0
    }

    /// Compares every element of an output: `|found − expected| <= atol + rtol · |expected|`.
    pub fn output<const D: usize>(&mut self, case: &Case, name: &str, found: Tensor<D>) -> Result<()> {
        let found: Vec<f64> = to_host(found.cast(DType::F32)).into_iter().map(f64::from).collect();
        self.values(case, name, &found)
    }

    pub fn values(&mut self, case: &Case, name: &str, found: &[f64]) -> Result<()> {
        let (atol, rtol) = (case.tolerance.atol, case.tolerance.rtol);
        self.within(case, name, found, |_, expected| atol + rtol * expected.abs())
    }

    /// Compares every element with its own bound.
    pub fn within(&mut self, case: &Case, name: &str, found: &[f64], bound: impl Fn(usize, f64) -> f64) -> Result<()> {
        let expected = case.values(name)?;
        self.num_compared += 1;
        if found.len() != expected.len() {
            self.problems.push(format!("`{name}` has {} values, expected {}", found.len(), expected.len()));
            return Ok(());
        }
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found - expected).abs();
            self.forward = self.forward.max(error);
            if error.is_nan() || error > bound(i, *expected) {
                self.problems.push(format!("`{name}`[{i}]: found {found:e}, expected {expected:e}"));
                break;
            }
        }
        Ok(())
    }

    /// Compares every element of a gradient: `|found − expected| <= rel_to_max · max|expected| + 1e-6`.
    pub fn gradient(&mut self, case: &Case, name: &str, found: &[f32]) -> Result<()> {
        let expected = case.values(name)?;
        self.num_compared += 1;
        if found.len() != expected.len() {
            self.problems.push(format!("`{name}` has {} values, expected {}", found.len(), expected.len()));
            return Ok(());
        }
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let bound = case.tolerance.rel_to_max * largest + 1e-6;
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            // A gradient that is zero in exact arithmetic has no scale of its own.
            let relative = if largest > 1e-6 { error / largest } else { 0.0 };
            self.gradient = Some(self.gradient.unwrap_or(0.0).max(relative));
            if error.is_nan() || error > bound {
                self.problems.push(format!("`{name}`[{i}]: found {found:e}, expected {expected:e}"));
                break;
            }
        }
        Ok(())
    }

    pub fn fail(&mut self, problem: String) {
        self.problems.push(problem);
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "forward {:8.1e}  ", self.forward)?;
        match self.gradient {
            Some(gradient) => write!(f, "gradient {gradient:8.1e}  ")?,
            None => write!(f, "gradient        -  ")?,
        }
        match self.problems.first() {
            _ if self.num_compared == 0 => write!(f, "FAIL  nothing to compare"),
            None => write!(f, "ok  ({} tensors)", self.num_compared),
            Some(first) => write!(f, "FAIL  {first}, and {} more", self.problems.len() - 1),
        }
    }
}
