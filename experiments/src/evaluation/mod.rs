//! Evaluating pictures: what was measured, with everything that made the numbers.

pub mod result;
