//! What SOCKS clients are told: replies of SOCKS5 (RFC 1928 §6, RFC 1929 §2) and of SOCKS4.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hushswarm_circuits::target::{Host, HostName, Target};

use super::request::BadRequest;
use crate::route::RouteError;

/// SOCKS5's reply codes (RFC 1928 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// It was done.
    Granted = 0,
    /// Something else went wrong; it may work when tried again.
    Failed = 1,
    /// A rule forbids it: ours, or those of all exits.
    Policy = 2,
    /// There is no circuit.
    NetworkUnreachable = 3,
    /// The exit can't reach the host, or there is no such name.
    HostUnreachable = 4,
    /// Nobody listens there.
    Refused = 5,
    /// No answer in time; Tor says it like this too.
    TimedOut = 6,
    /// BIND, a command that nobody knows, or datagrams where no way out carries any.
    Command = 7,
    /// An address of another type.
    AddressType = 8,
}

impl From<&RouteError> for Code {
    fn from(error: &RouteError) -> Self {
        match error {
            RouteError::Refused | RouteError::Forbidden(_) => Self::Policy,
            RouteError::NoCircuit(_) => Self::NetworkUnreachable,
            RouteError::NameNotFound | RouteError::Unreachable => Self::HostUnreachable,
            RouteError::ConnectionRefused => Self::Refused,
            RouteError::TimedOut => Self::TimedOut,
            RouteError::Busy | RouteError::CircuitLost => Self::Failed,
        }
    }
}

impl From<BadRequest> for Code {
    fn from(bad: BadRequest) -> Self {
        match bad {
            BadRequest::Command => Self::Command,
            BadRequest::AddressType => Self::AddressType,
            BadRequest::Version | BadRequest::Name | BadRequest::TooLong => Self::Failed,
        }
    }
}

/// The address of a reply that has none to tell.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// `VER METHOD` (RFC 1928 §3).
pub fn method(method: u8) -> [u8; 2] {
    [5, method]
}

/// `VER STATUS` (RFC 1929 §2).
pub fn password(accepted: bool) -> [u8; 2] {
    [1, u8::from(!accepted)]
}

/// `VER REP RSV ATYP BND.ADDR BND.PORT` (RFC 1928 §6) without an address.
pub fn socks5(code: Code) -> Vec<u8> {
    socks5_bound(code, NOWHERE)
}

/// The same with an address: where datagrams are taken, or what RESOLVE found.
pub fn socks5_bound(code: Code, addr: SocketAddr) -> Vec<u8> {
    let mut out = vec![5, code as u8, 0];
    put_endpoint(&mut out, &Target::ip(addr));
    out
}

/// The same with a name: what RESOLVE_PTR found.
pub fn socks5_named(name: HostName) -> Vec<u8> {
    let mut out = vec![5, Code::Granted as u8, 0];
    let host = Host::Name(name);
    put_endpoint(&mut out, &Target { host, port: 0 });
    out
}

/// `ATYP ADDR PORT` (RFC 1928 §5).
pub(super) fn put_endpoint(out: &mut Vec<u8>, target: &Target) {
    match &target.host {
        Host::Ip(IpAddr::V4(ip)) => {
            out.push(1);
            out.extend_from_slice(&ip.octets());
        }
        Host::Ip(IpAddr::V6(ip)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        Host::Name(name) => {
            let name = name.as_str().as_bytes();
            // A HostName has at most 255 bytes.
            out.extend_from_slice(&[3, name.len() as u8]);
            out.extend_from_slice(name);
        }
    }
    out.extend_from_slice(&target.port.to_be_bytes());
}

/// How SOCKS4 says that it was done, and what RESOLVE found: `VN CD DSTPORT DSTIP`.
pub fn socks4_granted(ip: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = ip.octets();
    [0, 0x5a, 0, 0, a, b, c, d]
}

/// How SOCKS4 says that it was not done.
pub fn socks4_rejected() -> [u8; 8] {
    [0, 0x5b, 0, 0, 0, 0, 0, 0]
}

/// How SOCKS4 says that it does not take this user, for it can't be asked for a password.
pub fn socks4_wrong_user() -> [u8; 8] {
    [0, 0x5d, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::policy::Reason;

    #[test]
    fn replies_are_those_of_the_rfc() {
        let table = [
            (RouteError::Refused, 2),
            (RouteError::Forbidden(Reason::PrivateAddress), 2),
            (RouteError::NoCircuit(String::new()), 3),
            (RouteError::NameNotFound, 4),
            (RouteError::Unreachable, 4),
            (RouteError::ConnectionRefused, 5),
            (RouteError::TimedOut, 6),
            (RouteError::CircuitLost, 1),
            (RouteError::Busy, 1),
        ];
        for (error, code) in table {
            let reply = socks5(Code::from(&error));
            assert_eq!(reply, [5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{error}");
        }
        assert_eq!(Code::from(BadRequest::Command) as u8, 7);
        assert_eq!(Code::from(BadRequest::AddressType) as u8, 8);
    }

    #[test]
    fn addresses_and_names_stand_in_replies() {
        let v6 = socks5_bound(Code::Granted, "[2001:db8::1]:80".parse().unwrap());
        assert_eq!(v6[..6], [5, 0, 0, 4, 0x20, 0x01]);
        assert_eq!(v6.len(), 3 + 1 + 16 + 2);
        let name = socks5_named(HostName::new("a.example").unwrap());
        assert_eq!(name, b"\x05\x00\x00\x03\x09a.example\x00\x00");
        assert_eq!(
            socks4_granted(Ipv4Addr::new(203, 0, 113, 7)),
            [0, 0x5a, 0, 0, 203, 0, 113, 7]
        );
    }
}
