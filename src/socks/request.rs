//! What SOCKS clients say: SOCKS5 (RFC 1928), its user names and passwords (RFC 1929), SOCKS4 and SOCKS4a (as OpenSSH's
//! and NEC's documents have it), and Tor's commands to look names up (socks-extensions.txt).
//!
//! Every function takes the bytes that have come so far and gives what they say and how many of them it took, or `None`
//! while something is missing. Nothing here is longer than [`MAX_REQUEST`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hushswarm_circuits::target::{Host, Target};

use crate::redact::Redacted;

/// The longest message of a SOCKS client, bytes: SOCKS4a with a user name and a host name of 255 bytes each.
pub const MAX_REQUEST: usize = 8 + 256 + 256;

/// SOCKS5's "no authentication" (RFC 1928 §3).
pub const METHOD_NONE: u8 = 0x00;
/// SOCKS5's "user name and password" (RFC 1928 §3).
pub const METHOD_PASSWORD: u8 = 0x02;
/// Nothing that the client offers is enough (RFC 1928 §3).
pub const METHOD_REFUSED: u8 = 0xff;

const SOCKS4: u8 = 4;
const SOCKS5: u8 = 5;
/// Version of RFC 1929's messages.
const PASSWORD_VERSION: u8 = 1;
/// Longest user name and host name of SOCKS4, bytes without the zero behind them. RFC 1929 and RFC 1928 have the same.
const MAX_TEXT: usize = 255;

/// What a message says and its length, bytes; `None` while bytes are missing.
pub type Parsed<T> = Result<Option<(T, usize)>, BadRequest>;

/// What a connection speaks, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SOCKS4 or SOCKS4a.
    Socks4,
    /// SOCKS5.
    Socks5,
    /// HTTP, whose methods are capital letters.
    Http,
}

impl Protocol {
    /// Tells the protocol; `None` is something else: close, and say nothing.
    pub fn of(first: u8) -> Option<Self> {
        match first {
            SOCKS4 => Some(Self::Socks4),
            SOCKS5 => Some(Self::Socks5),
            b'A'..=b'Z' => Some(Self::Http),
            _ => None,
        }
    }
}

/// A request that can't be served, whatever is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// Not the version that the connection began with.
    #[error("wrong version")]
    Version,
    /// A command that is not served, BIND among them.
    #[error("command not supported")]
    Command,
    /// Neither an address nor a name.
    #[error("address type not supported")]
    AddressType,
    /// Not a host name.
    #[error("not a host name")]
    Name,
    /// Longer than such a message ever is.
    #[error("too long")]
    TooLong,
}

/// Who asks, as it says itself. Never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name; of SOCKS4, the user id.
    pub user: Redacted<Vec<u8>>,
    /// Password; empty with SOCKS4.
    pub password: Redacted<Vec<u8>>,
}

impl Credentials {
    /// Takes both.
    pub fn new(user: impl Into<Vec<u8>>, password: impl Into<Vec<u8>>) -> Self {
        Self {
            user: Redacted::new(user.into()),
            password: Redacted::new(password.into()),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A connection to a target.
    Connect(Target),
    /// A UDP association; the port that its datagrams come from, where the client says so.
    Associate(Option<u16>),
    /// Tor's RESOLVE: the addresses of a host.
    Resolve(Host),
    /// Tor's RESOLVE_PTR: the name of an address.
    ResolvePtr(IpAddr),
}

/// Takes bytes from the front of a message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// A byte of length, and so many bytes.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.byte()?;
        self.take(usize::from(len))
    }

    /// Bytes up to a zero, which is taken too.
    fn text(&mut self) -> Result<Option<&'a [u8]>, BadRequest> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.iter().take(MAX_TEXT + 1).position(|&byte| byte == 0) {
            Some(len) => {
                self.at += len + 1;
                Ok(rest.get(..len))
            }
            None if rest.len() > MAX_TEXT => Err(BadRequest::TooLong),
            None => Ok(None),
        }
    }
}

/// Leaves the function with `Ok(None)` where bytes are missing.
macro_rules! need {
    ($what:expr) => {
        match $what {
            Some(found) => found,
            None => return Ok(None),
        }
    };
}

fn version(reader: &mut Reader<'_>, expected: u8) -> Result<Option<()>, BadRequest> {
    match reader.byte() {
        Some(found) if found == expected => Ok(Some(())),
        Some(_) => Err(BadRequest::Version),
        None => Ok(None),
    }
}

fn host_of(name: &[u8]) -> Result<Host, BadRequest> {
    let name = std::str::from_utf8(name).map_err(|_| BadRequest::Name)?;
    // Also where the text is that of an address.
    Target::parse(name, 0)
        .map(|target| target.host)
        .map_err(|_| BadRequest::Name)
}

/// `VER NMETHODS METHODS` (RFC 1928 §3): the methods that a SOCKS5 client offers.
///
/// # Errors
/// Another version: close.
pub fn methods(bytes: &[u8]) -> Parsed<Vec<u8>> {
    let mut reader = Reader::new(bytes);
    need!(version(&mut reader, SOCKS5)?);
    let methods = need!(reader.counted());
    Ok(Some((methods.to_vec(), reader.at)))
}

/// `VER ULEN UNAME PLEN PASSWD` (RFC 1929 §2).
///
/// # Errors
/// Another version: close.
pub fn password(bytes: &[u8]) -> Parsed<Credentials> {
    let mut reader = Reader::new(bytes);
    need!(version(&mut reader, PASSWORD_VERSION)?);
    let user = need!(reader.counted());
    let password = need!(reader.counted());
    Ok(Some((Credentials::new(user, password), reader.at)))
}

/// `VER CMD RSV ATYP DST.ADDR DST.PORT` (RFC 1928 §4).
///
/// # Errors
/// What to answer; then close.
pub fn socks5(bytes: &[u8]) -> Parsed<Request> {
    let mut reader = Reader::new(bytes);
    need!(version(&mut reader, SOCKS5)?);
    let command = need!(reader.byte());
    if !matches!(command, 1 | 3 | 0xf0 | 0xf1) {
        return Err(BadRequest::Command);
    }
    // Reserved; what is in it means nothing.
    need!(reader.byte());
    let kind = need!(reader.byte());
    let host = need!(address(&mut reader, kind)?);
    let port = u16::from_be_bytes(need!(reader.array()));
    let request = match (command, host) {
        (1, host) => Request::Connect(Target { host, port }),
        (3, _) => Request::Associate((port != 0).then_some(port)),
        (0xf0, host) => Request::Resolve(host),
        (0xf1, Host::Ip(ip)) => Request::ResolvePtr(ip),
        (_, _) => return Err(BadRequest::AddressType),
    };
    Ok(Some((request, reader.at)))
}

/// An address of SOCKS5 after its type byte (RFC 1928 §5).
fn address(reader: &mut Reader<'_>, kind: u8) -> Result<Option<Host>, BadRequest> {
    Ok(Some(match kind {
        1 => Host::Ip(Ipv4Addr::from(need!(reader.array::<4>())).into()),
        3 => host_of(need!(reader.counted()))?,
        4 => Host::Ip(Ipv6Addr::from(need!(reader.array::<16>())).into()),
        _ => return Err(BadRequest::AddressType),
    }))
}

/// `ATYP ADDR PORT` at the front of `bytes`, as in requests and in the header of datagrams (RFC 1928 §5, §7); gives its
/// length too.
pub(super) fn endpoint(bytes: &[u8]) -> Parsed<Target> {
    let mut reader = Reader::new(bytes);
    let kind = need!(reader.byte());
    let host = need!(address(&mut reader, kind)?);
    let port = u16::from_be_bytes(need!(reader.array()));
    Ok(Some((Target { host, port }, reader.at)))
}

/// `VN CD DSTPORT DSTIP USERID 0`, with SOCKS4a's `NAME 0` behind it where the address is 0.0.0.x.
///
/// # Errors
/// What to answer; then close.
pub fn socks4(bytes: &[u8]) -> Parsed<(Request, Credentials)> {
    let mut reader = Reader::new(bytes);
    need!(version(&mut reader, SOCKS4)?);
    let command = need!(reader.byte());
    if !matches!(command, 1 | 0xf0) {
        return Err(BadRequest::Command);
    }
    let port = u16::from_be_bytes(need!(reader.array()));
    let ip = need!(reader.array::<4>());
    let user = Credentials::new(need!(reader.text()?), []);
    let host = match ip {
        [0, 0, 0, last] if last != 0 => host_of(need!(reader.text()?))?,
        ip => Host::Ip(Ipv4Addr::from(ip).into()),
    };
    let request = if command == 1 {
        Request::Connect(Target { host, port })
    } else {
        Request::Resolve(host)
    };
    Ok(Some(((request, user), reader.at)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(host: &str, port: u16) -> Target {
        Target::parse(host, port).unwrap()
    }

    /// What a parser says of every cut of a message: nothing before it is whole, and then always the same.
    fn whole<T: PartialEq + std::fmt::Debug>(parse: fn(&[u8]) -> Parsed<T>, message: &[u8]) -> T {
        for cut in 0..message.len() {
            assert_eq!(parse(&message[..cut]), Ok(None), "cut at {cut}");
        }
        let followed = [message, b"more"].concat();
        let (said, used) = parse(&followed).unwrap().unwrap();
        assert_eq!(used, message.len());
        said
    }

    #[test]
    fn the_first_byte_tells_the_protocol() {
        assert_eq!(Protocol::of(4), Some(Protocol::Socks4));
        assert_eq!(Protocol::of(5), Some(Protocol::Socks5));
        assert_eq!(Protocol::of(b'C'), Some(Protocol::Http));
        for other in [0, 1, 3, 6, 0x16, b'c', b' ', 0x80, 0xff] {
            assert_eq!(Protocol::of(other), None);
        }
    }

    #[test]
    fn methods_and_passwords_are_read() {
        assert_eq!(whole(methods, &[5, 2, 0, 2]), [0, 2]);
        assert_eq!(whole(methods, &[5, 0]), Vec::<u8>::new());
        assert_eq!(methods(&[4, 1, 0]), Err(BadRequest::Version));
        let said = whole(password, b"\x01\x05alice\x06secret");
        assert_eq!(said, Credentials::new(*b"alice", *b"secret"));
        assert_eq!(whole(password, &[1, 0, 0]), Credentials::new([], []));
        assert_eq!(password(&[5, 0, 0]), Err(BadRequest::Version));
    }

    #[test]
    fn socks5_requests_name_addresses_and_names() {
        let v4 = [5, 1, 0, 1, 203, 0, 113, 7, 0x1a, 0xe1];
        assert_eq!(
            whole(socks5, &v4),
            Request::Connect(target("203.0.113.7", 6881))
        );
        let mut v6 = vec![5, 1, 0, 4];
        v6.extend_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend_from_slice(&[0, 80]);
        assert_eq!(
            whole(socks5, &v6),
            Request::Connect(target("2001:db8::1", 80))
        );
        let name = b"\x05\x01\x00\x03\x0btracker.org\x00\x50";
        assert_eq!(
            whole(socks5, name),
            Request::Connect(target("tracker.org", 80))
        );
        // An address in the place of a name is still an address.
        let text = b"\x05\x01\x00\x03\x07::1.2.3\x00\x50";
        assert_eq!(socks5(text), Err(BadRequest::Name));
        let text = b"\x05\x01\x00\x03\x0810.0.0.1\x00\x50";
        assert!(matches!(socks5(text), Ok(Some(_))));
    }

    #[test]
    fn the_other_commands_of_socks5_are_told_apart() {
        let any = |command: u8, port: u16| {
            let [high, low] = port.to_be_bytes();
            vec![5, command, 0, 1, 0, 0, 0, 0, high, low]
        };
        assert_eq!(whole(socks5, &any(3, 0)), Request::Associate(None));
        assert_eq!(whole(socks5, &any(3, 6881)), Request::Associate(Some(6881)));
        let ip = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(whole(socks5, &any(0xf0, 0)), Request::Resolve(Host::Ip(ip)));
        assert_eq!(whole(socks5, &any(0xf1, 0)), Request::ResolvePtr(ip));
        for other in [0, 2, 4, 0xef, 0xf2, 0xff] {
            assert_eq!(socks5(&any(other, 0)), Err(BadRequest::Command));
        }
        let name = b"\x05\xf1\x00\x03\x01a\x00\x00";
        assert_eq!(socks5(name), Err(BadRequest::AddressType));
        for kind in [0, 2, 5, 0xff] {
            assert_eq!(socks5(&[5, 1, 0, kind]), Err(BadRequest::AddressType));
        }
        for name in [&b""[..], b"a b", b"\xff"] {
            let mut request = vec![5, 1, 0, 3, name.len() as u8];
            request.extend_from_slice(name);
            assert_eq!(socks5(&request), Err(BadRequest::Name));
        }
    }

    #[test]
    fn socks4_requests_name_addresses_and_names_and_users() {
        let v4 = b"\x04\x01\x00\x50\xcb\x00\x71\x07alice\0";
        let (request, user) = whole(socks4, v4);
        assert_eq!(request, Request::Connect(target("203.0.113.7", 80)));
        assert_eq!(user, Credentials::new(*b"alice", []));
        let v4a = b"\x04\x01\x00\x50\x00\x00\x00\x01\0tracker.org\0";
        let (request, user) = whole(socks4, v4a);
        assert_eq!(request, Request::Connect(target("tracker.org", 80)));
        assert_eq!(user, Credentials::new([], []));
        let resolve = b"\x04\xf0\x00\x00\x00\x00\x00\x01\0tracker.org\0";
        let host = target("tracker.org", 0).host;
        assert_eq!(whole(socks4, resolve).0, Request::Resolve(host));
        assert_eq!(socks4(&[4, 2]), Err(BadRequest::Command));
        assert_eq!(socks4(&[5, 1]), Err(BadRequest::Version));
    }

    #[test]
    fn text_without_an_end_is_given_up_when_it_is_too_long() {
        let mut request = b"\x04\x01\x00\x50\x00\x00\x00\x01".to_vec();
        request.extend_from_slice(&[b'a'; MAX_TEXT]);
        assert_eq!(socks4(&request), Ok(None));
        request.push(b'a');
        assert_eq!(socks4(&request), Err(BadRequest::TooLong));
    }

    proptest! {
        #[test]
        fn a_message_is_whole_within_the_limit_or_refused(bytes in prop::collection::vec(any::<u8>(), MAX_REQUEST)) {
            for first in [1, 4, 5] {
                let mut bytes = bytes.clone();
                bytes[0] = first;
                prop_assert_ne!(methods(&bytes), Ok(None));
                prop_assert_ne!(password(&bytes), Ok(None));
                prop_assert_ne!(socks5(&bytes), Ok(None));
                prop_assert_ne!(socks4(&bytes), Ok(None));
            }
        }

        #[test]
        fn more_bytes_never_change_what_was_said(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0usize..600) {
            let front = &bytes[..cut.min(bytes.len())];
            {
                let parse = socks5 as fn(&[u8]) -> Parsed<Request>;
                let early = parse(front);
                if early != Ok(None) {
                    prop_assert_eq!(early, parse(&bytes));
                }
            }
            let early = socks4(front);
            if early != Ok(None) {
                prop_assert_eq!(early, socks4(&bytes));
            }
        }
    }

    #[test]
    fn nobody_is_shown() {
        let shown = format!("{:?}", Credentials::new(*b"alice", *b"secret"));
        assert!(!shown.contains("alice") && !shown.contains("97"), "{shown}");
    }
}
