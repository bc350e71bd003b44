//! The `hushswarm` command.

/// A relay's frames are pages of 4 KiB. The system's allocator takes about two for each, and gives nothing back after a
/// burst; this one does, within seconds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    hushswarm::cli::main()
}
