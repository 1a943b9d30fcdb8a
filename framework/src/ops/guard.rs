//! Turns a failure inside the tensor library into an error.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use anyhow::{Result, anyhow};
use burn::tensor::{Device, Tensor};

use super::problem;

thread_local! {
    static REPORTS: Cell<Reports> = const { Cell::new(Reports::All) };
}

/// Which panics of a thread the standard hook tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reports {
    All,
    /// Those that become no error.
    Unknown,
    None,
}

/// Runs tensor code and returns what the tensor library reports by panicking (out of memory, an unsupported
/// operation, a C++ exception) as an error.
///
/// # Errors
/// What a user can do about it where that is known ([`OutOfMemory`](super::OutOfMemory) where that is why), else the
/// library's message, first line only.
pub fn guard<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(Reports::None, work).unwrap_or_else(|cause| {
        forget_graphs();
        let message = message(&*cause);
        Err(problem::explain(message).unwrap_or_else(|| anyhow!("tensor operation failed: {}", first_line(message))))
    })
}

/// Runs a whole command: a panic that a user can do something about is an error as from [`guard`], any other goes on
/// with its message and place.
///
/// # Errors
/// Those of the work, and what is known of a panic.
pub fn guard_known<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(Reports::Unknown, work)
        .unwrap_or_else(|cause| Err(problem::explain(message(&*cause)).unwrap_or_else(|| panic::resume_unwind(cause))))
}

fn caught<T>(reports: Reports, work: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match REPORTS.with(Cell::get) {
            Reports::None => {}
            Reports::Unknown if problem::explain(message(info.payload())).is_some() => {}
            Reports::All | Reports::Unknown => before(info),
        }));
    });
    let outer = REPORTS.replace(reports);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    REPORTS.set(outer);
    result
}

/// Lets go of what a forward pass kept for a backward pass that will not come: burn keeps it until the next one.
fn forget_graphs() {
    let next = || drop(Tensor::<1>::ones([1], &Device::flex().autodiff()).require_grad().sum().backward());
    drop(caught(Reports::None, next));
}

fn message(cause: &(dyn Any + Send)) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libtorch says of more memory than there is.
    const TOO_MUCH: &str = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes.";

    #[test]
    fn a_failing_tensor_operation_is_an_error() {
        let device = Device::flex();
        let result = guard(|| {
            let a = Tensor::<2>::zeros([3, 5], &device);
            Ok(a.clone().matmul(a))
        });
        assert!(result.unwrap_err().to_string().starts_with("tensor operation failed: "));
    }

    #[test]
    fn of_a_whole_command_only_what_is_known_becomes_an_error() {
        let known = guard_known(|| -> Result<()> { panic!("{TOO_MUCH}") });
        assert!(known.unwrap_err().is::<super::super::OutOfMemory>());
        let unknown = panic::catch_unwind(|| guard_known(|| -> Result<()> { panic::resume_unwind(Box::new("a bug")) }));
        assert_eq!(message(&*unknown.unwrap_err()), "a bug");
        assert_eq!(REPORTS.get(), Reports::All, "not put back");
    }
}
