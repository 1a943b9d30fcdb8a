fn main() {
    if std::env::var_os("CARGO_FEATURE_TCH").is_none() { return }
    #[cfg(feature = "tch")]
    {
        let lt = std::env::var("LIBTORCH").expect("LIBTORCH");
        println!("cargo:rerun-if-changed=src/ops/shim");
        let lib = std::fs::canonicalize(format!("{lt}/lib")).unwrap();
        cc::Build::new().cpp(true).pic(true).warnings(false)
            .include(format!("{lt}/include")).include(format!("{lt}/include/torch/csrc/api/include"))
            .flag("-std=c++17").flag("-D_GLIBCXX_USE_CXX11_ABI=1").flag("-O3").flag("-fopenmp")
            .file("src/ops/shim/ops.cpp").compile("realign_ops");
        println!("cargo:rustc-link-search=native={}", lib.display());
        println!("cargo:rustc-link-lib=torch_cpu");
        println!("cargo:rustc-link-lib=c10");
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    }
}
