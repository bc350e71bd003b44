//! The stages of a jail: this program starts itself again for each, so that nothing has to be forked.
//!
//! ```text
//! outer (serves)  ──spawns──►  1: new namespaces  ──spawns──►  2: the warden, process 1 inside  ──spawns──►  3: becomes the program
//! ```
//!
//! Each stage is called with a marker instead of a command, and finds its end of the channel as standard input. Called by
//! hand they refuse: stage 1 and 2 find no channel, stage 3 a network that isn't a jail's.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Rlimit, Signal};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::message::{Inward, Step, encode};
use super::{netlink, seccomp, signals, warden};
use crate::net::os::jail::Channel;

/// First argument of every stage.
pub const MARKER: &str = "--inside-the-jail";
/// The program itself, wherever it lies by now.
const MYSELF: &str = "/proc/self/exe";
/// What the stages are called in a list of processes.
const NAME: &str = "hushswarm-jail";

/// A failure of the jail, not of the program: as `env` and containers do.
pub const FAILED: u8 = 125;
/// The program can't be executed.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
const NOT_FOUND: u8 = 127;

/// Runs a stage, where this process was started as one.
pub fn run() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != MARKER {
        return None;
    }
    let stage = args.next();
    let command: Vec<OsString> = args.collect();
    let failed = match stage.as_deref().and_then(OsStr::to_str) {
        Some("1") => return Some(first(&command)),
        Some("2") => return Some(second(&command)),
        Some("3") => third(&command),
        _ => refused("this is an inner stage of \"hushswarm run\", and nothing to call by hand"),
    };
    Some(ExitCode::from(failed))
}

fn refused(why: &str) -> u8 {
    // When even this can't be written, the exit code still tells.
    let _ = writeln!(io::stderr(), "hushswarm: {why}");
    FAILED
}

/// The command line of a stage.
pub fn command(stage: &str, program: &[OsString]) -> Command {
    let mut command = Command::new(MYSELF);
    command.arg0(NAME).arg(MARKER).arg(stage).args(program);
    command
}

/// Takes the channel from standard input, and leaves nothing there.
fn channel() -> io::Result<Channel> {
    let channel = Channel::taken(rustix::stdio::stdin().try_clone_to_owned()?)?;
    rustix::stdio::dup2_stdin(null()?)?;
    Ok(channel)
}

fn null() -> io::Result<OwnedFd> {
    fs::File::open("/dev/null").map(Into::into)
}

/// Tells the outer side, which tells the user. Without one there is nobody to tell.
pub fn tell(channel: &Channel, step: Step, error: &io::Error, detail: &str) {
    let failed = Inward::Failed {
        step,
        errno: error.raw_os_error().unwrap_or(0),
        detail: detail.to_owned(),
    };
    if let Ok(bytes) = encode(&failed) {
        let _ = channel.send(&bytes, &[]);
    }
}

/// Closes what was inherited beside standard input, output and error, since a descriptor of a socket outside works from inside too.
fn close_inherited(keep: &[i32]) -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && !keep.contains(fd))
        .collect();
    for fd in open {
        // The one that read the folder is closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// Stage 1: goes into new namespaces and starts the warden there, then waits for it.
fn first(program: &[OsString]) -> ExitCode {
    if close_inherited(&[]).is_err() {
        return ExitCode::from(refused("can't see its own descriptors: is /proc mounted?"));
    }
    let channel = match channel() {
        Ok(channel) => channel,
        Err(_) => {
            return ExitCode::from(refused(
                "this is an inner stage of \"hushswarm run\", and nothing to call by hand",
            ));
        }
    };
    signals::block();
    let (step, error) = match namespaces() {
        Ok(()) => match start_warden(&channel, program) {
            Ok(mut child) => {
                // The warden alone holds the channel from here on, so that its end is seen.
                drop(channel);
                let status = child.wait().ok().and_then(|status| status.code());
                let code = status.and_then(|code| u8::try_from(code).ok());
                return ExitCode::from(code.unwrap_or(FAILED));
            }
            Err(error) => (Step::Warden, error),
        },
        Err(failed) => failed,
    };
    tell(&channel, step, &error, "");
    ExitCode::from(FAILED)
}

fn start_warden(channel: &Channel, program: &[OsString]) -> io::Result<std::process::Child> {
    let end = channel.as_fd().try_clone_to_owned()?;
    command("2", program)
        .stdin(Stdio::from(end))
        .stdout(Stdio::null())
        .spawn()
}

fn namespaces() -> Result<(), (Step, io::Error)> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(all).map_err(|errno| (Step::Namespaces, errno.into()))?;
    // Not on every kernel, and nothing leads out of it.
    let _ = unshare(CloneFlags::CLONE_NEWCGROUP);
    let write = |name: &str, text: &str| {
        let path = format!("/proc/self/{name}");
        fs::write(path, text).map_err(|error| (Step::Identity, error))
    };
    write("setgroups", "deny")?;
    write("uid_map", &format!("{uid} {uid} 1"))?;
    write("gid_map", &format!("{gid} {gid} 1"))?;
    keep_capabilities().map_err(|error| (Step::Identity, error))?;
    // After the change of credentials, which would undo it.
    die_with_parent().map_err(|error| (Step::Namespaces, error))
}

/// Lets the rights over the new namespaces outlive the start of the warden, also for a user who isn't root.
fn keep_capabilities() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.inheritable = sets.permitted;
    rustix::thread::set_capabilities(None, sets)?;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if sets.permitted.contains(capability) {
            rustix::thread::configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

/// The end of the outer side is the end of everything inside. That it ended before this is seen on the channel.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Stage 2: the warden.
fn second(program: &[OsString]) -> ExitCode {
    let inside = rustix::process::getpid() == Pid::INIT;
    let ready = channel().and_then(|channel| {
        die_with_parent()?;
        Ok(channel)
    });
    match ready {
        Ok(channel) if inside => ExitCode::from(warden::keep(&channel, program)),
        _ => ExitCode::from(refused(
            "this is an inner stage of \"hushswarm run\", and nothing to call by hand",
        )),
    }
}

/// Stage 3: gives up every right and becomes the program. Comes back only when that failed.
fn third(program: &[OsString]) -> u8 {
    let Some((name, args)) = program.split_first() else {
        return refused("no program to run");
    };
    if let Err(error) = surrender() {
        return refused(&format!(
            "can't close the jail, so nothing is started: {error}"
        ));
    }
    let error = Command::new(name).args(args).exec();
    let shown = name.to_string_lossy();
    // Whatever it is called, a name of a file is all that this shows.
    let _ = writeln!(io::stderr(), "hushswarm: can't run {shown}: {error}");
    if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}

fn surrender() -> io::Result<()> {
    if !is_jail(&fs::read_to_string("/proc/net/dev")?) || rustix::process::getpid() == Pid::INIT {
        return Err(io::Error::other("this isn't the inside of a jail"));
    }
    close_inherited(&[])?;
    // What the stages hold back is the program's own business.
    signals::release()?;
    // A program that crashes must not start a crash reporter outside; for those this limit means "don't" (core(5)).
    let core = Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    rustix::process::setrlimit(rustix::process::Resource::Core, core)?;
    rustix::thread::set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )?;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if let Err(error) = rustix::thread::remove_capability_from_bounding_set(capability) {
            if error == rustix::io::Errno::INVAL && number > 0 {
                break; // beyond the last one of this kernel
            }
            return Err(error.into());
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)?;
    rustix::thread::set_no_new_privs(true)?;
    seccompiler::apply_filter(&seccomp::program()).map_err(io::Error::other)
}

/// Devices that some kernels put into every network namespace, unused and down.
const TUNNELS: [&str; 9] = [
    "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0",
];

/// Whether a list of devices (proc_pid_net(5), `/proc/net/dev`) holds `lo` and nothing that leads anywhere.
fn is_jail(devices: &str) -> bool {
    let names: Vec<&str> = devices
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim())
        .collect();
    let ours = ["lo", netlink::CARD, netlink::CARD_PEER];
    let leads_nowhere = |name: &&str| ours.contains(name) || TUNNELS.contains(name);
    names.contains(&"lo") && names.iter().all(leads_nowhere)
}

/// How a child ended, as a wait status.
pub fn ended(status: i32) -> super::message::Ended {
    let status = std::process::ExitStatus::from_raw(status);
    match (status.code(), status.signal()) {
        (_, Some(signal)) => super::message::Ended::Signal(signal),
        (code, None) => super::message::Ended::Code(
            code.and_then(|code| u8::try_from(code).ok())
                .unwrap_or(FAILED),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_leads_somewhere_is_no_jail() {
        let head = "Inter-|   Receive\n face |bytes    packets\n";
        let lo = "    lo:  0 0 0\n";
        let eth = "  eth0: 12 1 0\n";
        let card = " jail0:  0 0 0\n jail1:  0 0 0\n  sit0:  0 0 0\n";
        assert!(is_jail(&[head, lo].concat()));
        assert!(is_jail(&[head, lo, card].concat()));
        assert!(!is_jail(&[head, card].concat()));
        assert!(!is_jail(&[head, card, lo, eth].concat()));
        assert!(!is_jail(&[head, lo, eth].concat()));
        assert!(!is_jail(&[head, eth].concat()));
        assert!(!is_jail(head));
        assert!(!is_jail(""));
    }
}
