//! Targets of what programs say to the proxy.

use hushswarm::socks::{http, request, udp};

/// What a program asks the proxy by SOCKS: whole within its limit, and never another thing when more bytes come.
pub fn socks_request(input: &[u8]) {
    fn stable<T: PartialEq + std::fmt::Debug>(
        parse: fn(&[u8]) -> request::Parsed<T>,
        input: &[u8],
    ) {
        let said = parse(input);
        match &said {
            Ok(Some((_, used))) => {
                assert!(*used <= request::MAX_REQUEST && *used <= input.len());
                assert_eq!(parse(&input[..*used]), said);
                assert_eq!(parse(&input[..used - 1]), Ok(None));
            }
            Ok(None) => assert!(input.len() < request::MAX_REQUEST),
            Err(_) => {}
        }
    }
    stable(request::methods, input);
    stable(request::password, input);
    stable(request::socks4, input);
    stable(request::socks5, input);
    let _ = input.first().map(|first| request::Protocol::of(*first));
}

/// Datagrams of a UDP association.
pub fn socks_datagram(input: &[u8]) {
    if let Some((target, payload)) = udp::decode(input) {
        let mut again = Vec::new();
        udp::encode(&mut again, &target, payload);
        assert!(again.len() <= udp::MAX_HEADER + payload.len());
        assert_eq!(udp::decode(&again), Some((target, payload)));
    }
}

/// What a program asks the proxy by HTTP. What is sent on is one request in origin form, with nothing for the proxy in it.
pub fn http_proxy(input: &[u8]) {
    let Ok(Some((head, used))) = http::parse(input) else {
        return;
    };
    assert!(used <= input.len());
    assert!(http::is_complete(input, 0));
    let http::Wish::Forward(forward) = head.wish else {
        return;
    };
    let text = forward.head;
    let end = text.windows(4).position(|four| four == b"\r\n\r\n");
    assert_eq!(end, Some(text.len() - 4));
    let line = text.split(|&byte| byte == b'\r').next().unwrap_or_default();
    assert!(line.windows(2).any(|two| two == b" /"));
    let lower = text.to_ascii_lowercase();
    assert!(!lower.windows(14).any(|name| name == b"\nproxy-authori"));
    let hosts = lower
        .windows(7)
        .filter(|name| *name == b"\r\nhost:")
        .count();
    assert_eq!(hosts, 1);
}
