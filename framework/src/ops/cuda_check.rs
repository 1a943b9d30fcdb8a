//! The kernels for NVIDIA devices, run on the CPU by a C++ program that stands in for the device.
#![cfg(test)]

use std::path::Path;
use std::process::Command;

#[test]
fn kernels_compute_what_sums_in_f64_say() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/shim/cuda");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("emulate");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut compile = Command::new(compiler);
    compile.args(["-std=c++17", "-O1", "-pthread", "-Wno-unknown-pragmas", "-o"]).arg(&program);
    let compiled = compile.arg(sources.join("emulate.cpp")).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let ran = Command::new(program).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}
