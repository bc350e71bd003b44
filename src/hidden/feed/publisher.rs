//! Who a feed's publisher is: the key that signs, the secret of those who read, and what was signed last, so that nothing ever goes
//! back.

use std::sync::Arc;

use hushswarm_circuits::keys::{IdentityKey, Key32};
use hushswarm_circuits::rendezvous::{FeedKey, Issue};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::super::identity::{line, value};
use super::{file_name, mark};
use crate::error::{Error, Exit};
use crate::state::{StateDir, StateError};

const TITLE: &str = "hushswarm feed v1";
/// Derives a file's name from what the user calls the feed.
const FILE: &str = "hushswarm v1 file of a feed";
/// Room for the whole text, so that it never grows: a string that does leaves copies behind.
const TEXT_LEN: usize = 512;
/// Longest name of a feed, bytes: a person types it.
const MAX_NAME: usize = 255;

/// The last issue.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Last {
    number: u64,
    torrent: [u8; 32],
}

/// A feed's keys and what was signed last. `Debug` hides it.
pub struct Publisher {
    signer: IdentityKey,
    secret: Key32,
    /// The highest sequence number that was ever signed.
    seq: i64,
    last: Option<Last>,
    /// The last issue when the file was opened.
    kept: Option<Last>,
    dir: Arc<StateDir>,
    file: String,
}

impl Publisher {
    /// The feed that the user of this state folder calls so; it is made at the first time. The file's name does not tell what it is called.
    /// The folder's lock is to be held ([`StateDir::lock`]). This blocks.
    ///
    /// # Errors
    /// The file is damaged or was open to others, or the disk: tell the user. A file that is there is never replaced by new keys.
    pub fn keep(state: &StateDir, name: &str, rng: &mut dyn CryptoRng) -> Result<Self, Error> {
        if name.is_empty() || name.len() > MAX_NAME {
            let what = format!("a feed's name has 1 to {MAX_NAME} bytes");
            return Err(Error::local(what).with_exit(Exit::Usage));
        }
        let dir = Arc::new(StateDir::open(state.path())?);
        let file = format!("{}.keys", file_name(FILE, &[name.as_bytes()]));
        if let Some(content) = dir.read_secret(&file)? {
            let damaged = || damaged(&dir, &file);
            return parse(&content, &dir, &file).ok_or_else(damaged);
        }
        let publisher = Self {
            signer: IdentityKey::generate(rng),
            secret: Key32::generate(rng),
            seq: 0,
            last: None,
            kept: None,
            dir,
            file,
        };
        publisher.writing().write()?;
        Ok(publisher)
    }

    /// What the feed's link holds.
    pub fn feed(&self) -> FeedKey {
        FeedKey::new(self.signer.public(), self.secret.clone())
    }

    pub(super) fn signer(&self) -> &IdentityKey {
        &self.signer
    }

    /// The number of an issue with this torrent: that of the last one if it is the same, else a higher one, and not below the time
    /// (seconds since 1970). `None` where there is no higher one.
    pub(super) fn number(&mut self, infohash: &[u8; 20], now: u64) -> Option<u64> {
        let torrent = mark(self.secret.as_bytes(), infohash);
        let number = match self.last {
            Some(last) if last.torrent == torrent => return Some(last.number),
            Some(last) => last.number.checked_add(1)?.max(now),
            None => now,
        };
        self.last = Some(Last { number, torrent });
        Some(number)
    }

    /// Whether this is the last issue, or one before it, as far as the file told when it was opened.
    pub(super) fn knows(&self, issue: &Issue) -> bool {
        let torrent = mark(self.secret.as_bytes(), &issue.infohash);
        self.kept.is_some_and(|last| {
            issue.number < last.number || (issue.number == last.number && torrent == last.torrent)
        })
    }

    /// Takes a new number the next time, for whatever torrent.
    pub(super) fn forget(&mut self) {
        if let Some(last) = &mut self.last {
            last.torrent = [0; 32];
        }
    }

    /// Notes an issue that stands in the DHT, signed with this key. Says whether it is of another torrent than the last, and not an
    /// older one. Where it is of the same, its number is taken over, if that is higher: readers would refuse a lower one.
    pub(super) fn meets(&mut self, issue: &Issue) -> bool {
        let torrent = mark(self.secret.as_bytes(), &issue.infohash);
        let Some(last) = &mut self.last else {
            return true;
        };
        if torrent == last.torrent {
            last.number = last.number.max(issue.number);
            return false;
        }
        issue.number >= last.number
    }

    /// Goes beyond an issue that stands in the DHT: the next number is higher.
    pub(super) fn pass(&mut self, issue: &Issue) {
        let torrent = mark(self.secret.as_bytes(), &issue.infohash);
        let number = issue.number;
        self.last = Some(Last { number, torrent });
    }

    /// A sequence number that was never used, beyond that of the item that is replaced; `None` where there is none. Write what [`Self::writing`]
    /// gives before anything is signed with it.
    pub(super) fn next_seq(&mut self, old: Option<i64>, now: u64) -> Option<i64> {
        let last = self.seq.max(old.unwrap_or(0));
        self.seq = last.checked_add(1)?.max(i64::try_from(now).ok()?);
        Some(self.seq)
    }

    pub(super) fn writing(&self) -> Writing {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        text.push_str(TITLE);
        text.push('\n');
        line(&mut text, "key", self.signer.seed().as_bytes());
        line(&mut text, "secret", self.secret.as_bytes());
        line(&mut text, "seq", &self.seq.to_be_bytes());
        if let Some(last) = &self.last {
            line(&mut text, "number", &last.number.to_be_bytes());
            line(&mut text, "torrent", &last.torrent);
        }
        Writing {
            dir: Arc::clone(&self.dir),
            file: self.file.clone(),
            text,
        }
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[feed's keys]")
    }
}

/// A publisher's text, for its file.
pub(super) struct Writing {
    dir: Arc<StateDir>,
    file: String,
    text: Zeroizing<String>,
}

impl Writing {
    /// Writes it, whole or not at all. This blocks.
    pub(super) fn write(&self) -> Result<(), StateError> {
        self.dir.write_secret(&self.file, self.text.as_bytes())
    }
}

fn parse(content: &[u8], dir: &Arc<StateDir>, file: &str) -> Option<Publisher> {
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let key = value::<32>(lines.next()?, "key")?;
    let secret = value::<32>(lines.next()?, "secret")?;
    let seq = value::<8>(lines.next()?, "seq")?;
    let last = match lines.next() {
        None => None,
        Some(number) => Some(Last {
            number: u64::from_be_bytes(*value::<8>(number, "number")?),
            torrent: *value::<32>(lines.next()?, "torrent")?,
        }),
    };
    let seq = i64::from_be_bytes(*seq);
    if lines.next().is_some() || seq < 0 {
        return None;
    }
    Some(Publisher {
        signer: IdentityKey::from_seed(*key),
        secret: Key32::new(*secret),
        seq,
        last,
        kept: last,
        dir: Arc::clone(dir),
        file: file.to_owned(),
    })
}

fn damaged(dir: &StateDir, file: &str) -> Error {
    let path = match dir.path_of(file) {
        Ok(path) => path.display().to_string(),
        Err(error) => error.to_string(),
    };
    Error::local(format!("{path} is not the file of a feed, or a damaged one"))
        .with_hint("put it back from a backup; or move it away, and the feed gets new keys and a new link, which its readers have to be given")
        .with_exit(Exit::Disk)
}
