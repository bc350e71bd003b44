//! One question and its answer in the Domain Name System (RFC 1035): whose address is this? Bytes alone; the socket is
//! in `os/`, and so is every other lookup, which the system's resolver does.

use std::net::IpAddr;

use hushswarm_circuits::target::HostName;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

/// Length of a message's header, bytes.
const HEADER: usize = 12;
/// Most records in one section of a reply. The parser makes room for as many as the header claims.
const MAX_RECORDS: u16 = 64;
/// Longest chain of aliases that is followed (RFC 2317 needs one).
const MAX_ALIASES: usize = 8;

/// What a nameserver said.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// The address's name, and for how many seconds it may be kept.
    Name(HostName, u32),
    /// The address has no name, or none that is a host's.
    Missing,
    /// The server could not tell: ask another.
    Failed,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[reply]")
    }
}

/// The name under which an address's name stands (RFC 1035, 3.5; RFC 3596, 2.5).
fn reverse_name(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let digits = format!("{:032x}", ip.to_bits());
            let mut name: String = digits.chars().rev().flat_map(|d| [d, '.']).collect();
            name.push_str("ip6.arpa");
            name
        }
    }
}

/// The query for an address's name; `None` where it can't be written, which does not happen.
pub fn ptr_query(id: u16, ip: IpAddr) -> Option<Vec<u8>> {
    let name = reverse_name(ip);
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    query.questions.push(Question::new(
        Name::new(&name).ok()?,
        QTYPE::TYPE(TYPE::PTR),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    query.build_bytes_vec().ok()
}

/// Reads the reply to a query of [`ptr_query`]. `None`: it is none, whoever sent it; wait for another.
pub fn ptr_reply(query: &[u8], reply: &[u8]) -> Option<Reply> {
    let (header, question) = (reply.get(..HEADER)?, query.get(HEADER..)?);
    let asked = reply.get(HEADER..query.len())?;
    let counts = header[4..]
        .chunks_exact(2)
        .map(|c| u16::from_be_bytes([c[0], c[1]]));
    let bounded = counts.enumerate().all(|(section, count)| match section {
        0 => count == 1,
        _ => count <= MAX_RECORDS,
    });
    if header[..2] != query[..2] || !asked.eq_ignore_ascii_case(question) || !bounded {
        return None;
    }
    let reply = Packet::parse(reply).ok()?;
    if !reply.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let code = reply.rcode();
    if code == RCODE::NameError {
        return Some(Reply::Missing);
    }
    if code != RCODE::NoError {
        return Some(Reply::Failed);
    }
    Some(find(&reply))
}

/// The first name of a host at the end of the aliases.
fn find(reply: &Packet<'_>) -> Reply {
    let Some(mut owner) = reply.questions.first().map(|question| &question.qname) else {
        return Reply::Failed;
    };
    let mut ttl = u32::MAX;
    for _ in 0..=MAX_ALIASES {
        let mut alias = None;
        for record in &reply.answers {
            if record.name != *owner || record.class != CLASS::IN {
                continue;
            }
            if let RData::PTR(name) = &record.rdata
                && let Ok(name) = HostName::new(&name.0.to_string())
            {
                return Reply::Name(name, ttl.min(record.ttl));
            }
            if let RData::CNAME(name) = &record.rdata {
                alias = Some((&name.0, record.ttl));
            }
        }
        let Some((next, alias_ttl)) = alias else {
            return Reply::Missing;
        };
        owner = next;
        ttl = ttl.min(alias_ttl);
    }
    Reply::Missing
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{CNAME, PTR};

    const IP: &str = "192.0.2.7";
    const OWNER: &str = "7.2.0.192.in-addr.arpa";

    fn query() -> Vec<u8> {
        ptr_query(7, IP.parse().unwrap()).unwrap()
    }

    fn record(owner: &'static str, ttl: u32, rdata: RData<'static>) -> ResourceRecord<'static> {
        ResourceRecord::new(Name::new(owner).unwrap(), CLASS::IN, ttl, rdata)
    }

    fn ptr(owner: &'static str, ttl: u32, name: &'static str) -> ResourceRecord<'static> {
        record(owner, ttl, RData::PTR(PTR(Name::new(name).unwrap())))
    }

    fn alias(owner: &'static str, ttl: u32, name: &'static str) -> ResourceRecord<'static> {
        record(owner, ttl, RData::CNAME(CNAME(Name::new(name).unwrap())))
    }

    fn reply(code: RCODE, answers: Vec<ResourceRecord<'static>>) -> Vec<u8> {
        let query = query();
        let mut reply = Packet::parse(&query).unwrap().into_reply();
        *reply.rcode_mut() = code;
        reply.answers = answers;
        reply.build_bytes_vec_compressed().unwrap()
    }

    fn read(code: RCODE, answers: Vec<ResourceRecord<'static>>) -> Option<(String, u32)> {
        match ptr_reply(&query(), &reply(code, answers)).unwrap() {
            Reply::Name(name, ttl) => Some((name.as_str().to_owned(), ttl)),
            Reply::Missing => None,
            Reply::Failed => panic!("failed"),
        }
    }

    #[test]
    fn addresses_are_written_backwards() {
        assert_eq!(reverse_name(IP.parse().unwrap()), OWNER);
        assert_eq!(reverse_name("::ffff:192.0.2.7".parse().unwrap()), OWNER);
        // The example of RFC 3596, 2.5.
        assert_eq!(
            reverse_name("4321:0:1:2:3:4:567:89ab".parse().unwrap()),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa"
        );
        let query = query();
        assert_eq!(query[..12], [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            query[12..],
            *b"\x017\x012\x010\x03192\x07in-addr\x04arpa\x00\x00\x0c\x00\x01"
        );
    }

    #[test]
    fn the_name_is_read_also_behind_aliases() {
        let name = |name: &str, ttl| Some((name.to_owned(), ttl));
        let ok = RCODE::NoError;
        let host = || ptr(OWNER, 60, "host.example");
        assert_eq!(read(ok, vec![host()]), name("host.example", 60));
        // RFC 2317.
        let delegated = "7.0-127.2.0.192.in-addr.arpa";
        let records = || {
            vec![
                ptr(delegated, 90, "host.example"),
                alias(OWNER, 30, delegated),
            ]
        };
        assert_eq!(read(ok, records()), name("host.example", 30));
        // A name that is no host's is passed over; names of others are not taken.
        let odd = ptr(OWNER, 60, "not a host.example");
        assert_eq!(
            read(ok, vec![odd.clone(), host()]),
            name("host.example", 60)
        );
        assert_eq!(read(ok, vec![odd]), None);
        let foreign = ptr("8.2.0.192.in-addr.arpa", 60, "host.example");
        assert_eq!(read(ok, vec![foreign]), None);
        assert_eq!(read(ok, vec![alias(OWNER, 60, OWNER)]), None, "a circle");
        assert_eq!(read(ok, vec![]), None);
        assert_eq!(read(RCODE::NameError, vec![]), None);
    }

    #[test]
    fn a_server_that_cannot_tell_is_told_from_a_missing_name() {
        for code in [RCODE::ServerFailure, RCODE::Refused, RCODE::NotImplemented] {
            let reply = ptr_reply(&query(), &reply(code, vec![]));
            assert_eq!(reply, Some(Reply::Failed));
        }
    }

    #[test]
    fn what_answers_another_question_is_no_reply() {
        let good = reply(RCODE::NoError, vec![ptr(OWNER, 60, "host.example")]);
        assert!(ptr_reply(&query(), &good).is_some());
        assert_eq!(ptr_reply(&query(), &query()), None, "our own query");
        let mut other_case = good.clone();
        other_case[HEADER + 9..HEADER + 16].make_ascii_uppercase();
        assert!(ptr_reply(&query(), &other_case).is_some());
        // The id, each byte of the question, and the number of questions.
        let question = HEADER..query().len();
        for at in [0, 1, 4, 5].into_iter().chain(question) {
            let mut forged = good.clone();
            forged[at] ^= 0x11;
            assert_eq!(ptr_reply(&query(), &forged), None, "byte {at}");
        }
        for len in 0..good.len() {
            let cut = ptr_reply(&query(), &good[..len]);
            assert_eq!(cut, None, "{len} bytes");
        }
        let mut many = good;
        many[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(ptr_reply(&query(), &many), None);
    }

    proptest! {
        #[test]
        fn hostile_replies_never_panic(tail in vec(prop_oneof![Just(0xc0), Just(12u8), any::<u8>()], 0..200), counts: [u8; 6]) {
            let mut reply = query();
            reply[2] = 0x80;
            for (at, count) in counts.into_iter().enumerate() {
                reply[6 + at] = if at % 2 == 0 { 0 } else { count % 70 };
            }
            reply.extend_from_slice(&tail);
            let _ = ptr_reply(&query(), &reply);
        }
    }
}
