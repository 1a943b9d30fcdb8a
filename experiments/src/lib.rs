//! The `realign` program: commands over recipes.

pub mod cli;
pub mod commands;
pub mod evaluation;
pub mod measuring;
pub mod plot;
pub mod progress;
pub mod table;

/// The plugin crates that `Cargo.toml` lists; naming them links their registrations into the program.
mod linked {
    include!(concat!(env!("OUT_DIR"), "/plugins.rs"));
}

#[cfg(test)]
pub mod templates;
