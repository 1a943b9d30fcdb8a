//! Lets the program find libtorch, and links the plugin crates that `Cargo.toml` lists.

use std::{env, fs, path::Path, process::exit};

#[path = "../framework/rpath.rs"]
mod rpath;

fn main() {
    rpath::emit();
    println!("cargo::rerun-if-changed=Cargo.toml");
    let manifest = fs::read_to_string("Cargo.toml").unwrap_or_default();
    let uses = plugin_crates(&manifest).map(|name| format!("#[allow(unused_imports)]\npub use {name} as _;\n"));
    let file = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("plugins.rs");
    if let Err(error) = fs::write(&file, uses.collect::<String>()) {
        println!("cargo::error={}: cannot be written: {error}", file.display());
        exit(1);
    }
}

/// Crate names between the line `# plugin crates` and the next blank line.
fn plugin_crates(manifest: &str) -> impl Iterator<Item = String> {
    let marked = manifest.lines().skip_while(|line| !line.starts_with("# plugin crates"));
    let block = marked.take_while(|line| !line.trim().is_empty()).filter(|line| !line.starts_with('#'));
    block.filter_map(|line| line.split(['=', '.', ' ']).next()).map(|name| name.trim_matches('"').replace('-', "_"))
}
