//! The resolver inside a jail: it answers every question itself and sends nothing to the world but reverse lookups, which
//! go the same way as everything else.
//!
//! | asked for | answer |
//! |---|---|
//! | A, ANY of a name | a virtual address ([`names`](super::names)); whether the name exists shows when it is used |
//! | every other type (AAAA, HTTPS, SVCB, TXT, SRV, MX, ...) of a name | none of that type (NOERROR without records) |
//! | A, AAAA of `localhost` and of the jail's own host name | 127.0.0.1, `::1` |
//! | names that mean nothing in the world ([`Place`]) | NXDOMAIN |
//! | PTR of a virtual or loopback address | the name that it stands for |
//! | PTR of a public address | what [`Outside::resolve_ptr`] says |
//! | PTR of any other address | NXDOMAIN |
//! | AXFR, IXFR, MAILA, MAILB, opcodes besides QUERY | NOTIMP |
//! | classes besides IN | REFUSED |
//! | all addresses given out lately | SERVFAIL |
//! | what can't be read | FORMERR; shorter than a header, or itself an answer: nothing |
//!
//! There are no virtual IPv6 addresses: a program that asks for both families goes on with IPv4 at once, and no real
//! program asks for IPv6 alone unless it is told to (`curl -6`), in which case it hears that there is none. `.onion` names
//! get an address like all others; the routing policy decides what becomes of them. An answer from the world never becomes an
//! address for the program to connect to, so DNS rebinding can't happen: what a name resolves to is only ever seen by the
//! exit, which connects to public addresses alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::relay_list::is_global;
use hushswarm_circuits::target::{Host, HostName};
use simple_dns::rdata::{A, AAAA, OPT, PTR, RData};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE};
use simple_dns::{ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::names::{SharedNames, is_virtual};
use crate::net::ByteStream;
use crate::net::os::LocalUdp;
use crate::route::special::Place;
use crate::route::{Outside, RouteError};

/// How long a program may keep an answer, seconds. Short, since it costs nothing to ask again.
pub const TTL: u32 = 60;
/// The longest query that is read, bytes: what fits an Ethernet packet, which is also what EDNS answers advertise.
pub const MAX_QUERY: usize = 1232;
/// Length of a message's header, bytes (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// Additional records that a query may have: EDNS, a signature, and some room.
const MAX_ADDITIONAL: u16 = 4;
/// Reverse lookups at once; more are answered SERVFAIL.
const MAX_LOOKUPS: usize = 16;
/// How long a reverse lookup may take: programs have given up by then.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);
/// A TCP connection without a question ends after this time (RFC 7766 §6.2.3 asks for seconds).
const TCP_IDLE: Duration = Duration::from_secs(20);

/// What a query comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not worth an answer.
    Drop,
    /// The answer, ready to be sent. Never longer than 512 bytes, so it fits every datagram.
    Answer(Vec<u8>),
    /// The question is whose address this is; ask outside.
    WhoIs(IpAddr),
}

/// What stands in an answer.
enum Content {
    Nothing(RCODE),
    Address(IpAddr),
    Owner(HostName),
}

/// Reads the header's counts: the parser reserves memory for as many records.
fn readable(query: &[u8]) -> Option<Packet<'_>> {
    let word = |at: usize| Some(u16::from_be_bytes(*query.get(at..)?.first_chunk()?));
    let counts = (word(4)?, word(6)?, word(8)?);
    (counts == (1, 0, 0) && word(10)? <= MAX_ADDITIONAL && query.len() <= MAX_QUERY)
        .then(|| Packet::parse(query).ok())?
}

/// An answer without question or records, for what can't be read.
fn bare(query: &[u8], code: RCODE) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(*query.first_chunk()?);
    let mut answer = Packet::new_reply(id);
    *answer.rcode_mut() = code;
    answer.build_bytes_vec().ok()
}

/// Answers a query that was read.
fn answer(query: &Packet<'_>, content: Content) -> Option<Vec<u8>> {
    let mut answer = Packet::new_reply(query.id());
    *answer.opcode_mut() = query.opcode();
    answer.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        answer.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    *answer.opt_mut() = query.opt().map(|_| OPT {
        opt_codes: Vec::new(),
        udp_packet_size: MAX_QUERY as u16,
        version: 0,
    });
    let question = query.questions.first()?;
    answer.questions.push(question.clone());
    let owner;
    let data = match content {
        Content::Nothing(code) => {
            *answer.rcode_mut() = code;
            None
        }
        Content::Address(IpAddr::V4(ip)) => Some(RData::A(A::from(ip))),
        Content::Address(IpAddr::V6(ip)) => Some(RData::AAAA(AAAA::from(ip))),
        Content::Owner(name) => {
            owner = name;
            Some(RData::PTR(PTR(Name::new(owner.as_str()).ok()?)))
        }
    };
    answer
        .answers
        .extend(data.map(|data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data)));
    answer.build_bytes_vec_compressed().ok()
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` asks about.
fn reverse(labels: &[&[u8]]) -> Option<IpAddr> {
    let suffix = |zone: [&[u8]; 2]| {
        let (digits, last) = labels.split_last_chunk::<2>()?;
        let matches = last
            .iter()
            .zip(zone)
            .all(|(a, b)| a.eq_ignore_ascii_case(b));
        matches.then_some(digits)
    };
    if let Some(digits) = suffix([b"in-addr", b"arpa"]) {
        let mut octets = [0; 4];
        let parts: &[&[u8]; 4] = digits.try_into().ok()?;
        for (octet, part) in octets.iter_mut().rev().zip(parts) {
            *octet = std::str::from_utf8(part).ok()?.parse().ok()?;
        }
        return Some(Ipv4Addr::from(octets).into());
    }
    let digits: &[&[u8]; 32] = suffix([b"ip6", b"arpa"])?.try_into().ok()?;
    let mut bits = 0;
    for digit in digits.iter().rev() {
        let [digit] = **digit else { return None };
        bits = bits << 4 | u128::from(char::from(digit).to_digit(16)?);
    }
    Some(Ipv6Addr::from(bits).into())
}

/// Whether a name, in lower case, is `zone` or below it.
fn is_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// What a query comes to. `own` is the jail's host name.
pub fn decide(names: &SharedNames, own: &str, query: &[u8]) -> Decision {
    let is_query = query.len() >= HEADER && query.get(2).is_some_and(|flags| flags & 0x80 == 0);
    if !is_query {
        return Decision::Drop;
    }
    let ready = |bytes: Option<Vec<u8>>| bytes.map_or(Decision::Drop, Decision::Answer);
    let Some(packet) = readable(query) else {
        return ready(bare(query, RCODE::FormatError));
    };
    let content = match content(names, own, &packet) {
        Ok(content) => content,
        Err(ip) => return Decision::WhoIs(ip),
    };
    ready(answer(&packet, content))
}

/// What to answer; an error is an address that has to be asked about outside.
fn content(names: &SharedNames, own: &str, packet: &Packet<'_>) -> Result<Content, IpAddr> {
    let nothing = |code| Ok(Content::Nothing(code));
    let Some(question) = packet.questions.first() else {
        return nothing(RCODE::FormatError);
    };
    if packet.opcode() != OPCODE::StandardQuery {
        return nothing(RCODE::NotImplemented);
    }
    if packet.opt().is_some_and(|opt| opt.version > 0) {
        return nothing(RCODE::BADVERS);
    }
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
        return nothing(RCODE::Refused);
    }
    let kind = match question.qtype {
        QTYPE::TYPE(kind) => kind,
        // One record is enough (RFC 8482).
        QTYPE::ANY => TYPE::A,
        QTYPE::IXFR | QTYPE::AXFR | QTYPE::MAILA | QTYPE::MAILB => {
            return nothing(RCODE::NotImplemented);
        }
    };
    let labels: Vec<&[u8]> = question.qname.as_bytes().collect();
    if kind == TYPE::PTR
        && let Some(ip) = reverse(&labels)
    {
        return owner(names, ip);
    }
    // A label with a dot in it is not the same as two labels.
    let name = std::str::from_utf8(&labels.join(&b'.'))
        .ok()
        .filter(|_| labels.iter().all(|label| !label.contains(&b'.')))
        .and_then(|name| HostName::new(&name.to_ascii_lowercase()).ok());
    let Some(name) = name else {
        return nothing(RCODE::NameError);
    };
    let text = name.as_str();
    if is_below(text, "localhost") || text.eq_ignore_ascii_case(own) {
        return if kind == TYPE::A {
            Ok(Content::Address(Ipv4Addr::LOCALHOST.into()))
        } else if kind == TYPE::AAAA {
            Ok(Content::Address(Ipv6Addr::LOCALHOST.into()))
        } else {
            nothing(RCODE::NoError)
        };
    }
    // A resolver says so at once (RFC 6761 §6.4).
    if is_below(text, "invalid") {
        return nothing(RCODE::NameError);
    }
    match Place::of(&Host::Name(name.clone())) {
        Place::World | Place::Onion => {}
        Place::PrivateAddress
        | Place::LocalName
        | Place::NoAddress
        | Place::Hidden
        | Place::NoName
        | Place::Disguised => return nothing(RCODE::NameError),
    }
    if kind != TYPE::A {
        return nothing(RCODE::NoError);
    }
    Ok(match names.give(&name) {
        Ok(ip) => Content::Address(ip.into()),
        Err(_) => Content::Nothing(RCODE::ServerFailure),
    })
}

fn owner(names: &SharedNames, ip: IpAddr) -> Result<Content, IpAddr> {
    let found = if is_virtual(ip) {
        names.name(ip)
    } else if ip.is_loopback() {
        HostName::new("localhost").ok()
    } else if is_global(ip) {
        return Err(ip);
    } else {
        None
    };
    Ok(found.map_or(Content::Nothing(RCODE::NameError), Content::Owner))
}

/// The resolver of one jail.
pub struct Resolver {
    names: SharedNames,
    own: String,
    outside: Arc<dyn Outside>,
    isolation: Isolation,
    lookups: Semaphore,
}

impl Resolver {
    /// A resolver that gives out addresses of `names`, knows the jail's host name, and asks whose an address is through
    /// `outside`.
    pub fn new(
        names: SharedNames,
        own: String,
        outside: Arc<dyn Outside>,
        isolation: Isolation,
    ) -> Arc<Self> {
        Arc::new(Self {
            names,
            own,
            outside,
            isolation,
            lookups: Semaphore::new(MAX_LOOKUPS),
        })
    }

    /// What a query comes to, as far as that is known at once.
    pub fn decide(&self, query: &[u8]) -> Decision {
        decide(&self.names, &self.own, query)
    }

    /// Answers a query; `None` where no answer is due.
    pub async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let ip = match self.decide(query) {
            Decision::Drop => return None,
            Decision::Answer(bytes) => return Some(bytes),
            Decision::WhoIs(ip) => ip,
        };
        let found = match self.lookups.try_acquire() {
            Ok(_place) => {
                let asked = self.outside.resolve_ptr(ip, self.isolation);
                let found = timeout(LOOKUP_TIMEOUT, asked).await;
                found.unwrap_or(Err(RouteError::TimedOut))
            }
            Err(_) => Err(RouteError::TimedOut),
        };
        let content = match found {
            Ok(name) => Content::Owner(name),
            Err(RouteError::NameNotFound) => Content::Nothing(RCODE::NameError),
            Err(RouteError::Refused) => Content::Nothing(RCODE::Refused),
            Err(_) => Content::Nothing(RCODE::ServerFailure),
        };
        let packet = readable(query)?;
        // A name that is no DNS name can't be told.
        answer(&packet, content).or_else(|| answer(&packet, Content::Nothing(RCODE::ServerFailure)))
    }

    /// Serves a socket until the future is dropped.
    pub async fn serve(self: Arc<Self>, socket: LocalUdp) {
        let socket = Arc::new(socket);
        let mut lookups = JoinSet::new();
        let mut buf = vec![0; MAX_QUERY + 1];
        loop {
            // An unreachable asker answers with an error here; there are others.
            let Ok((len, from)) = socket.recv_from(&mut buf).await else {
                tokio::task::yield_now().await;
                continue;
            };
            while lookups.try_join_next().is_some() {}
            match self.decide(&buf[..len]) {
                Decision::Drop => {}
                Decision::Answer(bytes) => drop(socket.send_to(&bytes, from).await),
                Decision::WhoIs(_) => {
                    if lookups.len() < 2 * MAX_LOOKUPS {
                        let (resolver, socket) = (Arc::clone(&self), Arc::clone(&socket));
                        let query = buf[..len].to_vec();
                        lookups.spawn(async move {
                            if let Some(bytes) = resolver.answer(&query).await {
                                drop(socket.send_to(&bytes, from).await);
                            }
                        });
                    }
                }
            }
        }
    }

    /// Answers questions on a TCP connection (RFC 1035 §4.2.2: each message after its length in two bytes) until it ends,
    /// is silent or breaks the format.
    pub async fn serve_stream(&self, mut stream: impl ByteStream) {
        let mut query = vec![0; MAX_QUERY];
        loop {
            let read = async {
                let len = usize::from(stream.read_u16().await.ok()?);
                let query = query.get_mut(..len)?;
                stream.read_exact(query).await.ok().map(|_| len)
            };
            let Ok(Some(len)) = timeout(TCP_IDLE, read).await else {
                break;
            };
            let Some(bytes) = self.answer(&query[..len]).await else {
                break;
            };
            let mut message = (bytes.len() as u16).to_be_bytes().to_vec();
            message.extend_from_slice(&bytes);
            if !matches!(
                timeout(TCP_IDLE, stream.write_all(&message)).await,
                Ok(Ok(()))
            ) {
                break;
            }
        }
        // The program may be gone already.
        let _ = timeout(TCP_IDLE, stream.shutdown()).await;
    }
}

#[cfg(test)]
mod tests;
