//! What players ask of `hushswarm stream`.

use hushswarm::stream::request::{Part, Site, TOKEN_LEN, part};

/// Heads of requests for a file of a few bytes; its address is always the same.
pub fn stream_request(input: &[u8]) {
    const LEN: u64 = 1000;
    let site = Site::new([0; TOKEN_LEN], "film.mkv", 4000);
    let Ok(request) = site.read(input) else {
        return;
    };
    // Who is answered knew the token, and named this computer.
    let head = String::from_utf8(input.to_vec()).expect("text");
    let url = site.url();
    let (_, path) = url.split_once(":4000").expect("a port");
    assert!(head.contains(path));
    assert!(
        head.contains("127.0.0.1:4000") || head.to_ascii_lowercase().contains("localhost:4000")
    );
    if let Some(Part::Bytes(bytes)) = request.range.map(|range| part(range, LEN)) {
        assert!(bytes.start < bytes.end && bytes.end <= LEN);
    }
}
