//! Evaluating pictures: what was measured, with everything that made the numbers.

pub mod evaluate;
pub mod networks;
pub mod reference;
pub mod result;
pub mod samples;
pub mod source;
