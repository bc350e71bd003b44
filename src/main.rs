//! The `hushswarm` command.

/// A relay's frames are pages of 4 KiB. The system's allocator takes about two for each; this one takes one, and what a
/// burst took is used again, though not given back to the system. Without huge pages, which cost 2 MiB for a few bytes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    hushswarm::cli::main()
}
