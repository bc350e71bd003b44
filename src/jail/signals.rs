//! Signals, held back and read from a descriptor: so that they can be told apart by who sent them.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use tokio::sync::mpsc;

/// Signals that wait to be passed on; more of them wait in the kernel, which keeps one of each.
const WAITING: usize = 8;

/// Signals that mean the program, not us. A stop (Ctrl-Z) is left alone: the terminal sends it to the whole group, and it
/// stops us too.
pub const PASSED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

fn passed() -> SigSet {
    PASSED.into_iter().collect()
}

/// Holds the signals back that mean the program. Call it while there is only one thread.
pub fn block() {
    // It fails for a wrong argument only.
    let _ = passed().thread_block();
}

/// Holds nothing back: for the program, which would inherit it.
///
/// # Errors
/// As the system says.
pub fn release() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Holds back what means the program, the news of children, and what would stop us; and gives them as a descriptor.
///
/// # Errors
/// As the system says.
pub fn of_warden() -> io::Result<SignalFd> {
    let mut all = passed();
    for more in [
        Signal::SIGCHLD,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ] {
        all.add(more);
    }
    all.thread_block()?;
    Ok(SignalFd::with_flags(
        &all,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// Its number.
    pub number: i32,
    /// Whether a process sent it; otherwise the kernel did, on behalf of the terminal.
    pub by_process: bool,
}

impl Came {
    /// Reads what a descriptor of signals gave (signalfd(2)).
    pub fn of(info: &siginfo) -> Self {
        Self {
            number: i32::try_from(info.ssi_signo).unwrap_or(0),
            by_process: info.ssi_code <= 0,
        }
    }
}

/// Gives the signals that were held back, as they come.
///
/// # Errors
/// As the system says.
pub fn of_outer() -> io::Result<mpsc::Receiver<Came>> {
    let signals = SignalFd::with_flags(&passed(), SfdFlags::SFD_CLOEXEC)?;
    let (tell, came) = mpsc::channel(WAITING);
    // A thread, since the runtime waits for sockets only. It ends with the process.
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(Some(info)) = signals.read_signal() {
                if tell.blocking_send(Came::of(&info)).is_err() {
                    return;
                }
            }
        })?;
    Ok(came)
}
