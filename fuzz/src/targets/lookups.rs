//! Targets of lookups at the exit: what nameservers reply, what relays answer, what origins ask of the DHT.

#[path = "meetings.rs"]
pub mod meetings;

use hushswarm::net::dns;
use hushswarm_circuits::dht::{MAX_RECORD, MAX_REQUEST, Reader, Request};
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

/// Requests of DHT lookups (§5.8), whole.
pub fn dht_request(input: &[u8]) {
    if let Ok(request) = Request::decode(input) {
        assert!(input.len() <= MAX_REQUEST);
        assert_eq!(request.encode().as_deref(), Ok(input));
    }
}

/// Answers of DHT lookups (§5.8), in pieces: the first byte says how long they are.
pub fn dht_records(input: &[u8]) {
    let Some((&piece, answer)) = input.split_first() else {
        return;
    };
    let (mut reader, mut again) = (Reader::default(), Vec::new());
    for piece in answer.chunks(usize::from(piece) + 1) {
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(record)) => {
                    let bytes = record.encode().expect("what was read is in bounds");
                    assert!(bytes.len() <= MAX_RECORD + 3);
                    again.extend_from_slice(&bytes);
                }
                Ok(None) => break,
                Err(_) => {
                    assert!(answer.starts_with(&again));
                    return;
                }
            }
        }
    }
    assert!(answer.starts_with(&again));
}
