//! What is caught in a network namespace, by the kernel's own transparent proxying: programs that know no proxy speak to a
//! world in memory through the sockets that a jail hands out.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

mod support;

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hushswarm::jail::caught::Catcher;
use hushswarm::jail::dns::Resolver;
use hushswarm::jail::names::SharedNames;
use hushswarm::jail::publish::{Inward, publish};
use hushswarm::jail::renamed::Renamed;
use hushswarm::net::os::{CaughtUdp, LocalListener, RawReplies};
use hushswarm::net::{BoxFuture, BoxStream, Datagrams};
use hushswarm::route::{Outside, RouteError};
use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::{Host, HostName, Target};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::mpsc;

/// Real addresses that names have in this world.
const NAMED: &str = "192.0.2.99";

/// A world that echoes: port 7 streams and all datagrams. Port 9 swallows, every other refuses.
#[derive(Default)]
struct Echo {
    targets: Mutex<Vec<Target>>,
    flows: AtomicUsize,
}

impl Outside for Echo {
    fn connect<'a>(
        &'a self,
        target: &'a Target,
        _: Isolation,
    ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
        Box::pin(async move {
            self.targets.lock().unwrap().push(target.clone());
            if !matches!(target.port, 7 | 9) {
                return Err(RouteError::ConnectionRefused);
            }
            let (near, far) = duplex(1 << 16);
            let echoes = target.port == 7;
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(far);
                if echoes {
                    tokio::io::copy(&mut from, &mut to).await.unwrap_or(0);
                    to.shutdown().await.unwrap_or_default();
                }
                let _ = from.read_to_end(&mut Vec::new()).await;
            });
            Ok(Box::new(near) as BoxStream)
        })
    }

    fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
        self.flows.fetch_add(1, Ordering::SeqCst);
        let (to, from) = mpsc::channel(4096);
        let flow = EchoFlow {
            to,
            from: tokio::sync::Mutex::new(from),
        };
        Box::pin(async { Ok(Box::new(flow) as Box<dyn Datagrams>) })
    }

    fn resolve<'a>(
        &'a self,
        _: &'a HostName,
        _: Isolation,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, RouteError>> {
        Box::pin(async { Ok(vec![NAMED.parse().unwrap()]) })
    }
}

struct EchoFlow {
    to: mpsc::Sender<(Target, Vec<u8>)>,
    from: tokio::sync::Mutex<mpsc::Receiver<(Target, Vec<u8>)>>,
}

impl Datagrams for EchoFlow {
    fn send(&self, to: &Target, payload: &[u8]) -> io::Result<()> {
        let mut from = to.clone();
        if matches!(to.host, Host::Name(_)) {
            from = Target::ip(SocketAddr::new(NAMED.parse().unwrap(), to.port));
        }
        // "from ADDRESS PORT" is answered by somebody else.
        if let Some(rest) = payload.strip_prefix(b"from ") {
            let text = String::from_utf8(rest.to_vec()).unwrap();
            let (ip, port) = text.split_once(' ').unwrap();
            from = Target::parse(ip, port.parse().unwrap()).unwrap();
        }
        // A full queue drops.
        let _ = self.to.try_send((from, payload.to_vec()));
        Ok(())
    }

    fn recv(&self) -> BoxFuture<'_, io::Result<(Target, Vec<u8>)>> {
        Box::pin(async { Ok(self.from.lock().await.recv().await.unwrap()) })
    }
}

/// A namespace whose doors are served here. It ends with its holder's standard input.
struct Caught {
    holder: Child,
    _channel: UnixStream,
    world: Arc<Echo>,
    catcher: Arc<Catcher>,
    _runtime: tokio::runtime::Runtime,
}

fn receive(channel: &UnixStream) -> Vec<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(6))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        channel,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let messages = control.drain().filter_map(|message| {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            Some(descriptors)
        } else {
            None
        }
    });
    messages.flatten().collect()
}

impl Caught {
    fn start() -> Option<Self> {
        let (channel, theirs) = UnixStream::pair().unwrap();
        let holder = Command::new("unshare")
            .args(["-U", "-r", "-n", "--", "python3"])
            .arg(support::fixture("caught_ns.py"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut doors = receive(&channel).into_iter();
        if doors.len() != 6 {
            let output = holder.wait_with_output().unwrap();
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            support::skip(&format!("nothing can be caught here: {reason}"));
            return None;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let world = Arc::new(Echo::default());
        let guard = runtime.enter();
        let mut door = || doors.next().unwrap();
        let (tcp4, udp4, raw4, tcp6, udp6, raw6) = (door(), door(), door(), door(), door(), door());
        let names = SharedNames::default();
        let isolation = Isolation::new("jail", b"test", 0);
        let outside = Arc::clone(&world) as Arc<dyn Outside>;
        let outside: Arc<dyn Outside> = Arc::new(Renamed::new(outside, names.clone()));
        let resolver = Resolver::new(names, "cage".to_owned(), Arc::clone(&outside), isolation);
        let own = vec!["10.254.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let replies = Arc::new(RawReplies::handed(raw4, raw6).unwrap());
        let catcher = Catcher::new(outside, resolver, isolation, own, replies);
        for socket in [tcp4, tcp6] {
            let listener = LocalListener::handed(socket).unwrap();
            runtime.spawn(Arc::clone(&catcher).serve_tcp(listener));
        }
        for socket in [udp4, udp6] {
            let socket = CaughtUdp::handed(socket).unwrap();
            runtime.spawn(Arc::clone(&catcher).serve_udp(socket));
        }
        drop(guard);
        Some(Self {
            holder,
            _channel: channel,
            world,
            catcher,
            _runtime: runtime,
        })
    }

    /// Runs one of the programs inside, and gives what it prints.
    fn run(&self, program: &str) -> String {
        let output = Command::new("nsenter")
            .args(["-t", &self.holder.id().to_string()])
            .args(["-U", "--preserve-credentials", "-n", "--", "python3"])
            .arg(support::fixture("caught_programs.py"))
            .arg(program)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

macro_rules! start {
    () => {
        match Caught::start() {
            Some(caught) => caught,
            None => return,
        }
    };
}

#[test]
fn streams_of_programs_that_know_no_proxy_arrive_intact_in_both_families() {
    let caught = start!();
    caught.run("tcp");
    let targets = caught.world.targets.lock().unwrap().clone();
    let expected = ["192.0.2.7", "2001:db8::7", "192.0.2.7"];
    assert_eq!(targets, expected.map(|ip| Target::parse(ip, 7).unwrap()));
}

#[test]
fn a_connection_that_can_t_be_opened_is_reset() {
    start!().run("refused");
}

#[test]
fn datagrams_come_back_from_everybody_also_at_the_program_s_own_port() {
    let caught = start!();
    for program in ["same_port", "sizes", "stranger"] {
        caught.run(program);
    }
    let before = caught.world.flows.load(Ordering::SeqCst);
    caught.run("many");
    // One socket, one far end.
    assert_eq!(caught.world.flows.load(Ordering::SeqCst) - before, 1);
}

#[test]
fn discovery_and_foreign_sources_go_nowhere() {
    let caught = start!();
    caught.run("nowhere");
    assert_eq!(caught.world.flows.load(Ordering::SeqCst), 1);
    assert_eq!(caught.catcher.counts().refused(), 3);
}

#[test]
fn every_resolver_is_ours_and_names_stay_names() {
    let caught = start!();
    caught.run("dns");
    let targets = caught.world.targets.lock().unwrap().clone();
    assert_eq!(targets, [Target::parse("tracker.example", 7).unwrap()]);
}

#[test]
fn a_crowd_and_a_flood_cost_bounded_memory_and_nobody_else() {
    let caught = start!();
    caught.run("crowd");
    caught.run("flood");
    assert!(caught.world.flows.load(Ordering::SeqCst) >= 256);
    caught.run("same_port");
    caught.run("tcp");
}

/// Echoes at port 7; nobody listens elsewhere.
struct Inside;

impl Inward for Inside {
    fn connect(&self, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let isolation = Isolation::new("jail", b"test", 0);
            let target = Target::parse("192.0.2.1", port).unwrap();
            let opened = Echo::default().connect(&target, isolation).await;
            opened.map_err(|_| io::ErrorKind::ConnectionRefused.into())
        })
    }
}

#[tokio::test]
async fn a_published_port_leads_inside_and_a_closed_one_is_reset() {
    for port in [7, 8] {
        let listener = LocalListener::loopback("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap().unwrap();
        let serving = tokio::spawn(publish(listener, Arc::new(Inside), port));
        let mut browser = tokio::net::TcpStream::connect(addr).await.unwrap();
        // It may be reset already.
        let _ = browser.write_all(b"hello").await;
        let _ = browser.shutdown().await;
        let mut answer = Vec::new();
        let read = browser.read_to_end(&mut answer).await;
        assert_eq!((read.is_ok(), answer == b"hello"), (port == 7, port == 7));
        serving.abort();
    }
}

/// How fast answers from ever other addresses come back. `cargo test --release --test jail_caught -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_answers() {
    let caught = start!();
    println!("{}", caught.run("speed").trim());
}
