//! Lookups of an exit: names by the system's resolver, addresses by asking the system's nameservers, for which the
//! standard library has nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hushswarm_circuits::target::HostName;
use rand::RngExt as _;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;

use super::{ExitPermit, within};
use crate::net::dns::{Reply, ptr_query, ptr_reply};

/// Where the system's nameservers are written (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Bytes of that file that are read.
const MAX_CONF: u64 = 64 * 1024;
/// Nameservers that are asked, as resolv.conf(5) says.
const MAX_SERVERS: usize = 3;
/// How long one nameserver may take: all three together stay within the time in which a stream must be open.
const SERVER_TIMEOUT: Duration = Duration::from_secs(4);
/// Replies to one query that are looked at: forged ones must not keep a lookup busy.
const MAX_REPLIES: usize = 64;
/// Longest reply that is read, bytes. The query asks for no more than 512 (RFC 1035, 4.2.1); a longer one is cut and so refused.
const MAX_REPLY: usize = 2048;
/// The port of nameservers.
const PORT: u16 = 53;

/// What the system's resolver calls a name that does not exist, or has no address. It has no numbers that the standard
/// library would show, and no translations, since nothing here sets a locale: glibc, musl and BSD.
const MISSING: [&str; 4] = [
    "not known",
    "No address associated",
    "does not resolve",
    "no usable address",
];

impl ExitPermit {
    /// Asks the system's resolver (which looks into `/etc/hosts` too) for a name's addresses. It may take half a minute.
    ///
    /// # Errors
    /// `NotFound`: there is no such name, or it has no address. Anything else: the resolver could not tell.
    pub async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await.map_err(|error| {
            let said = error.to_string();
            if MISSING.iter().any(|words| said.contains(words)) {
                io::ErrorKind::NotFound.into()
            } else {
                error
            }
        })?;
        Ok(found.map(|addr| addr.ip()).collect())
    }

    /// Asks the system's nameservers for an address's name, and for how many seconds it may be kept. It takes
    /// at most 12 s.
    ///
    /// # Errors
    /// `NotFound`: the address has no name. Anything else: no nameserver could tell.
    pub async fn resolve_ptr(&self, ip: IpAddr) -> io::Result<(HostName, u32)> {
        let mut last = io::ErrorKind::TimedOut.into();
        for server in nameservers().await {
            match within(SERVER_TIMEOUT, ask(server, ip)).await {
                Ok(Reply::Name(name, ttl)) => return Ok((name, ttl)),
                Ok(Reply::Missing) => return Err(io::ErrorKind::NotFound.into()),
                Ok(Reply::Failed) => last = io::Error::other("the nameserver could not tell"),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Sends one query from a socket of its own, so that each has another port, and waits for its reply.
async fn ask(server: SocketAddr, ip: IpAddr) -> io::Result<Reply> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // From now on the system passes on what comes from the server's address and port, and nothing else.
    socket.connect(server).await?;
    let query = ptr_query(rand::rng().random(), ip).ok_or(io::ErrorKind::InvalidInput)?;
    socket.send(&query).await?;
    let mut reply = vec![0; MAX_REPLY];
    for _ in 0..MAX_REPLIES {
        let len = socket.recv(&mut reply).await?;
        if let Some(reply) = ptr_reply(&query, &reply[..len]) {
            return Ok(reply);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The system's nameservers, as they are now.
async fn nameservers() -> Vec<SocketAddr> {
    let mut text = Vec::new();
    if let Ok(file) = tokio::fs::File::open(RESOLV_CONF).await {
        // What could not be read names no server.
        let _ = file.take(MAX_CONF).read_to_end(&mut text).await;
    }
    servers_in(&String::from_utf8_lossy(&text))
}

/// The nameservers of a resolv.conf(5); without any, the one of this computer.
fn servers_in(text: &str) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let server = words.next().filter(|&word| word == "nameserver");
            // One with a zone ("%eth0") is left out: link-local servers are a home's, not an exit's.
            server.and(words.next())?.parse::<IpAddr>().ok()
        })
        .map(|ip| SocketAddr::new(ip, PORT))
        .take(MAX_SERVERS)
        .collect();
    if found.is_empty() {
        found.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nameservers_are_read_as_the_system_reads_them() {
        let text = "# nameserver 192.0.2.1\n; comment\nsearch example\n\
            nameserver 192.0.2.2\n  nameserver\t2001:db8::1  # first\nnameserver\n\
            nameserver fe80::1%eth0\nnameserver nonsense\nnameservers 192.0.2.3\n\
            options timeout:1\nnameserver 127.0.0.53\nnameserver 192.0.2.9\n";
        let expected = ["192.0.2.2:53", "[2001:db8::1]:53", "127.0.0.53:53"];
        assert_eq!(servers_in(text), addrs(&expected));
        assert_eq!(servers_in(""), addrs(&["127.0.0.1:53"]));
    }

    proptest! {
        #[test]
        fn no_file_gives_none_or_too_many(text in "([a-z0-9:.#; \t\n]|nameserver |\n){0,80}") {
            prop_assert!((1..=MAX_SERVERS).contains(&servers_in(&text).len()));
        }
    }
}
