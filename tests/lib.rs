//! What the test programs share.

use std::io::{Write, stdout};

/// Says that the calling test skips itself, where the gate counts it: tests that pass do not show what they print with
/// `println!`.
///
/// # Panics
/// Standard output is closed.
pub fn say_skipped(reason: &str) {
    writeln!(stdout(), "skipped: {reason}").expect("standard output is open");
}
