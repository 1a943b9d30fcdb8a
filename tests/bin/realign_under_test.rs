//! The `realign` program under another name, so that cargo builds it for the tests that run it.

fn main() -> std::process::ExitCode {
    realign_experiments::cli::main()
}
