//! What a client and a hidden peer say to each other.

use hushswarm::bencode::Value;
use hushswarm::guests::scrub::Scrubber;

/// Both directions, as they come: each chunk is of the side that the highest bit of its first byte says, and as long as the others.
pub fn guest_scrub(mut input: &[u8]) {
    let (mut one, mut other) = Scrubber::pair();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let mut sent = [0; 2];
    while let Some((&first, rest)) = input.split_first() {
        let (said, rest) = rest.split_at(rest.len().min(usize::from(first & 0x7f)));
        input = rest;
        let turned = first & 0x80 != 0;
        sent[usize::from(turned)] += said.len();
        let (scrubber, out) = if turned {
            (&mut other, &mut back)
        } else {
            (&mut one, &mut there)
        };
        let _ = scrubber.scrub(said, out);
    }
    assert!(there.len() <= sent[0] && back.len() <= sent[1]);
    for passed in [there, back] {
        check(&passed);
    }
}

/// Reads again what has passed: nothing in it names anybody.
fn check(passed: &[u8]) {
    if let Some(reserved) = passed.get(20..28) {
        assert!(reserved[..5].iter().all(|byte| *byte == 0));
        assert!(reserved[5] & !0x10 == 0 && reserved[6] == 0 && reserved[7] & !4 == 0);
    }
    let mut passed = passed.get(68..).unwrap_or_default();
    while let Some((len, rest)) = passed.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*len) as usize;
        let (message, rest) = rest.split_at(len.min(rest.len()));
        passed = rest;
        match message {
            [20, 0, dict @ ..] => {
                // An extension handshake passes whole or not at all.
                let dict = Value::parse(dict).expect("a dictionary");
                assert!(message.len() == len && dict.keys_sorted());
                let known = [&b"m"[..], b"metadata_size", b"reqq", b"upload_only"];
                let mut keys = dict.as_dict().expect("a dictionary");
                assert!(keys.all(|(key, _)| known.contains(&key)));
                let [m] = dict.fields(["m"]).expect("a dictionary");
                let names = [&b"lt_donthave"[..], b"upload_only", b"ut_metadata"];
                let mut ids = m.and_then(Value::as_dict).into_iter().flatten();
                assert!(ids.all(|(name, _)| names.contains(&name)));
            }
            [id, ..] => assert!(matches!(id, 0..=8 | 13..=16 | 20..=23)),
            [] => {}
        }
    }
}
