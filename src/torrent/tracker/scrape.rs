//! How many peers a torrent has, as a tracker counts them: what is asked and answered (BEP 48 over HTTP, BEP 15 over UDP). Pure.

use super::announce::{AnnounceError, printable};
use crate::bencode::Value;
use crate::torrent::infohash::InfoHash;

/// Counts of a torrent, as a tracker says; `None` where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// Peers with the whole torrent.
    pub seeders: Option<u32>,
    /// Peers without.
    pub leechers: Option<u32>,
    /// Downloads that came to their end, ever.
    pub completed: Option<u32>,
}

impl Scraped {
    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        self.seeders.is_some() || self.leechers.is_some()
    }

    /// Reads the body of an HTTP answer. A tracker that does not name the torrent does not know it. Bytes after the end are ignored.
    ///
    /// # Errors
    /// The tracker refused, or the answer is malformed.
    pub fn parse(body: &[u8], hash: InfoHash) -> Result<Self, AnnounceError> {
        let malformed = |_| AnnounceError::Malformed;
        let (value, _) = Value::parse_prefix(body).map_err(malformed)?;
        let [failure, files] = value
            .fields(["failure reason", "files"])
            .map_err(malformed)?;
        if let Some(failure) = failure {
            let text = failure.as_bytes().unwrap_or_default();
            return Err(AnnounceError::Failure(printable(text)));
        }
        let mut files = files
            .and_then(Value::as_dict)
            .ok_or(AnnounceError::Malformed)?;
        let Some((_, counts)) = files.find(|(key, _)| *key == hash.0) else {
            return Ok(Self::default());
        };
        let [complete, downloaded, incomplete] = counts
            .fields(["complete", "downloaded", "incomplete"])
            .map_err(malformed)?;
        let count = |value: Option<Value<'_>>| u32::try_from(value?.as_uint()?).ok();
        Ok(Self {
            seeders: count(complete),
            leechers: count(incomplete),
            completed: count(downloaded),
        })
    }

    /// Reads what stands after action and transaction in a datagram, for the first torrent that was asked about.
    ///
    /// # Errors
    /// It is too short.
    pub fn parse_datagram(payload: &[u8]) -> Result<Self, AnnounceError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *payload
            .first_chunk::<12>()
            .ok_or(AnnounceError::Malformed)?;
        Ok(Self {
            seeders: Some(u32::from_be_bytes([a, b, c, d])),
            completed: Some(u32::from_be_bytes([e, f, g, h])),
            leechers: Some(u32::from_be_bytes([i, j, k, l])),
        })
    }
}

/// Path and query to scrape at, for those to announce at: the last component has to begin with `announce`, in whose place `scrape` stands.
pub(super) fn path(announce: &str) -> Option<String> {
    let end = announce.find('?').unwrap_or(announce.len());
    let (path, query) = announce.split_at(end);
    let (folder, last) = path.rsplit_once('/')?;
    let rest = last.strip_prefix("announce")?;
    Some(format!("{folder}/scrape{rest}{query}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::TrackerClient;
    use super::super::fake::{World, isolation, ok, request, target};
    use super::*;
    use proptest::prelude::*;

    const HASH: InfoHash = InfoHash([b'h'; 20]);

    #[test]
    fn the_path_is_that_of_bep_48() {
        for (announce, scrape) in [
            ("/announce", Some("/scrape")),
            ("/x/announce.php", Some("/x/scrape.php")),
            ("/announce?x2%0644", Some("/scrape?x2%0644")),
            ("/announce.php?x=2/4", Some("/scrape.php?x=2/4")),
            ("/a", None),
            ("/x/announce/y", None),
            ("/xannounce", None),
            ("/", None),
        ] {
            assert_eq!(path(announce).as_deref(), scrape, "{announce}");
        }
    }

    #[test]
    fn answers_read_and_bad_ones_are_errors() {
        let other = "a".repeat(20);
        let counts = |hash: &str, counts: &str| format!("20:{hash}d{counts}e");
        let ours = "8:completei5e10:downloadedi50e10:incompletei7e4:name1:x";
        let ours = counts(&"h".repeat(20), ours);
        let theirs = counts(&other, "8:completei1e");
        let read = |text: &str| Scraped::parse(text.as_bytes(), HASH);
        let whole = Scraped {
            seeders: Some(5),
            leechers: Some(7),
            completed: Some(50),
        };
        assert_eq!(read(&format!("d5:filesd{theirs}{ours}ee")), Ok(whole));
        assert_eq!(
            read(&format!("d5:filesd{theirs}ee")),
            Ok(Scraped::default())
        );
        assert_eq!(read("d5:filesdee\n"), Ok(Scraped::default()));
        for bad in [
            "",
            "de",
            "d5:filesi1ee",
            "d5:filesd20:hhhhhhhhhhhhhhhhhhhhi1eee",
            "<html>",
        ] {
            assert_eq!(read(bad), Err(AnnounceError::Malformed), "{bad}");
        }
        assert!(matches!(
            read("d14:failure reason2:noe"),
            Err(AnnounceError::Failure(_))
        ));
        let negative = counts(&"h".repeat(20), "8:completei-1e10:incompletei99999999999e");
        assert_eq!(
            read(&format!("d5:filesd{negative}ee")),
            Ok(Scraped::default())
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(bytes: Vec<u8>, counts in "[a-z0-9:]{0,40}") {
            let _ = Scraped::parse(&bytes, HASH);
            let _ = Scraped::parse(format!("d5:filesd20:{}d{counts}eee", "h".repeat(20)).as_bytes(), HASH);
            prop_assert_eq!(Scraped::parse_datagram(&bytes).is_ok(), bytes.len() >= 12);
        }
    }

    #[tokio::test]
    async fn a_tracker_is_asked_for_counts_and_told_nothing_else() {
        let hash = request().hash;
        let body = [
            &b"d5:filesd20:"[..],
            &hash.0,
            b"d8:completei3e10:incompletei4eeee",
        ];
        let body = body.concat();
        let world = World::http(move |_, _| ok(&body));
        let client = TrackerClient::new(false);
        let url = "http://tracker.example/announce?passkey=k";
        let counts = client.scrape(&world, isolation(), url, hash).await.unwrap();
        assert_eq!((counts.seeders, counts.leechers), (Some(3), Some(4)));
        let asked = world.asked.lock().unwrap().clone();
        assert_eq!(
            asked[0].1.escape_ascii().to_string(),
            "GET /scrape?passkey=k&info_hash=%00%01%20%25%26%3d%2b%2fazAZ09-._~%fe%ff HTTP/1.1\\r\\n\
Host: tracker.example\\r\\nUser-Agent: curl/7.81.0\\r\\nAccept-Encoding: identity\\r\\nConnection: close\\r\\n\\r\\n"
        );
        let other = client
            .scrape(&world, isolation(), "http://tracker.example/a", hash)
            .await;
        assert_eq!(other, Err(AnnounceError::NoScrape));
        assert_eq!(world.targets().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_udp_tracker_is_asked_as_bep_15_has_it() {
        let from = target("1.2.3.4", 1337);
        let world = World::udp(move |_, datagram| {
            let mut reply = datagram[8..16].to_vec();
            match datagram[8..12] {
                [0, 0, 0, 0] => reply.extend_from_slice(&[7; 8]),
                [0, 0, 0, 2] => {
                    assert_eq!(datagram[..8], [7; 8]);
                    assert_eq!(datagram[16..], request().hash.0);
                    reply.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
                }
                _ => panic!("another action"),
            }
            vec![(from.clone(), reply)]
        });
        let client = TrackerClient::new(false);
        let hash = request().hash;
        let url = "udp://tracker.example:1337/announce";
        let counts = client.scrape(&world, isolation(), url, hash).await;
        let expected = Scraped {
            seeders: Some(1),
            completed: Some(2),
            leechers: Some(3),
        };
        assert_eq!(counts, Ok(expected));
    }
}
