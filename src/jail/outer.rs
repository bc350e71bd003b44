//! The outer side of a jail: starts it, takes its doors, asks its warden, and hears how the program ended.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;

use tokio::sync::{mpsc, oneshot};

use super::doors::{Caught, Inside, JailError};
use super::message::{Ended, Inward, Outward, borrowed, decode, encode};
use super::stages;
use crate::net::os::jail::{AsyncChannel, Channel, connected};
use crate::net::os::{LocalListener, LocalUdp, RawReplies};
use crate::net::{BoxFuture, BoxStream, UdpDoors};

/// Requests that wait for the warden: each is answered in microseconds.
const WAITING: usize = 64;

/// Bytes of standard input or output that are copied at once: as many as a pipe holds.
const COPIED_AT_ONCE: usize = 64 * 1024;

/// What to run, and how.
#[derive(Debug)]
pub struct Config {
    /// The program and its arguments.
    pub program: Vec<OsString>,
    /// Its environment, whole.
    pub environment: Vec<(OsString, OsString)>,
    /// Its standard input, output and error.
    pub standard: [OwnedFd; 3],
    /// Catch what is sent to addresses, not only what is asked of the proxy.
    pub catch: bool,
    /// Wait for every process that the program leaves behind, instead of ending them with it.
    pub linger: bool,
    /// A port of 127.0.0.1 inside to listen at, for something that is served out here.
    pub listen: Option<u16>,
}

/// A jail that stands. Dropping it ends everything inside.
#[derive(Debug)]
pub struct Jail {
    /// Its doors.
    pub inside: Inside,
    ended: oneshot::Receiver<(Ended, bool)>,
}

type Answer = oneshot::Sender<io::Result<OwnedFd>>;

#[derive(Debug)]
enum Request {
    /// Answered with a descriptor.
    Make(Outward, Answer),
    /// Not answered.
    Tell(Outward),
}

/// The outer side's handle on the warden.
#[derive(Clone, Debug)]
pub struct Warden {
    requests: mpsc::Sender<Request>,
}

impl Jail {
    /// Builds a jail. The program waits for [`Jail::start`].
    ///
    /// # Errors
    /// What could not be had here: the user is told what to do about it (`super::hints`).
    pub async fn build(config: Config) -> Result<Self, JailError> {
        let (ours, theirs) = Channel::pair()?;
        let build = Outward::Build {
            catch: config.catch,
            linger: config.linger,
            listen: config.listen,
        };
        ours.send(&encode(&build)?, &borrowed(&config.standard))?;
        drop(config.standard);
        spawn(theirs, config.program, config.environment)?;
        let channel = AsyncChannel::new(ours)?;
        let message = channel.receive().await?;
        let (which, doors) = match decode(&message.bytes) {
            Ok(Inward::Ready(which)) => (which, message.descriptors),
            Ok(Inward::Failed {
                step,
                errno,
                detail,
            }) => {
                return Err(JailError::Refused {
                    step,
                    errno,
                    detail,
                });
            }
            _ => return Err(JailError::Lost),
        };
        let mut doors = doors.into_iter();
        let mut next = || doors.next().ok_or(JailError::Lost);
        let (requests, asked) = mpsc::channel(WAITING);
        let (tell_ended, ended) = oneshot::channel();
        let socks = LocalListener::handed(next()?)?;
        let dns = LocalUdp::handed(next()?)?;
        let listener = match config.listen {
            Some(_) => Some(LocalListener::handed(next()?)?),
            None => None,
        };
        let caught = if which.caught4 {
            let replies = RawReplies::handed(next()?, next()?)?;
            let (tcp4, udp4) = (LocalListener::handed(next()?)?, next()?);
            let (tcp6, udp6) = if which.caught6 {
                (Some(LocalListener::handed(next()?)?), Some(next()?))
            } else {
                (None, None)
            };
            Some(Caught {
                tcp4,
                tcp6,
                udp4,
                udp6,
                replies,
            })
        } else {
            None
        };
        tokio::spawn(talk(channel, asked, tell_ended));
        Ok(Self {
            inside: Inside {
                socks,
                dns,
                asked: listener,
                caught,
                warden: Warden { requests },
            },
            ended,
        })
    }

    /// Starts the program, now that its doors are served, and gives what waits for its end.
    ///
    /// # Errors
    /// The jail has ended.
    pub async fn start(self) -> Result<(Inside, Running), JailError> {
        let started = self.inside.warden.tell(Outward::Start).await;
        started.map_err(|_| JailError::Lost)?;
        Ok((self.inside, Running(self.ended)))
    }
}

/// A program in its jail.
#[derive(Debug)]
pub struct Running(oneshot::Receiver<(Ended, bool)>);

impl Running {
    /// Waits for its end: how it ended, and whether processes that it left behind were ended with it.
    ///
    /// # Errors
    /// The jail ended without it.
    pub async fn ended(&mut self) -> Result<(Ended, bool), JailError> {
        (&mut self.0).await.map_err(|_| JailError::Lost)
    }
}

/// Starts stage 1 in a thread that lives as long as it: the kernel ends the stage with the thread that started it.
fn spawn(
    channel: Channel,
    program: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
) -> io::Result<()> {
    let (tell, started) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("jail".to_owned())
        .spawn(move || {
            let child = stages::command("1", &program)
                .env_clear()
                .envs(environment)
                .stdin(Stdio::from(channel.into_descriptor()))
                .stdout(Stdio::null())
                .spawn();
            match child {
                Ok(mut child) => {
                    let _ = tell.send(Ok(()));
                    // How it ended is told on the channel.
                    let _ = child.wait();
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
    started.recv().map_err(io::Error::other)?
}

/// Talks to the warden until one of us is gone.
async fn talk(
    channel: AsyncChannel,
    mut asked: mpsc::Receiver<Request>,
    tell_ended: oneshot::Sender<(Ended, bool)>,
) {
    let mut waiting: Option<Answer> = None;
    loop {
        tokio::select! {
            message = channel.receive() => {
                let Ok(mut message) = message else { return };
                match decode(&message.bytes) {
                    Ok(Inward::Made(error)) => {
                        let Some(answer) = waiting.take() else { return };
                        let made = match error {
                            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                            None => message.descriptors.pop().ok_or(io::ErrorKind::InvalidData.into()),
                        };
                        // Whoever asked may have given up.
                        let _ = answer.send(made);
                    }
                    Ok(Inward::Ended { how, others }) => {
                        let _ = tell_ended.send((how, others));
                        return;
                    }
                    _ => return,
                }
            }
            request = asked.recv(), if waiting.is_none() => {
                let request = match request {
                    Some(Request::Make(request, answer)) => {
                        waiting = Some(answer);
                        request
                    }
                    Some(Request::Tell(request)) => request,
                    None => return,
                };
                let Ok(bytes) = encode(&request) else { return };
                if channel.send(&bytes, &[]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn gone<T>(_: T) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Warden {
    async fn make(&self, request: Outward) -> io::Result<OwnedFd> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Make(request, answer);
        self.requests.send(request).await.map_err(gone)?;
        answered.await.map_err(gone)?
    }

    async fn tell(&self, request: Outward) -> io::Result<()> {
        self.requests
            .send(Request::Tell(request))
            .await
            .map_err(gone)
    }

    /// A UDP socket inside the jail, bound to any address, also one that belongs to others (so that an answer can come from
    /// it). Port 0 lets the system choose. Such sockets may share an address.
    ///
    /// # Errors
    /// As the system says, or the jail is gone.
    pub async fn udp(&self, addr: SocketAddr) -> io::Result<LocalUdp> {
        LocalUdp::handed(self.make(Outward::Udp(addr)).await?)
    }

    /// A connection to a port of 127.0.0.1 (or else ::1) inside the jail.
    ///
    /// # Errors
    /// Nobody listens there (`ConnectionRefused`), or the jail is gone.
    pub async fn connect(&self, port: u16) -> io::Result<BoxStream> {
        connected(self.make(Outward::Connect(port)).await?).await
    }

    /// A connection to a port of 127.0.0.1 (or else of the jail's own IPv4 address) inside the jail, from a loopback address.
    ///
    /// # Errors
    /// Nobody listens there (`ConnectionRefused`), the address is not loopback (`InvalidInput`), or the jail is gone.
    pub async fn connect_from(&self, from: Ipv4Addr, port: u16) -> io::Result<BoxStream> {
        if !from.is_loopback() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        connected(self.make(Outward::ConnectFrom(from, port)).await?).await
    }

    /// Passes a signal on to the program, unless it had it as one of our process group.
    ///
    /// # Errors
    /// The jail is gone.
    pub async fn signal(&self, number: i32) -> io::Result<()> {
        self.tell(Outward::Signal(number)).await
    }
}

impl UdpDoors for Warden {
    fn open(&self, beside: IpAddr) -> BoxFuture<'_, io::Result<LocalUdp>> {
        Box::pin(async move { self.udp(SocketAddr::new(beside, 0)).await })
    }
}

/// Standard input, output and error of this process, for the program. What is a socket is replaced by a pipe and copied,
/// since a socket from outside leads outside; the threads that copy output are given back, to be waited for.
///
/// # Errors
/// One of them is a folder (from which every file outside could be opened), or as the system says.
pub fn standard() -> io::Result<([OwnedFd; 3], Vec<std::thread::JoinHandle<()>>)> {
    let mut copies = Vec::new();
    let input = own(rustix::stdio::stdin().as_fd())?;
    let input = if crate::net::os::jail::is_socket(input.as_fd()) {
        let (read, write) = io::pipe()?;
        copy(input, write.into())?;
        read.into()
    } else {
        input
    };
    let mut output = |descriptor: OwnedFd| -> io::Result<OwnedFd> {
        if !crate::net::os::jail::is_socket(descriptor.as_fd()) {
            return Ok(descriptor);
        }
        let (read, write) = io::pipe()?;
        copies.push(copy(read.into(), descriptor)?);
        Ok(write.into())
    };
    let standard = [
        input,
        output(own(rustix::stdio::stdout().as_fd())?)?,
        output(own(rustix::stdio::stderr().as_fd())?)?,
    ];
    Ok((standard, copies))
}

fn own(descriptor: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let kind = rustix::fs::fstat(descriptor)
        .map(|found| rustix::fs::FileType::from_raw_mode(found.st_mode));
    match kind {
        Ok(rustix::fs::FileType::Directory) => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => descriptor.try_clone_to_owned(),
        // Closed: then it leads nowhere.
        Err(_) => std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(Into::into),
    }
}

fn copy(from: OwnedFd, to: OwnedFd) -> io::Result<std::thread::JoinHandle<()>> {
    let (mut from, mut to) = (std::fs::File::from(from), std::fs::File::from(to));
    std::thread::Builder::new().spawn(move || {
        // Not `io::copy`: it splices, and a splice that waits for a socket keeps the pipe locked, so that a program can't even
        // close its end, nor end.
        let mut buf = vec![0; COPIED_AT_ONCE];
        loop {
            match from.read(&mut buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The end of either is the end of the copy.
                Ok(0) | Err(_) => return,
                Ok(len) => {
                    if to.write_all(&buf[..len]).is_err() {
                        return;
                    }
                }
            }
        }
    })
}
