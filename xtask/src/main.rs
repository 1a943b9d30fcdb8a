//! `cargo xtask`: finds libtorch, builds `realign` in release mode and hands the command over.

mod cli;
mod doctor;
mod fetch;
mod gate;
mod handover;
mod libtorch;
mod links;
mod tidy;
mod workspace;

fn main() -> std::process::ExitCode {
    cli::main(std::env::args_os().skip(1).collect())
}
