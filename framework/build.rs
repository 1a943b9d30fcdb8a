//! Lets tests find libtorch and compiles the C++ side of `ops`.

#[path = "rpath.rs"]
mod rpath;

fn main() {
    let libtorch = rpath::emit();
    #[cfg(feature = "tch")]
    if let Some(libtorch) = libtorch {
        compile(&libtorch);
    }
    #[cfg(not(feature = "tch"))]
    drop(libtorch);
}

#[cfg(feature = "tch")]
fn compile(libtorch: &std::path::Path) {
    println!("cargo::rerun-if-changed=src/ops/shim");
    let include = libtorch.join("include");
    let build = || {
        let mut build = cc::Build::new();
        // One binary serves every machine and checks for NaN: no `-march=native`, no `-ffast-math`.
        build.cpp(true).std("c++17").pic(true).opt_level(3).define("_GLIBCXX_USE_CXX11_ABI", "1");
        // As libtorch itself: some of its classes have further members without it.
        build.define("NDEBUG", None);
        build.flag("-isystem").flag(&include).flag("-isystem").flag(include.join("torch/csrc/api/include"));
        build.flag_if_supported("-fopenmp");
        build
    };
    // Linked whole and before burn-tch, whose constructor needs what it defines; see the file.
    build().file("src/ops/shim/cuda_link/no_cuda.cpp").cargo_metadata(false).compile("realign_no_cuda");
    println!("cargo::rustc-link-search=native={}", std::env::var("OUT_DIR").unwrap_or_default());
    println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=realign_no_cuda");

    let files = shim_files();
    if !files.is_empty() {
        build().files(files).compile("realign_ops");
    }
    for library in ["torch_cpu", "c10", "dl"] {
        println!("cargo::rustc-link-lib={library}");
    }
}

#[cfg(feature = "tch")]
fn shim_files() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir("src/ops/shim").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|name| name == "cpp")).collect();
    files.sort();
    files
}
