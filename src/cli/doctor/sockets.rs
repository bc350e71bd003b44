//! The kernel's tables of sockets (`/proc/net/tcp`, `tcp6`, `udp`, `udp6`; Linux, Documentation/networking/proc_net_tcp.rst). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Lines of one table that are read; a computer with more has other troubles.
const MAX_LINES: usize = 100_000;
/// TCP's state LISTEN.
const LISTEN: u8 = 0x0a;

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; unspecified where there is none.
    pub remote: SocketAddr,
    /// Whether it waits for connections.
    pub listens: bool,
    /// What `/proc/PID/fd` calls it.
    pub inode: u64,
}

impl Socket {
    /// Whether others than programs of this computer can reach it.
    pub fn is_open(&self) -> bool {
        !plain(self.local.ip()).is_loopback()
    }

    /// Whether its other end is another computer.
    pub fn leaves(&self) -> bool {
        let remote = plain(self.remote.ip());
        !remote.is_loopback() && !remote.is_unspecified()
    }
}

fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Reads a table. Lines that can't be understood are left out.
pub fn parse(table: &str) -> Vec<Socket> {
    let lines = table.lines().take(MAX_LINES);
    lines.filter_map(line).collect()
}

fn line(line: &str) -> Option<Socket> {
    // sl, local, remote, state, queues, timer, retransmissions, uid, timeout, inode
    let words: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let &[_, local, remote, state, _, _, _, _, _, inode] = words.as_slice() else {
        return None;
    };
    Some(Socket {
        local: address(local)?,
        remote: address(remote)?,
        listens: u8::from_str_radix(state, 16).ok()? == LISTEN,
        inode: inode.parse().ok()?,
    })
}

/// An address in words of four bytes, each as this processor would read it, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = ip.len() / 8;
    if !ip.is_ascii() || ip.len() % 8 != 0 || !matches!(words, 1 | 4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(16);
    for at in 0..words {
        let word = u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_the_kernel_read_back() {
        if cfg!(target_endian = "big") {
            return;
        }
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:0438 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 x\n\
             1: FA004D0A:C8D5 15004D0A:1AE1 01 00000000:00000000 02:00000A0B 00000000  1000        0 4343 2 x\n\
             2: 00000000000000000000000000000000:C8D5 00000000000000000000000000000000:0000 0A 0:0 0:0 0 1000 0 4444 1\n\
             3: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 1000 0 4545 1\n";
        let sockets = parse(table);
        assert_eq!(sockets.len(), 4);
        assert_eq!(sockets[0].local, "127.0.0.1:1080".parse().unwrap());
        assert!(sockets[0].listens && !sockets[0].is_open());
        assert_eq!(sockets[1].remote, "10.77.0.21:6881".parse().unwrap());
        assert!(!sockets[1].listens && sockets[1].leaves());
        assert!(sockets[2].is_open() && sockets[2].inode == 4444);
        assert!(
            !sockets[3].is_open(),
            "a mapped loopback address is loopback"
        );
    }

    proptest! {
        #[test]
        fn any_table_is_taken(text in "([0-9A-Fa-f:é ]{0,120}\n){0,5}") {
            parse(&text);
        }
    }
}
