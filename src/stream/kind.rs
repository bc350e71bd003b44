//! What a file is, by the end of its name, for players. What a browser or player would run or follow to other places, as pages, vector
//! images and lists of addresses, is bytes.

/// Media alone.
const KINDS: &[(&str, &str)] = &[
    ("aac", "audio/aac"),
    ("avi", "video/x-msvideo"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("m4a", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("mka", "audio/x-matroska"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("png", "image/png"),
    ("srt", "application/x-subrip"),
    ("ts", "video/mp2t"),
    ("txt", "text/plain; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
];

/// The media type of a file of this name.
pub(super) fn of(name: &str) -> &'static str {
    let end = name
        .rsplit_once('.')
        .map(|(_, end)| end.to_ascii_lowercase());
    let known = KINDS
        .iter()
        .find(|(known, _)| end.as_deref() == Some(known));
    known.map_or("application/octet-stream", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_are_named_and_what_runs_or_leads_elsewhere_is_not() {
        assert_eq!(of("a.film.MKV"), "video/x-matroska");
        for name in ["a.html", "a.svg", "a.m3u8", "a.pls", "a.pdf", "mp4", "a."] {
            assert_eq!(of(name), "application/octet-stream", "{name}");
        }
    }
}
