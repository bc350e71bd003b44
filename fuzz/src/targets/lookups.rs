//! Targets of lookups at the exit: what nameservers reply, and what relays answer.

use hushswarm::net::dns;
use hushswarm_circuits::lookup::{Answer, MAX_ANSWER};
use hushswarm_circuits::target::HostName;

/// A nameserver's replies: the input is what follows the id, and comes as itself and with the question that was asked.
pub fn dns_reply(input: &[u8]) {
    let asked = [192, 0, 2, 7].into();
    let query = dns::ptr_query(7, asked).unwrap();
    let _ = dns::ptr_reply(&query, input);
    let (counts, rest) = input.split_at(input.len().min(10));
    let mut reply = query.clone();
    reply[2..2 + counts.len()].copy_from_slice(counts);
    reply.extend_from_slice(rest);
    if let Some(dns::Reply::Name(name, _)) = dns::ptr_reply(&query, &reply) {
        assert!(HostName::new(name.as_str()).is_ok());
    }
}

/// Answers of lookups (§5.7).
pub fn lookup_answer(input: &[u8]) {
    if let Ok(answer) = Answer::decode(input) {
        assert!(input.len() <= MAX_ANSWER);
        assert_eq!(answer.encode(), input);
    }
}
