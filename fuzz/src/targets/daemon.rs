//! Requests of programs that steer the daemon (the Transmission RPC).

use hushswarm::rpc::access::{Access, Asked};
use hushswarm::rpc::call::{Call, Message, answer};
use hushswarm::rpc::http::{MAX_BODY, MAX_HEAD, parse_head};

/// Heads of requests: whoever is let in named this computer and the session id, and nobody knows the password by chance.
pub fn rpc_head(input: &[u8]) {
    let closed = Access {
        port: 9091,
        hosts: vec!["seedbox.lan".to_owned()],
        credentials: Some("user:9d8c1f0b2e".to_owned()),
        session: "c2Vzc2lvbg".to_owned(),
    };
    let open = Access {
        credentials: None,
        ..closed.clone()
    };
    match parse_head(input) {
        Ok(None) => assert!(input.len() < MAX_HEAD),
        Ok(Some((head, used))) => {
            assert!(used <= input.len() && head.length <= MAX_BODY);
            // However much follows, the head is the same.
            let again = parse_head(&[&input[..used], b"x: y\r\n\r\n"].concat());
            assert_eq!(again.ok().flatten().map(|(_, same)| same), Some(used));
            let refused = closed.check(&head).map_err(|response| response.encode());
            assert!(refused.is_err_and(|response| response.starts_with(b"HTTP/1.1 4")));
            if open.check(&head) == Ok(Asked::Call) {
                assert_eq!(head.session.as_deref(), Some("c2Vzc2lvbg"));
                assert!(head.host.is_some_and(|host| !host.contains("evil")));
                assert!(head.origin.is_none_or(|origin| origin.starts_with("http")));
            }
        }
        Err(bad) => assert!(bad.response().encode().starts_with(b"HTTP/1.1 4")),
    }
}

/// Bodies of calls: a call or a reason, and an answer that can be read.
pub fn rpc_call(input: &[u8]) {
    let message = Message::parse(input);
    if let Ok(Call::TorrentAdd(add)) = &message.call {
        let dir = add.download_dir.as_deref();
        assert!(dir.is_none_or(|dir| dir.starts_with('/') && !dir.contains('\0')));
    }
    let result = message.call.map(|_| Default::default());
    let said = answer(result, message.tag);
    assert!(said.starts_with(b"{") && said.ends_with(b"}"));
}
