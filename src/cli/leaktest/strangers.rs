//! What a stranger finds at the program's own address (L10): which ports are open there, and whether they answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::addresses;
use super::outcome::OpenPort;
use super::stage::Computer;
use crate::bencode;
use crate::net::os::WorldSockets;

/// States of the kernel's tables: listening, and an unconnected UDP socket.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";
/// Most ports tried.
const MAX_PORTS: usize = 16;
/// How long an answer may take.
const WAIT: Duration = Duration::from_secs(1);

/// One line of `/proc/net/tcp` and the like: `sl local remote state ...`, where the socket takes what strangers send.
fn open_at(line: &str, state: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _remote) = (fields.next()?, fields.next()?);
    if fields.next()? != state {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits, each as it lies in memory.
    let mut octets = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match octets.len() {
        4 => Ipv4Addr::from(*octets.first_chunk::<4>()?).into(),
        16 => Ipv6Addr::from(*octets.first_chunk::<16>()?).into(),
        _ => return None,
    };
    let ip = ip.to_canonical();
    (!ip.is_loopback() && !ip.is_multicast()).then_some(SocketAddr::new(ip, port))
}

fn open_ports(computer: &Computer, table: &str, state: &str) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(computer.net_file(table)).unwrap_or_default();
    let mut found: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| open_at(line, state))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_PORTS);
    found
}

/// Where a stranger finds a socket that is bound to `at`.
fn outside(at: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match at.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => addresses::YOU_V4.into(),
        IpAddr::V6(_) => addresses::YOU_V6.into(),
    };
    SocketAddr::new(ip, at.port())
}

/// Knocks at every open port of the program's computer: with a handshake for its torrent, and with a ping.
pub(super) async fn knock(
    sockets: WorldSockets,
    computer: &Computer,
    hash: [u8; 20],
) -> Vec<OpenPort> {
    let mut out = Vec::new();
    for table in ["tcp", "tcp6"] {
        for at in open_ports(computer, table, LISTEN) {
            out.push(OpenPort {
                proto: "tcp".to_owned(),
                at: at.to_string(),
                answers: shakes_hands(sockets, outside(at), hash).await,
            });
        }
    }
    for table in ["udp", "udp6"] {
        for at in open_ports(computer, table, UNCONNECTED) {
            out.push(OpenPort {
                proto: "udp".to_owned(),
                at: at.to_string(),
                answers: pongs(sockets, outside(at)).await,
            });
        }
    }
    out.sort();
    out.dedup();
    out
}

fn stranger_for(to: SocketAddr) -> SocketAddr {
    let [v4, v6] = addresses::stranger();
    SocketAddr::new(if to.is_ipv4() { v4 } else { v6 }, 0)
}

async fn shakes_hands(sockets: WorldSockets, to: SocketAddr, hash: [u8; 20]) -> bool {
    let Ok(mut stream) = sockets.knock(stranger_for(to), to).await else {
        return false;
    };
    let hello = [
        &b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0"[..],
        &hash,
        &rand::random::<[u8; 20]>(),
    ]
    .concat();
    let mut answer = [0; 20];
    let talk = async {
        stream.write_all(&hello).await?;
        stream.read_exact(&mut answer).await
    };
    matches!(timeout(WAIT, talk).await, Ok(Ok(_))) && answer.starts_with(b"\x13BitTorrent")
}

async fn pongs(sockets: WorldSockets, to: SocketAddr) -> bool {
    let Ok(socket) = sockets.datagrams(stranger_for(to)) else {
        return false;
    };
    let mut ping = Vec::new();
    bencode::put_dict(&mut ping, |dict| {
        bencode::put_dict(dict.key("a"), |a| {
            bencode::put_bytes(a.key("id"), rand::random::<[u8; 20]>());
        });
        bencode::put_bytes(dict.key("q"), b"ping");
        bencode::put_bytes(dict.key("t"), b"kn");
        bencode::put_bytes(dict.key("y"), b"q");
    });
    if socket.send_to(&ping, to).await.is_err() {
        return false;
    }
    let mut buf = [0; 1500];
    matches!(timeout(WAIT, socket.recv_from(&mut buf)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_that_strangers_reach_are_read_from_the_kernels_tables() {
        for (line, state, found) in [
            (
                "0: 00000000:1AE1 00000000:0000 0A 0:0",
                LISTEN,
                Some("0.0.0.0:6881"),
            ),
            (
                "0: 02000A21:1AE1 00000000:0000 0A 0:0",
                LISTEN,
                Some("33.10.0.2:6881"),
            ),
            ("0: 0100007F:1AE1 00000000:0000 0A 0:0", LISTEN, None),
            ("0: 00000000:1AE1 00000000:0000 01 0:0", LISTEN, None),
            (
                "0: 00000000:1AE1 00000000:0000 07 0:0",
                UNCONNECTED,
                Some("0.0.0.0:6881"),
            ),
            (
                "0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A",
                LISTEN,
                Some("[::]:80"),
            ),
            (
                "0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A",
                LISTEN,
                None,
            ),
            (
                "0: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A",
                LISTEN,
                None,
            ),
            ("  sl  local_address rem_address   st", LISTEN, None),
            ("0: zz:1AE1 0:0 0A", LISTEN, None),
        ] {
            assert_eq!(
                open_at(line, state),
                found.map(|at| at.parse().unwrap()),
                "{line}"
            );
        }
        assert_eq!(
            outside("[::]:80".parse().unwrap()).to_string(),
            "[2a77:33::2]:80"
        );
    }
}
