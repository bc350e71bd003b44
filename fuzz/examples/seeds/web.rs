//! What web seeds answer, and trackers that are asked for counts.

use hushswarm_fuzz::targets::HASH;

use super::Seeds;

/// Heads as common servers write them; two bytes of status first.
pub fn heads() -> Seeds {
    let head = |status: u16, fields: &str| [&status.to_be_bytes()[..], fields.as_bytes()].concat();
    let range =
        "Content-Range: bytes 16384-81919/524288\nContent-Length: 65536\nContent-Type: x/y\n";
    vec![
        ("range", head(206, range)),
        (
            "whole",
            head(200, "Content-Length: 524288\nContent-Encoding: identity\n"),
        ),
        ("busy", head(503, "Retry-After: 120\n")),
        ("moved", head(302, "Location: https://web.example/x\n")),
        ("gone", head(416, "Content-Range: bytes */1000\n")),
    ]
}

/// A body and a payload.
pub fn scrapes() -> Seeds {
    let mut body = b"\0d5:filesd20:".to_vec();
    body.extend_from_slice(&HASH);
    body.extend_from_slice(b"d8:completei5e10:downloadedi50e10:incompletei10eeee");
    vec![
        ("body", body),
        ("failure", b"\0d14:failure reason2:noe".to_vec()),
        ("payload", vec![1, 0, 0, 0, 5, 0, 0, 0, 50, 0, 0, 0, 10]),
    ]
}
