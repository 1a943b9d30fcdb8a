// Shared by the build scripts of every crate of the workspace: cargo passes link arguments to the package's own
// programs and tests only, so each package must ask for them.

use std::{env, path::PathBuf};

/// Lets programs find libtorch without `LD_LIBRARY_PATH`: where it lies now, or in `lib` beside the program.
///
/// Returns the folder `LIBTORCH` names, or nothing when the crate is built without libtorch.
pub fn emit() -> Option<PathBuf> {
    println!("cargo::rerun-if-changed=build.rs");
    env::var_os("CARGO_FEATURE_TCH")?;
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let root = PathBuf::from(env::var_os("LIBTORCH").unwrap_or_default());
    let is_apple = env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple");
    let library = root.join("lib").join(if is_apple { "libtorch_cpu.dylib" } else { "libtorch_cpu.so" });
    // Links are followed: libtorch finds its own libraries from the folder it was loaded from.
    let Some(lib) = library.canonicalize().ok().and_then(|file| file.parent().map(PathBuf::from)) else {
        println!("cargo::error=no libtorch at LIBTORCH=`{}`: run `cargo xtask libtorch` once", root.display());
        println!("cargo::error=or build without it: --no-default-features");
        std::process::exit(1);
    };
    let origin = root.join("origin");
    if origin.exists() {
        println!("cargo::rerun-if-changed={}", origin.display());
    }
    if !is_apple {
        // The older tag also serves libraries that libtorch loads later.
        println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags");
    }
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", if is_apple { "@loader_path/lib" } else { "$ORIGIN/lib" });
    Some(root)
}
