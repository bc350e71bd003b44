//! What the parts of a jail have in common: its doors, and why it could not be had.

use std::io;
use std::os::fd::OwnedFd;

use super::message::Step;
use super::{Warden, hints};
use crate::error::Error;
use crate::net::os::{LocalListener, LocalUdp, RawReplies};

/// The jail's doors: sockets that were made inside, and are served out here.
#[derive(Debug)]
pub struct Inside {
    /// 127.0.0.1:1080 inside: SOCKS and HTTP.
    pub socks: LocalListener,
    /// 127.0.0.1:53 inside: the resolver.
    pub dns: LocalUdp,
    /// The port of 127.0.0.1 inside that was asked for.
    pub asked: Option<LocalListener>,
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
    /// Takes answers back, from whomever they come.
    pub replies: RawReplies,
}

/// A jail could not be had, or was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JailError {
    /// The system refused a step.
    #[error("{step:?} failed")]
    Refused {
        /// Which.
        step: Step,
        /// Its error number, 0 for none.
        errno: i32,
        /// Which part of it.
        detail: String,
    },
    /// It ended before it should.
    #[error("the jail ended unexpectedly")]
    Lost,
    /// As the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<JailError> for Error {
    fn from(error: JailError) -> Self {
        match error {
            JailError::Refused {
                step,
                errno,
                detail,
            } => hints::explain(step, errno, &detail, &hints::Facts::of_this_machine()),
            JailError::Lost => Self::local("the jail ended unexpectedly, and the program with it"),
            JailError::Io(error) => Self::local("can't make a jail").with_source(error),
        }
    }
}
