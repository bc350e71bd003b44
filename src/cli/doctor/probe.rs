//! Asks the proxy that clients are set to use: is it there, is it ours, does it do what they need, and can others reach it?

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hushswarm_circuits::target::{Host, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::finding::{Danger, Finding};
use super::sockets::parse;
use crate::net::BoxStream;
use crate::net::os::LoopbackDialer;

/// How long the proxy may take: it builds a circuit, and an exit tries for 15 seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer that is read of something that may be no proxy, bytes.
const MAX_ANSWER: u64 = 4096;
/// What our proxy says to a browser (`socks::http`).
const OURS: &str = "This is a proxy, and not a web server";
/// SOCKS5 commands (RFC 1928 §4, and Tor's RESOLVE).
const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;
const RESOLVE: u8 = 0xf0;

const PLACE: &str = "proxy";
const START: &str = "start it: hushswarm proxy";

/// Looks at the proxy at `addr`; with a target, also through it.
pub(super) async fn check(addr: SocketAddr, target: Option<&Target>) -> Vec<Finding> {
    let mut findings = listeners(addr.port());
    if !addr.ip().is_loopback() {
        findings.push(Finding::new(
            Danger::Leak,
            PLACE,
            "the proxy is on another computer: what clients say to it crosses the network in the clear",
            "run hushswarm proxy on this computer",
        ));
        return findings;
    }
    match greet(addr).await {
        Ok(_) => findings.push(Finding::fine(PLACE, format!("answers SOCKS5 on {addr}"))),
        Err(error) => {
            let kind = error.kind();
            let what = if kind == io::ErrorKind::ConnectionRefused {
                format!("nothing listens on {addr}")
            } else if kind == io::ErrorKind::PermissionDenied {
                format!("{addr} wants a password")
            } else {
                format!("what listens on {addr} does not answer SOCKS5 ({kind})")
            };
            findings.push(Finding::new(Danger::Broken, PLACE, what, START));
            return findings;
        }
    }
    match browse(addr).await {
        Ok(answer) if answer.contains(OURS) => {
            findings.push(Finding::fine(PLACE, "it is hushswarm"));
        }
        _ => {
            findings.push(Finding::new(
                Danger::Leak,
                PLACE,
                format!("what listens on {addr} is another proxy, which hides nothing that it does not want to hide"),
                "stop it, and start hushswarm proxy; or set clients and --proxy to where hushswarm listens",
            ));
            return findings;
        }
    }
    findings.push(association(addr).await);
    match target {
        Some(target) => findings.extend(through(addr, target).await),
        None => findings.push(Finding::new(
            Danger::Note,
            PLACE,
            "nothing was asked for through circuits",
            "to try that too: --target HOST:PORT",
        )),
    }
    findings
}

/// Whether anybody listens on this port at an address that others reach.
fn listeners(port: u16) -> Vec<Finding> {
    let tables = ["tcp", "tcp6"].into_iter().flat_map(|name| {
        parse(&fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default())
    });
    let open =
        tables.filter(|socket| socket.listens && socket.local.port() == port && socket.is_open());
    open.map(|socket| {
        Finding::new(
            Danger::Leak,
            PLACE,
            format!("port {port} is open to other computers, on {}", socket.local.ip()),
            "let it listen on 127.0.0.1, or want a password (--public --user NAME --password-file FILE)",
        )
    })
    .collect()
}

/// Opens a connection as a client that needs no password (RFC 1928 §3).
async fn greet(addr: SocketAddr) -> io::Result<BoxStream> {
    let mut stream = LoopbackDialer.connect(addr).await?;
    let work = async {
        stream.write_all(&[5, 1, 0]).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        match answer {
            [5, 0] => Ok(()),
            [5, 0xff] => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    };
    within(work).await?;
    Ok(stream)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What it says to a browser.
async fn browse(addr: SocketAddr) -> io::Result<String> {
    let mut stream = LoopbackDialer.connect(addr).await?;
    within(async {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    })
    .await
}

/// Sends a request and reads the reply: its code and the address in it (RFC 1928 §6).
async fn ask(stream: &mut BoxStream, request: &[u8]) -> io::Result<(u8, Option<SocketAddr>)> {
    within(async {
        stream.write_all(request).await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let [5, code, _, kind] = head else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let ip: Option<IpAddr> = match kind {
            1 => {
                let mut ip = [0; 4];
                stream.read_exact(&mut ip).await?;
                Some(ip.into())
            }
            4 => {
                let mut ip = [0; 16];
                stream.read_exact(&mut ip).await?;
                Some(ip.into())
            }
            _ => None,
        };
        Ok((
            code,
            match ip {
                Some(ip) => Some(SocketAddr::new(ip, stream.read_u16().await?)),
                None => None,
            },
        ))
    })
    .await
}

fn request(command: u8, target: &Target) -> Vec<u8> {
    let mut bytes = vec![5, command, 0];
    match &target.host {
        Host::Ip(IpAddr::V4(ip)) => {
            bytes.push(1);
            bytes.extend(ip.octets());
        }
        Host::Ip(IpAddr::V6(ip)) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        Host::Name(name) => {
            let name = name.as_str().as_bytes();
            // A host name has at most 255 bytes.
            bytes.extend([3, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
            bytes.extend(name);
        }
    }
    bytes.extend(target.port.to_be_bytes());
    bytes
}

async fn association(addr: SocketAddr) -> Finding {
    let nowhere = Target::ip(SocketAddr::from(([0, 0, 0, 0], 0)));
    let asked = async {
        let mut stream = greet(addr).await?;
        ask(&mut stream, &request(ASSOCIATE, &nowhere)).await
    };
    match asked.await {
        Ok((0, Some(door))) if door.ip().is_loopback() => Finding::fine(
            PLACE,
            "takes UDP (DHT, uTP, UDP trackers), on loopback alone",
        ),
        Ok((0, _)) => Finding::new(
            Danger::Leak,
            PLACE,
            "takes UDP where other computers can send it",
            "let it listen on 127.0.0.1",
        ),
        Ok((code, _)) => Finding::new(
            Danger::Broken,
            PLACE,
            format!("refuses UDP: {}", meaning(code)),
            "look at what hushswarm proxy says",
        ),
        Err(error) => Finding::new(
            Danger::Broken,
            PLACE,
            format!("does not answer for UDP ({})", error.kind()),
            START,
        ),
    }
}

async fn through(addr: SocketAddr, target: &Target) -> Vec<Finding> {
    let mut wanted = vec![(CONNECT, "a connection to the target")];
    if matches!(target.host, Host::Name(_)) {
        wanted.push((RESOLVE, "a lookup of the target's name"));
    }
    let mut findings = Vec::new();
    for (command, what) in wanted {
        let asked = async {
            let mut stream = greet(addr).await?;
            ask(&mut stream, &request(command, target)).await
        };
        findings.push(match asked.await {
            Ok((0, _)) => Finding::fine(PLACE, format!("{what} works through circuits")),
            Ok((code, _)) => Finding::new(
                Danger::Broken,
                PLACE,
                format!("{what} fails: {}", meaning(code)),
                "look at what hushswarm proxy says, or try another target",
            ),
            Err(error) => Finding::new(
                Danger::Broken,
                PLACE,
                format!("{what} fails ({})", error.kind()),
                "look at what hushswarm proxy says",
            ),
        });
    }
    findings
}

/// What a reply's code says (RFC 1928 §6; Tor's from 0xF0 on).
fn meaning(code: u8) -> &'static str {
    match code {
        1 => "there is no circuit now",
        2 => "the routing policy, or every exit's, does not let it out",
        3 => "the exit can't reach that network",
        4 => "the exit can't reach that host, or the name does not exist",
        5 => "nothing listens there",
        6 => "no answer in time",
        7 => "the proxy does not know this command",
        8 => "the proxy does not know this kind of address",
        _ => "for a reason that has no name here",
    }
}
