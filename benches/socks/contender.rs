//! What is measured: our proxy with its relays, tor with its own, and programs that only forward.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cpu::Cpu;
use crate::streams::{Source, Way};
use crate::support::PATIENCE;
use crate::support::loopback::{Loopback, PROGRAM};
use crate::support::process::Process;
use crate::support::tor::{Size, TorNetwork};

/// Programs in a row between the one that downloads and the source: proxy and three relays.
const FORWARDERS: usize = 4;

/// One way through processes of its own.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// Where it takes connections.
    at: SocketAddr,
    pids: Vec<u32>,
    kind: Kind,
}

enum Kind {
    /// Connections to it are connections to the source.
    Forwarders {
        _all: Vec<Forwarder>,
    },
    Hushswarm(Hushswarm),
    Tor(TorNetwork),
}

/// Our relays and a proxy.
pub(crate) struct Hushswarm {
    loopback: Loopback,
    proxy: Process,
    pub(crate) at: SocketAddr,
}

impl Hushswarm {
    pub(crate) fn start() -> Self {
        let loopback = Loopback::start("warn");
        let (proxy, at) = Self::proxy(&loopback, "state");
        Self {
            loopback,
            proxy,
            at,
        }
    }

    fn proxy(loopback: &Loopback, state: &str) -> (Process, SocketAddr) {
        let mut command = Command::new(PROGRAM);
        command
            .args(["proxy", "--allow-private", "--listen", "127.0.0.1:0"])
            .args([Path::new("--network"), &loopback.network.file])
            .args([Path::new("--state"), &loopback.dir.path().join(state)]);
        let mut process = Process::spawn("proxy", command);
        let line = process.wait_for_line(PATIENCE, |line| line.contains("127.0.0.1:"));
        let rest = &line[line.find("127.0.0.1:").unwrap()..];
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
        (process, rest[..end.unwrap_or(rest.len())].parse().unwrap())
    }

    /// Process ids of the proxy and the relays.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let relays = self.loopback.relays.iter().map(Process::id);
        std::iter::once(self.proxy.id()).chain(relays).collect()
    }
}

impl Contender {
    pub(crate) fn hushswarm() -> Self {
        let running = Hushswarm::start();
        Self {
            name: "hushswarm",
            at: running.at,
            pids: running.pids(),
            kind: Kind::Hushswarm(running),
        }
    }

    /// One authority, one relay and one exit, so that every circuit passes all three.
    pub(crate) fn tor() -> Self {
        let network = TorNetwork::start(&Size::three_relays());
        println!(
            "private Tor network: {} s",
            network.ready["seconds"].as_f64().unwrap()
        );
        Self {
            name: "tor",
            at: network.socks(),
            pids: network.pids(),
            kind: Kind::Tor(network),
        }
    }

    pub(crate) fn forwarders(source: SocketAddr) -> Self {
        let (mut all, mut next) = (Vec::new(), source);
        for _ in 0..FORWARDERS {
            let forwarder = Forwarder::start("--forward", next);
            next = forwarder.at;
            all.push(forwarder);
        }
        Self {
            name: "bare forwarding",
            at: next,
            pids: all.iter().map(|one| one.child.id()).collect(),
            kind: Kind::Forwarders { _all: all },
        }
    }

    pub(crate) fn is_tor(&self) -> bool {
        matches!(self.kind, Kind::Tor(_))
    }

    /// Starts another SOCKS client that knows nothing yet, and says when its first stream carried a byte.
    pub(crate) fn cold_start(&self, source: &Source) -> Option<String> {
        let begun = Instant::now();
        let (_process, at): (Process, SocketAddr) = match &self.kind {
            Kind::Forwarders { .. } => return None,
            Kind::Hushswarm(running) => Hushswarm::proxy(&running.loopback, "cold"),
            Kind::Tor(network) => {
                let (torrc, at) = network.spare();
                let mut command = Command::new("tor");
                command.args(["--defaults-torrc", "/nonexistent", "-f"]);
                command.arg(torrc);
                (Process::spawn("tor", command), at)
            }
        };
        loop {
            // Neither takes connections, nor has circuits, at once.
            let byte = TcpStream::connect(at).and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                socks_request(&mut stream, 1, source.addr)?;
                stream.write_all(&1_u64.to_be_bytes())?;
                stream.read_exact(&mut [0])
            });
            if byte.is_ok() {
                let ms = begun.elapsed().as_secs_f64() * 1e3;
                return Some(format!("cold start to first byte {ms:.0} ms"));
            }
            assert!(begun.elapsed() < PATIENCE, "no first byte: {byte:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Way for Contender {
    fn name(&self) -> &str {
        self.name
    }

    fn cpu(&self) -> Cpu {
        Cpu::of(&self.pids)
    }

    fn connect(&self, source: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_nodelay(true).unwrap();
        if !matches!(self.kind, Kind::Forwarders { .. }) {
            socks_request(&mut stream, 1, source).expect("CONNECT");
        }
        stream
    }
}

/// Speaks SOCKS5 (RFC 1928) on a fresh connection; gives the address in the answer.
pub(crate) fn socks_request(
    stream: &mut TcpStream,
    command: u8,
    target: SocketAddr,
) -> std::io::Result<SocketAddr> {
    let SocketAddr::V4(target) = target else {
        panic!("loopback is IPv4 here");
    };
    stream.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    assert_eq!(method, [5, 0]);
    let mut request = vec![5, command, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    if answer[1] != 0 {
        let refused = format!("SOCKS refuses: {}", answer[1]);
        return Err(std::io::Error::other(refused));
    }
    assert_eq!(answer[3], 1, "an IPv4 address comes back");
    let ip = Ipv4Addr::new(answer[4], answer[5], answer[6], answer[7]);
    Ok((ip, u16::from_be_bytes([answer[8], answer[9]])).into())
}

/// This program again, as one that only forwards. Prints its own address.
pub(crate) struct Forwarder {
    pub(crate) child: Child,
    pub(crate) at: SocketAddr,
}

impl Forwarder {
    pub(crate) fn start(part: &str, next: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([part, &next.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        Self {
            child,
            at: line.trim().parse().unwrap(),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
