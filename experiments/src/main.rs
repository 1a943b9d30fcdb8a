//! The `realign` program.

fn main() -> std::process::ExitCode {
    realign_experiments::cli::main()
}
