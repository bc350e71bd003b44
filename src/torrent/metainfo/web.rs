//! Web seeds: servers that have a torrent's files, or its pieces (BEP 19, BEP 17).

use std::fmt;

use super::MAX_TRACKER_URL;
use crate::bencode::{self, Value};

/// Most web seeds; those beyond are left out.
pub const MAX_WEB_SEEDS: usize = 64;

/// How a web seed is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebKind {
    /// For ranges of files, as any web server has them (`url-list`, BEP 19).
    Files,
    /// For pieces, of a script made for it (`httpseeds`, BEP 17).
    Pieces,
}

/// A server that a torrent names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WebSeed {
    /// How it is asked.
    pub kind: WebKind,
    /// Its URL, as it stands in the torrent.
    pub url: String,
}

impl fmt::Debug for WebSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSeed")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl WebSeed {
    /// One that is asked for files.
    pub fn files(url: impl Into<String>) -> Self {
        Self {
            kind: WebKind::Files,
            url: url.into(),
        }
    }

    /// Reads `url-list`, which is a string or a list of them, and `httpseeds`. What can't be a URL is left out.
    pub(super) fn read(url_list: Option<Value<'_>>, httpseeds: Option<Value<'_>>) -> Vec<Self> {
        let one = url_list.and_then(Value::as_str);
        let many = url_list.and_then(Value::as_list).into_iter().flatten();
        let files = one.into_iter().chain(many.filter_map(Value::as_str));
        let pieces = httpseeds.and_then(Value::as_list).into_iter().flatten();
        let pieces = pieces.filter_map(Value::as_str);
        let all = files.map(|url| (WebKind::Files, url));
        Self::bounded(all.chain(pieces.map(|url| (WebKind::Pieces, url))))
    }

    /// Keeps what can be a URL, each once, and no more than the limit.
    pub(crate) fn bounded<'a>(all: impl Iterator<Item = (WebKind, &'a str)>) -> Vec<Self> {
        let mut out: Vec<Self> = Vec::new();
        for (kind, url) in all {
            let url = url.trim();
            let fit = !url.is_empty()
                && url.len() <= MAX_TRACKER_URL
                && !url.chars().any(char::is_control);
            if fit && !out.iter().any(|seed| seed.kind == kind && seed.url == url) {
                out.push(Self {
                    kind,
                    url: url.to_owned(),
                });
            }
            if out.len() == MAX_WEB_SEEDS {
                break;
            }
        }
        out
    }

    /// The URLs of one kind among these.
    pub(super) fn of(seeds: &[Self], kind: WebKind) -> Vec<&str> {
        let own = seeds.iter().filter(|seed| seed.kind == kind);
        own.map(|seed| seed.url.as_str()).collect()
    }

    /// Writes `url-list`: as a string where there is one, since some programs read nothing else.
    pub(super) fn put_list(out: &mut Vec<u8>, urls: &[&str]) {
        match urls {
            [one] => bencode::put_bytes(out, one),
            many => bencode::put_list(out, |out| {
                many.iter().for_each(|url| bencode::put_bytes(out, url));
            }),
        }
    }
}
