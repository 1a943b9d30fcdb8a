//! Turns a failure inside the tensor library into an error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use anyhow::{Result, anyhow};

use super::problem;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs tensor code and returns what the tensor library reports by panicking (out of memory, an unsupported
/// operation, a C++ exception) as an error.
///
/// # Errors
/// What a user can do about it where that is known ([`OutOfMemory`](super::OutOfMemory) where that is why), else the
/// library's message, first line only.
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.with(Cell::get) {
                before(info);
            }
        }));
    });
    let outer = QUIET.with(|quiet| quiet.replace(true));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.with(|quiet| quiet.set(outer));
    result.unwrap_or_else(|cause| {
        let message = message(&*cause);
        Err(problem::explain(&message).unwrap_or_else(|| anyhow!("tensor operation failed: {message}")))
    })
}

fn message(cause: &(dyn Any + Send)) -> String {
    let text = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    text.lines().next().unwrap_or("no message").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tensor_operation_is_an_error() {
        let device = burn::tensor::Device::flex();
        let result = guard(|| {
            let a = burn::tensor::Tensor::<2>::zeros([3, 5], &device);
            Ok(a.clone().matmul(a))
        });
        assert!(result.unwrap_err().to_string().starts_with("tensor operation failed: "));
    }
}
