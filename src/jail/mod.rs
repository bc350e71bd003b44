//! A jail for one program: namespaces with nothing in them but doors that are served from outside (Linux).

#[cfg(target_os = "linux")]
pub mod caught;
pub mod dns;
pub mod flows;
pub mod names;
pub mod publish;
pub mod renamed;
#[cfg(test)]
mod testing;
#[cfg(target_os = "linux")]
mod warden;

use std::os::fd::OwnedFd;

use crate::net::os::LocalListener;
#[cfg(target_os = "linux")]
pub use warden::Warden;

/// The jail's doors: sockets that were made inside, and are served out here.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct Inside {
    /// 127.0.0.1:1080 inside: SOCKS and HTTP.
    pub socks: LocalListener,
    /// 127.0.0.1:53 inside: the resolver.
    pub dns: crate::net::os::LocalUdp,
    /// What programs send elsewhere; `None` where the kernel can't catch it (no nf_tables): then it goes nowhere.
    pub caught: Option<Caught>,
    /// Makes more sockets inside.
    pub warden: Warden,
}

/// Transparent sockets that get whatever is sent to an address that isn't loopback.
#[derive(Debug)]
pub struct Caught {
    /// Every TCP connection over IPv4. `Accepted::to` is the address that the program meant.
    pub tcp4: LocalListener,
    /// The same over IPv6; `None` where the kernel has none.
    pub tcp6: Option<LocalListener>,
    /// Every UDP datagram over IPv4, with `IP_RECVORIGDSTADDR` set; not blocking.
    pub udp4: OwnedFd,
    /// The same over IPv6, with `IPV6_RECVORIGDSTADDR` set.
    pub udp6: Option<OwnedFd>,
}
