//! What the outer side and the jail's inner stages say to each other over their channel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl Ended {
    /// What a shell calls it: the code, or 128 and the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128_i32.saturating_add(signal)).unwrap_or(u8::MAX),
        }
    }
}

/// A step of building the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// New namespaces.
    Namespaces,
    /// Who this user is inside.
    Identity,
    /// The process that keeps the jail.
    Warden,
    /// Loopback and its addresses.
    Network,
    /// A fresh `/proc`.
    Proc,
    /// Everything else that is covered.
    Mounts,
    /// The sockets that are handed out.
    Doors,
    /// The program itself.
    Program,
}

/// From inside to the outer side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Inward {
    /// The jail stands; the descriptors are its doors, in the order of `Doors`.
    Ready(Doors),
    /// It could not be built.
    Failed {
        /// What was being done.
        step: Step,
        /// The system's error number, 0 for none.
        errno: i32,
        /// More, for the user.
        detail: String,
    },
    /// The socket that was asked for (one descriptor), or else the system's error number.
    Made(Option<i32>),
    /// The program has ended.
    Ended {
        /// How.
        how: Ended,
        /// Whether processes that it had started were still there.
        others: bool,
    },
}

/// Which doors come with [`Inward::Ready`]: always SOCKS (TCP) and the resolver (UDP); then, where
/// anything is caught, two raw sockets for answers (IPv4, IPv6), and TCP and UDP of each of these families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doors {
    /// Catching TCP and UDP over IPv4.
    pub caught4: bool,
    /// Catching TCP and UDP over IPv6.
    pub caught6: bool,
}

/// From the outer side to the warden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outward {
    /// Build the jail; the descriptors are standard input, output and error of the program.
    Build {
        /// Catch what is sent to addresses, not only what is asked of the proxy.
        catch: bool,
        /// Wait for every process that the program leaves behind.
        linger: bool,
        /// Listen at this port of 127.0.0.1 too: one more door, after the resolver.
        listen: Option<u16>,
    },
    /// Start the program: its doors are being served.
    Start,
    /// Make a UDP socket bound to this address.
    Udp(SocketAddr),
    /// Connect to this port of loopback.
    Connect(u16),
    /// The same, from this loopback address.
    ConnectFrom(Ipv4Addr, u16),
    /// Pass this signal on to the program.
    Signal(i32),
}

/// Bytes of a message.
///
/// # Errors
/// Never, for the messages above.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(message)?)
}

/// Reads a message.
///
/// # Errors
/// It is none (`InvalidData`), or empty because the other end is gone (`UnexpectedEof`).
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Borrows descriptors, to be sent.
pub(super) fn borrowed(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_from_128() {
        assert_eq!(Ended::Code(7).code(), 7);
        assert_eq!(Ended::Signal(15).code(), 143);
        assert_eq!(Ended::Signal(64).code(), 192);
        assert_eq!(Ended::Signal(i32::MAX).code(), 255);
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let udp = Outward::Udp("[fd00::1]:53".parse().unwrap());
        assert_eq!(decode::<Outward>(&encode(&udp).unwrap()).unwrap(), udp);
        let failed = Inward::Failed {
            step: Step::Proc,
            errno: 1,
            detail: "x".to_owned(),
        };
        assert_eq!(decode::<Inward>(&encode(&failed).unwrap()).unwrap(), failed);
        let gone = decode::<Inward>(&[]).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = decode::<Inward>(&bytes);
            let _ = decode::<Outward>(&bytes);
        }
    }
}
