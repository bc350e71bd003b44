//! Links to feeds, which follow what a publisher puts out: our own (PROTOCOL.md §8.7), and those of BEP 46.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use hushswarm_circuits::rendezvous::FeedKey;

use super::magnet::{MAX_MAGNET, percent_decode};

/// Longest salt of BEP 46, bytes: that of an item (BEP 44).
const MAX_SALT: usize = 64;
/// What stands before a publisher's key (BEP 46).
const BTPK: &str = "urn:btpk:";

/// Why a link to a feed can't be used, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedLinkError {
    /// `x.feed` is damaged.
    #[error("the feed's link is damaged or not whole: copy it again, from \"magnet:\" to its end")]
    BadFeed,
    /// `xs=urn:btpk:` is.
    #[error("the publisher's key is not 64 hexadecimal digits: copy the link again")]
    BadKey,
    /// `s` is.
    #[error("the salt \"s=\" is not hexadecimal, or longer than 64 bytes: copy the link again")]
    BadSalt,
    /// More than one.
    #[error("the link names two feeds: use a link for one")]
    TwoFeeds,
    /// Ours beside a torrent: no program makes such a link.
    #[error("the link names a feed and a torrent: use a link for one")]
    TorrentToo,
    /// Longer than any.
    #[error("the link is longer than 64 KiB")]
    TooLong,
}

/// A link to a feed. `Display` writes the link itself, for the user alone; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub enum FeedLink {
    /// What it says is sealed to those who have the link.
    Sealed(FeedKey),
    /// Everybody in the DHT can read what it says (BEP 46).
    Plain {
        /// The publisher's (Ed25519).
        key: [u8; 32],
        /// Tells several feeds of one publisher apart; empty where there is one.
        salt: Vec<u8>,
    },
}

impl FeedLink {
    /// Reads a link; `None` where it names no feed, or one of BEP 46 beside a torrent: then it is that torrent's ([`Self::is_beside_torrent`]).
    ///
    /// # Errors
    /// It names a feed and can't be used: show the error, which says what to do.
    pub fn parse(link: &str) -> Result<Option<Self>, FeedLinkError> {
        let query = link
            .trim()
            .split_at_checked(8)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("magnet:?"));
        let Some((_, query)) = query else {
            return Ok(None);
        };
        let (mut feed, mut torrent) = (None, false);
        let mut salt = "";
        if link.len() > MAX_MAGNET {
            return if query.starts_with("x.feed=") {
                Err(FeedLinkError::TooLong)
            } else {
                // Whoever reads torrents' links says so.
                Ok(None)
            };
        }
        for parameter in query.split('&') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let found = match name {
                "x.feed" => Self::Sealed(sealed(value).ok_or(FeedLinkError::BadFeed)?),
                "xs" => match publisher(value) {
                    Some(key) => Self::Plain {
                        key: key?,
                        salt: Vec::new(),
                    },
                    None => continue,
                },
                "s" => {
                    salt = value;
                    continue;
                }
                _ => {
                    torrent |= name == "xt" || name.starts_with("xt.");
                    continue;
                }
            };
            if feed.replace(found).is_some() {
                return Err(FeedLinkError::TwoFeeds);
            }
        }
        match feed {
            Some(Self::Sealed(_)) if torrent => Err(FeedLinkError::TorrentToo),
            Some(Self::Plain { .. }) if torrent => Ok(None),
            Some(Self::Plain { key, .. }) => {
                let salt = unescaped(salt).and_then(|hex| {
                    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
                    (bytes.len() <= MAX_SALT).then_some(bytes)
                });
                let salt = salt.ok_or(FeedLinkError::BadSalt)?;
                Ok(Some(Self::Plain { key, salt }))
            }
            other => Ok(other),
        }
    }
}

impl FeedLink {
    /// Whether it names a torrent, and beside it a feed of BEP 46, which whoever takes the torrent does not follow: tell the user.
    pub fn is_beside_torrent(link: &str) -> bool {
        let Some((scheme, query)) = link.trim().split_once('?') else {
            return false;
        };
        let is_torrent = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default();
            name == "xt" || name.starts_with("xt.")
        };
        let (torrents, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_torrent);
        let feed = Self::parse(&format!("{scheme}?{}", others.join("&")));
        !torrents.is_empty() && matches!(feed, Ok(Some(Self::Plain { .. })))
    }
}

fn unescaped(value: &str) -> Option<String> {
    percent_decode(value, false).ok()
}

fn sealed(value: &str) -> Option<FeedKey> {
    let text = unescaped(value)?;
    let bytes = BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes());
    FeedKey::parse(&zeroize::Zeroizing::new(bytes.ok()?)).ok()
}

/// The key of `urn:btpk:`; `None` where it is another address.
fn publisher(value: &str) -> Option<Result<[u8; 32], FeedLinkError>> {
    let text = unescaped(value)?;
    let (urn, hex) = text.split_at_checked(BTPK.len())?;
    if !urn.eq_ignore_ascii_case(BTPK) {
        return None;
    }
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
    let key = bytes.and_then(|bytes| bytes.try_into().ok());
    Some(key.ok_or(FeedLinkError::BadKey))
}

impl fmt::Display for FeedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed(feed) => {
                write!(
                    f,
                    "magnet:?x.feed={}",
                    BASE64URL_NOPAD.encode(&*feed.encode())
                )
            }
            Self::Plain { key, salt } => {
                write!(f, "magnet:?xs={BTPK}{}", HEXLOWER.encode(key))?;
                if !salt.is_empty() {
                    write!(f, "&s={}", HEXLOWER.encode(salt))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for FeedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[feed]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::{IdentityKey, Key32};
    use proptest::prelude::*;

    use super::super::magnet::Magnet;
    use super::*;

    fn feed() -> FeedKey {
        let public = IdentityKey::from_seed([1; 32]).public();
        FeedKey::new(public, Key32::new([2; 32]))
    }

    #[test]
    fn links_of_both_kinds_are_read_and_written() {
        let own = FeedLink::Sealed(feed());
        let text = own.to_string();
        assert_eq!(text.len(), "magnet:?x.feed=".len() + 92);
        assert_eq!(FeedLink::parse(&text), Ok(Some(own.clone())));
        let other = format!(" MAGNET:?dn=a%20name&{}%3D\n", &text[8..]);
        assert_eq!(FeedLink::parse(&other), Ok(Some(own)));
        // The example of BEP 46.
        let key = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
        let link = |salt: &[u8]| FeedLink::Plain {
            key: HEXLOWER_PERMISSIVE
                .decode(key.as_bytes())
                .unwrap()
                .try_into()
                .unwrap(),
            salt: salt.to_vec(),
        };
        let salted = format!("magnet:?xs=urn:btpk:{key}&s=6e");
        assert_eq!(FeedLink::parse(&salted), Ok(Some(link(b"n"))));
        assert_eq!(link(b"n").to_string(), salted);
        let plain = format!("magnet:?xs=urn%3Abtpk:{}", key.to_uppercase());
        assert_eq!(FeedLink::parse(&plain), Ok(Some(link(b""))));
        assert_eq!(format!("{:?}", link(b"n")), "[feed]");
    }

    #[test]
    fn what_names_a_torrent_or_nothing_is_no_feed() {
        let hash = "ab".repeat(20);
        for other in [
            "",
            "a file.torrent",
            "magnet:?",
            "magnet:?xs=http://a.example/x",
            &format!("magnet:?xt=urn:btih:{hash}"),
            &format!("magnet:?xs=urn:btpk:{}&xt=urn:btih:{hash}", "85".repeat(32)),
        ] {
            assert_eq!(FeedLink::parse(other), Ok(None), "{other}");
        }
        let both = format!("magnet:?xs=urn:btpk:{}&xt=urn:btih:{hash}", "85".repeat(32));
        assert!(FeedLink::is_beside_torrent(&both));
        for one in [
            format!("magnet:?xt=urn:btih:{hash}"),
            format!("magnet:?xt=urn:btih:{hash}&xs=http://a.example/x"),
            format!("magnet:?xs=urn:btpk:{}", "85".repeat(32)),
            "a file?.torrent".to_owned(),
        ] {
            assert!(!FeedLink::is_beside_torrent(&one), "{one}");
        }
        // Nor does another client take ours for a torrent.
        assert!(Magnet::parse(&FeedLink::Sealed(feed()).to_string()).is_err());
    }

    #[test]
    fn damaged_links_say_what_to_do() {
        let good = FeedLink::Sealed(feed()).to_string();
        let key = "85".repeat(32);
        for (link, error) in [
            (good[..good.len() - 1].to_owned(), FeedLinkError::BadFeed),
            (good.replace("feed=AY", "feed=AZ"), FeedLinkError::BadFeed),
            (format!("{good}%"), FeedLinkError::BadFeed),
            (format!("{good}&{}", &good[8..]), FeedLinkError::TwoFeeds),
            (
                format!("{good}&xt=urn:btih:{}", "ab".repeat(20)),
                FeedLinkError::TorrentToo,
            ),
            (
                format!("magnet:?xs=urn:btpk:{}", &key[2..]),
                FeedLinkError::BadKey,
            ),
            (
                format!("magnet:?xs=urn:btpk:{key}&s=6"),
                FeedLinkError::BadSalt,
            ),
            (
                format!("magnet:?xs=urn:btpk:{key}&s={}", "6e".repeat(65)),
                FeedLinkError::BadSalt,
            ),
            (
                format!("{good}&{}", "a".repeat(MAX_MAGNET)),
                FeedLinkError::TooLong,
            ),
        ] {
            assert_eq!(FeedLink::parse(&link), Err(error), "{link}");
            assert!(!error.to_string().is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_comes_back(
            key: [u8; 32],
            salt in prop::collection::vec(any::<u8>(), 0..=MAX_SALT),
            text in "(magnet:\\?)?((x\\.feed|xs|s|xt)=[\\PC]{0,20}&?){0,4}",
        ) {
            let link = FeedLink::Plain { key, salt };
            prop_assert_eq!(FeedLink::parse(&link.to_string()), Ok(Some(link)));
            if let Ok(Some(read)) = FeedLink::parse(&text) {
                prop_assert_eq!(FeedLink::parse(&read.to_string()), Ok(Some(read)));
            }
        }
    }
}
