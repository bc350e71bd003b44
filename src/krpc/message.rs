//! KRPC messages (BEP 5, 32, 43, 44).

use crate::bencode::Value;

/// The transaction id of a response or an error of ours to match, for whoever runs many lookups on one socket: `None` where the
/// message has none of our length, or is a query.
pub fn transaction_of(bytes: &[u8]) -> Option<[u8; 4]> {
    let [kind, transaction] = Value::parse(bytes).ok()?.fields(["y", "t"]).ok()?;
    if !matches!(kind?.as_bytes()?, b"r" | b"e") {
        return None;
    }
    transaction?.as_bytes()?.try_into().ok()
}
