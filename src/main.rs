//! The `hushswarm` command.

fn main() -> std::process::ExitCode {
    hushswarm::cli::main()
}
