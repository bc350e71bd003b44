//! The warden: process 1 of the jail. It builds the inside, starts the program, reaps what ends, passes signals on, and
//! makes sockets inside when the outer side asks. When it ends, for whatever reason, the kernel ends everything inside.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal as NixSignal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::message::{Doors, Ended, Inward, Outward, Step, borrowed, decode, encode};
use super::netlink::OWN4;
use super::signals::Came;
use super::stages::{self, FAILED};
use super::{mounts, network, signals};
use crate::net::os::jail::{Channel, connect_from, connect_here, udp};

/// Name of every jail's computer.
const HOST_NAME: &[u8] = b"localhost";
/// How long a signal of the whole group may be on its way to us when the outer side already had it.
const SAME_SIGNAL: Duration = Duration::from_millis(30);
/// How long a signal of the whole group is remembered, since the outer side hears of it at about the same time.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Standard input, output and error.
const STANDARD: usize = 3;

/// What went wrong, and where.
type Failure = (Step, io::Error, String);

fn failed(step: Step) -> impl FnOnce(io::Error) -> Failure {
    move |error| (step, error, String::new())
}

/// Keeps a jail from beginning to end. Gives the code to end with; how the program ended is told on the channel.
pub(super) fn keep(channel: &Channel, program: &[OsString]) -> u8 {
    match begin(channel, program) {
        Ok(mut warden) => warden.watch(),
        Err((step, error, detail)) => {
            stages::tell(channel, step, &error, &detail);
            FAILED
        }
    }
}

struct Warden<'a> {
    channel: &'a Channel,
    signals: SignalFd,
    program: Pid,
    linger: bool,
    ended: Option<Ended>,
    /// Signals that the whole group got, the program too, and when.
    seen: Vec<(i32, Instant)>,
}

fn begin<'a>(channel: &'a Channel, program: &[OsString]) -> Result<Warden<'a>, Failure> {
    let signals = signals::of_warden().map_err(failed(Step::Warden))?;
    let message = channel.receive().map_err(failed(Step::Warden))?;
    let Outward::Build {
        catch,
        linger,
        listen,
    } = decode(&message.bytes).map_err(failed(Step::Warden))?
    else {
        return Err(failed(Step::Warden)(io::ErrorKind::InvalidData.into()));
    };
    if message.descriptors.len() != STANDARD {
        return Err(failed(Step::Warden)(io::ErrorKind::InvalidData.into()));
    }
    let terminal = terminal(&message.descriptors);
    build(channel, catch, listen, terminal)?;
    match decode(&channel.receive().map_err(failed(Step::Warden))?.bytes) {
        Ok(Outward::Start) => {}
        _ => return Err(failed(Step::Warden)(io::ErrorKind::BrokenPipe.into())),
    }
    keep_only_what_sockets_need().map_err(failed(Step::Warden))?;
    let program = start(program, message.descriptors).map_err(failed(Step::Program))?;
    Ok(Warden {
        channel,
        signals,
        program,
        linger,
        ended: None,
        seen: Vec::new(),
    })
}

fn terminal(descriptors: &[OwnedFd]) -> Option<PathBuf> {
    descriptors.iter().find_map(|descriptor| {
        let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        fs::read_link(link)
            .ok()
            .filter(|path| path.starts_with("/dev/pts"))
    })
}

/// Builds the inside and hands its doors out.
fn build(
    channel: &Channel,
    catch: bool,
    listen: Option<u16>,
    terminal: Option<PathBuf>,
) -> Result<(), Failure> {
    let interface = network::addresses().map_err(failed(Step::Network))?;
    let mut doors = network::doors(listen).map_err(failed(Step::Doors))?;
    let which = if catch {
        // Without it, what is sent to addresses has nowhere to go; the user is told.
        network::catch(&mut doors, interface).unwrap_or_default()
    } else {
        Doors::default()
    };
    rustix::system::sethostname(HOST_NAME).map_err(|error| failed(Step::Mounts)(error.into()))?;
    mounts::cover(terminal.as_deref()).map_err(|uncovered| {
        let step = match uncovered.what {
            "/proc" => Step::Proc,
            _ => Step::Mounts,
        };
        (step, uncovered.error, uncovered.what.to_owned())
    })?;
    let ready = encode(&Inward::Ready(which)).map_err(failed(Step::Doors))?;
    channel
        .send(&ready, &borrowed(&doors))
        .map_err(failed(Step::Doors))
}

/// Gives up every right but those that transparent sockets and low ports need. It is also what keeps the program, which has
/// none, from looking into this process.
fn keep_only_what_sockets_need() -> io::Result<()> {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    // The next stage empties the bounding set and sets what can't be undone.
    let needed = needed | CapabilitySet::SETPCAP;
    let sets = CapabilitySets {
        effective: needed,
        permitted: needed,
        inheritable: needed,
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn start(program: &[OsString], descriptors: Vec<OwnedFd>) -> io::Result<Pid> {
    let mut stdio = descriptors.into_iter().map(Stdio::from);
    let mut next = || stdio.next().unwrap_or_else(Stdio::null);
    let child = stages::command("3", program)
        .stdin(next())
        .stdout(next())
        .stderr(next())
        .spawn()?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Warden<'_> {
    fn watch(&mut self) -> u8 {
        loop {
            match self.step() {
                Ok(None) => {}
                Ok(Some(code)) => return code,
                // The outer side is gone, and with it every way out.
                Err(_) => return FAILED,
            }
        }
    }

    /// Waits for something to do, and does it. Gives the code to end with when all is over.
    fn step(&mut self) -> io::Result<Option<u8>> {
        let mut ready = [
            PollFd::new(self.channel, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let [asked, signalled] = ready.map(|ready| !ready.revents().is_empty());
        if signalled {
            self.read_signals()?;
            if let Some(code) = self.reap()? {
                return Ok(Some(code));
            }
        }
        if asked {
            let message = self.channel.receive()?;
            self.answer(decode(&message.bytes)?)?;
        }
        Ok(None)
    }

    fn read_signals(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.seen.retain(|(_, at)| now - *at < REMEMBERED);
        while let Some(info) = self.signals.read_signal()? {
            let came = Came::of(&info);
            let passed = signals::PASSED
                .iter()
                .any(|signal| *signal as i32 == came.number);
            // Sent by a process to the whole group, since nobody outside names us: the outer side had it too and will ask to
            // pass it on, but the program, of the same group, has it already.
            if came.by_process && passed {
                self.seen.push((came.number, now));
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: Outward) -> io::Result<()> {
        let made = match request {
            Outward::Udp(addr) => udp(addr),
            Outward::Connect(port) => connect_here(port),
            Outward::ConnectFrom(from, port) => connect_from(from, OWN4, port),
            Outward::Signal(number) => return self.pass(number),
            // Once only.
            Outward::Build { .. } | Outward::Start => return Ok(()),
        };
        match made {
            Ok(socket) => self
                .channel
                .send(&encode(&Inward::Made(None))?, &[socket.as_fd()]),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(nix::libc::EIO);
                self.channel.send(&encode(&Inward::Made(Some(errno)))?, &[])
            }
        }
    }

    /// Passes a signal on, unless the program had it with us.
    fn pass(&mut self, number: i32) -> io::Result<()> {
        self.read_signals()?;
        if !self.seen.iter().any(|(seen, _)| *seen == number) {
            let wait = Timespec::try_from(SAME_SIGNAL).map_err(io::Error::other)?;
            let mut ready = [PollFd::new(&self.signals, PollFlags::IN)];
            let _ = poll(&mut ready, Some(&wait));
            self.read_signals()?;
        }
        match self.seen.iter().position(|(seen, _)| *seen == number) {
            Some(at) => {
                self.seen.swap_remove(at);
            }
            None => {
                let known = NixSignal::try_from(number).ok();
                if let Some(signal) = known.and_then(|_| Signal::from_named_raw(number)) {
                    // It may have ended just now.
                    let _ = rustix::process::kill_process(self.program, signal);
                }
            }
        }
        // What came meanwhile about children.
        Ok(())
    }

    /// Takes leave of ended processes. Gives the code to end with when nothing is left to wait for.
    fn reap(&mut self) -> io::Result<Option<u8>> {
        loop {
            let others = match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if pid == self.program {
                        self.ended = Some(stages::ended(status.as_raw()));
                    }
                    continue;
                }
                Ok(None) => true,
                Err(rustix::io::Errno::CHILD) => false,
                Err(error) => return Err(error.into()),
            };
            return match self.ended {
                Some(how) if !others || !self.linger => {
                    let ended = Inward::Ended { how, others };
                    self.channel.send(&encode(&ended)?, &[])?;
                    Ok(Some(how.code()))
                }
                _ => Ok(None),
            };
        }
    }
}
