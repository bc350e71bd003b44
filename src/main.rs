//! The `hushswarm` command.

/// A relay's frames are pages of 4 KiB. The system's allocator takes about two for each; this one takes one, and what a
/// burst took is used again, though not given back to the system. Without huge pages, which cost 2 MiB for a few bytes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // Before anything else: an inner stage of a jail has one thread and no business with the rest.
    #[cfg(target_os = "linux")]
    if let Some(code) = hushswarm::jail::stages::run() {
        return code;
    }
    hushswarm::cli::main()
}
