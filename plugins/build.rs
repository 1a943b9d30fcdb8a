//! Lets this crate's programs and tests find libtorch.

#[path = "../framework/rpath.rs"]
mod rpath;

fn main() {
    rpath::emit();
}
