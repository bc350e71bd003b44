//! Reads a feed, and never goes back.

use std::cmp::Ordering;
use std::sync::Arc;

use hushswarm_circuits::rendezvous::feed::FeedPlace;
use hushswarm_circuits::rendezvous::{FeedKey, Issue};
use zeroize::Zeroizing;

use super::super::identity::{line, value};
use super::super::notice::{ATTEMPTS, Clock, end};
use super::{file_name, mark, name, sealed};
use crate::bencode::Value;
use crate::config::unix_now;
use crate::dht::{Dht, Outcome};
use crate::error::{Error, Exit};
use crate::krpc::{Item, ItemName};
use crate::state::StateDir;

const TITLE: &str = "hushswarm followed feed v1";
/// Derives a file's name from the feed.
const FILE: &str = "hushswarm v1 file of a followed feed";
/// Longest file, bytes.
const MAX_FILE: usize = 512;

/// What is followed. `Debug` hides it.
#[derive(Clone)]
pub enum Feed {
    /// Sealed to those who have the link.
    Sealed(FeedKey),
    /// In the clear (BEP 46).
    Plain {
        /// The publisher's (Ed25519).
        key: [u8; 32],
        /// At most 64 bytes, or nothing is ever found; empty where there is none.
        salt: Vec<u8>,
    },
}

impl Feed {
    /// What files derive from.
    fn material(&self) -> Vec<&[u8]> {
        match self {
            Self::Sealed(feed) => vec![b"sealed", &feed.public.0, feed.secret().as_bytes()],
            Self::Plain { key, salt } => vec![b"plain", key, salt],
        }
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[feed]")
    }
}

/// What becomes of a version that names no hidden seed, where the one before did. The publisher alone can sign it, and may have done so by a mistake; his readers
/// would stand among public peers all of a sudden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unhidden {
    /// It is not taken.
    Refused,
    /// It is taken, and looked for among hidden peers alone, which is up to the caller.
    StillHidden,
    /// It is taken, and those after it, until one names a hidden seed again.
    Taken,
}

/// Why there is nothing new.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Nothing stands there: the publisher has not been there for two hours, or nothing was ever put out.
    #[error("nothing of this feed stands in the DHT")]
    Nothing,
    /// The publisher signed it, and the link does not open it.
    #[error("the publisher's newest is there, but this link does not open it")]
    Unopened,
    /// It has the number of what was seen before, and is another torrent: the publisher signed both, and which is newer nobody can tell.
    #[error(
        "two versions of this feed have one number, and the one that was seen first is kept: its publisher put back an old copy of the keys, or somebody else publishes with them"
    )]
    Twice,
    /// It is older than what was seen before. It is not taken: somebody shows what is over.
    #[error("what stands in the DHT is older than what was seen before, and is not taken")]
    Older,
    /// It names no hidden seed, and the one before did ([`Unhidden::Refused`]).
    #[error(
        "the publisher's newest is no hidden seed's any more, as the one before was, and is not taken from public peers unasked"
    )]
    Unhidden,
    /// The DHT can't be asked.
    #[error("the DHT can't be asked: {0}")]
    Network(Outcome),
    /// What was seen can't be written down.
    #[error(transparent)]
    Disk(#[from] Error),
}

/// The newest that was seen.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    number: u64,
    torrent: [u8; 32],
    /// The number under which this torrent was seen first: for its readers a version stays one when its publisher counts on.
    first: u64,
    /// When, seconds since 1970.
    at: u64,
    /// Whether it is had from hidden peers alone.
    hidden: bool,
}

/// Follows a feed. `Debug` hides it.
pub struct Follower {
    feed: Feed,
    dht: Arc<Dht>,
    seen: Option<Seen>,
    unhidden: Unhidden,
    dir: Arc<StateDir>,
    file: String,
    /// Counts up with each question, so that each has a circuit and an exit of its own.
    attempt: u16,
    clock: Clock,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[follower]")
    }
}

impl Follower {
    /// Follows a feed from the newest that was seen with this state folder. This blocks.
    ///
    /// # Errors
    /// The file of what was seen is damaged, or the disk: tell the user.
    pub fn keep(state: &StateDir, feed: Feed, dht: Arc<Dht>) -> Result<Self, Error> {
        Self::keep_at(state, feed, dht, Arc::new(unix_now))
    }

    /// What becomes of a version without a hidden seed, after one with; it is refused by default.
    #[must_use]
    pub fn with_unhidden(mut self, unhidden: Unhidden) -> Self {
        self.unhidden = unhidden;
        self
    }

    pub(super) fn keep_at(
        state: &StateDir,
        feed: Feed,
        dht: Arc<Dht>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let dir = Arc::new(StateDir::open(state.path())?);
        let file = format!("{}.seen", file_name(FILE, &feed.material()));
        let seen = match dir.read(&file, MAX_FILE)? {
            None => None,
            Some(content) => Some(parse(&content).ok_or_else(|| damaged(&dir, &file))?),
        };
        Ok(Self {
            feed,
            dht,
            seen,
            unhidden: Unhidden::Refused,
            dir,
            file,
            attempt: 0,
            clock,
        })
    }

    /// When the publisher's newest was read last, seconds since 1970.
    pub fn last_seen(&self) -> Option<u64> {
        self.seen.map(|seen| seen.at)
    }

    /// Looks for the newest: the one that was seen before, or a newer one. Its number is that under which its torrent was seen first.
    ///
    /// # Errors
    /// There is none, or none that may be taken: look again later.
    pub async fn look(&mut self) -> Result<Issue, LookError> {
        let now = (self.clock)();
        let places: Vec<Option<FeedPlace>> = match &self.feed {
            Feed::Sealed(feed) => {
                let periods = feed.around(now);
                periods.iter().map(|day| Some(feed.place(day))).collect()
            }
            Feed::Plain { .. } => vec![None],
        };
        let mut worst = None;
        for place in &places {
            for _ in 0..ATTEMPTS {
                match self.read(place.as_ref()).await {
                    Ok(mut issue) => {
                        issue.number = self.note(&issue, now).await?;
                        return Ok(issue);
                    }
                    // What was signed tells more than what is missing, and that more than who can't be asked.
                    Err(error) if rank(&error) >= worst.as_ref().map_or(0, rank) => {
                        worst = Some(error);
                    }
                    Err(_) => {}
                }
            }
        }
        Err(worst.unwrap_or(LookError::Nothing))
    }

    async fn read(&mut self, place: Option<&FeedPlace>) -> Result<Issue, LookError> {
        let name = match (&self.feed, place) {
            (Feed::Sealed(feed), Some(place)) => name(&feed.public.0, place),
            (Feed::Sealed(feed), None) => ItemName::mutable(&feed.public.0, &[]),
            (Feed::Plain { key, salt }, _) => ItemName::mutable(key, salt),
        };
        let name = name.map_err(|_| LookError::Nothing)?;
        let finding = self.dht.get(name, self.attempt);
        self.attempt = self.attempt.wrapping_add(1);
        let finding = finding.map_err(|_| LookError::Network(Outcome::Busy))?;
        let item = match end(finding).await {
            (Some(item), _) => item,
            (None, Some(Outcome::Items(_))) => return Err(LookError::Nothing),
            (None, outcome) => {
                let outcome = outcome.unwrap_or(Outcome::CircuitLost);
                return Err(LookError::Network(outcome));
            }
        };
        let issue = match place {
            Some(place) => place.open(sealed(&item)).ok(),
            None => plain(&item),
        };
        let issue = issue.ok_or(LookError::Unopened)?;
        if let Some(seen) = &self.seen {
            match issue.number.cmp(&seen.number) {
                Ordering::Less => return Err(LookError::Older),
                Ordering::Equal if self.mark(&issue) != seen.torrent => {
                    return Err(LookError::Twice);
                }
                Ordering::Equal | Ordering::Greater => {}
            }
        }
        let falls = issue.contact.is_none() && self.was_hidden();
        if falls && self.unhidden == Unhidden::Refused {
            return Err(LookError::Unhidden);
        }
        Ok(issue)
    }

    fn was_hidden(&self) -> bool {
        self.seen.is_some_and(|seen| seen.hidden)
    }

    fn mark(&self, issue: &Issue) -> [u8; 32] {
        let material = Zeroizing::new(self.feed.material().concat());
        mark(&material, &issue.infohash)
    }

    /// Writes down that it was seen; gives the number under which its torrent was first.
    async fn note(&mut self, issue: &Issue, now: u64) -> Result<u64, LookError> {
        let torrent = self.mark(issue);
        let same = self.seen.filter(|seen| seen.torrent == torrent);
        let first = same.map_or(issue.number, |seen| seen.first);
        let seen = Seen {
            number: issue.number,
            torrent,
            first,
            at: now,
            hidden: issue.contact.is_some()
                || (self.was_hidden() && self.unhidden != Unhidden::Taken),
        };
        self.seen = Some(seen);
        let (dir, file) = (Arc::clone(&self.dir), self.file.clone());
        let writing = tokio::task::spawn_blocking(move || dir.write(&file, text(&seen).as_bytes()));
        // Else the runtime ends.
        if let Ok(written) = writing.await {
            written.map_err(Error::from)?;
        }
        Ok(first)
    }
}

fn rank(error: &LookError) -> u8 {
    match error {
        LookError::Network(_) => 1,
        LookError::Nothing => 2,
        LookError::Older => 3,
        LookError::Twice => 4,
        LookError::Unhidden => 5,
        LookError::Unopened => 6,
        LookError::Disk(_) => 7,
    }
}

/// `{ "ih": infohash }` (BEP 46).
fn plain(item: &Item) -> Option<Issue> {
    let [infohash] = Value::parse(item.value()).ok()?.fields(["ih"]).ok()?;
    Some(Issue {
        number: u64::try_from(item.seq()?).ok()?,
        infohash: infohash?.as_bytes()?.try_into().ok()?,
        name: String::new(),
        contact: None,
    })
}

fn text(seen: &Seen) -> String {
    let mut out = format!("{TITLE}\n");
    line(&mut out, "number", &seen.number.to_be_bytes());
    line(&mut out, "torrent", &seen.torrent);
    line(&mut out, "at", &seen.at.to_be_bytes());
    line(&mut out, "hidden", &[u8::from(seen.hidden)]);
    if seen.first != seen.number {
        line(&mut out, "first", &seen.first.to_be_bytes());
    }
    out
}

fn parse(content: &[u8]) -> Option<Seen> {
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    if lines.next()? != TITLE {
        return None;
    }
    let number = u64::from_be_bytes(*value::<8>(lines.next()?, "number")?);
    let mut seen = Seen {
        number,
        torrent: *value::<32>(lines.next()?, "torrent")?,
        first: number,
        at: u64::from_be_bytes(*value::<8>(lines.next()?, "at")?),
        hidden: match *value::<1>(lines.next()?, "hidden")? {
            [0] => false,
            [1] => true,
            [_] => return None,
        },
    };
    if let Some(first) = lines.next() {
        seen.first = u64::from_be_bytes(*value::<8>(first, "first")?);
    }
    lines.next().is_none().then_some(seen)
}

fn damaged(dir: &StateDir, file: &str) -> Error {
    let path = match dir.path_of(file) {
        Ok(path) => path.display().to_string(),
        Err(error) => error.to_string(),
    };
    Error::local(format!(
        "{path} does not say what was seen of a feed, or is damaged"
    ))
    .with_hint("move it away: then what is no more than a day old may be shown as the newest once")
    .with_exit(Exit::Disk)
}
