//! Writes a feed's newest into the DHT, anew and again, for as long as it is asked to.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::rendezvous::{Contact, Issue};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::notice::{
    AGAIN, Clock, FIRST_WAIT, LEAST_BETWEEN, LONGEST_WAIT, NEW_PERIOD, SETTLE, end, has_moved,
    pause, within,
};
use super::{Publisher, name as name_of, sealed};
use crate::bencode;
use crate::config::unix_now;
use crate::dht::{Dht, Outcome};
use crate::krpc::{Item, ItemName};

/// The first time it is written so many seconds after it is known how the seed is reached: readers wait, and the moment at which the program was started
/// is not to be read off the DHT to the second.
const FIRST: Range<u64> = 2..10;

/// Nodes have forgotten what was written so long ago.
const FORGOTTEN: Duration = Duration::from_secs(2 * 3600);

/// The user hears of the second failure in a row: one exit may be bad, or one item written by two at once.
const TOLD_AFTER: u16 = 2;

/// How it stands with an issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    /// Nobody can read it yet.
    NotYet,
    /// It stands in the DHT.
    Stands,
    /// It stands there in the place of a newer one that this folder did not know of: it was put back from an old copy, or somebody else
    /// publishes with the same keys.
    StandsInstead,
    /// Nobody can read it, and writing it failed again and again; it goes on.
    Failing,
    /// Somebody else with the same keys put out a newer one: this one is not written any more.
    Overtaken,
}

/// An issue stands in the DHT until some time after this is dropped: nodes keep it for two hours.
#[derive(Debug)]
pub struct Issuing {
    /// How it stands.
    pub status: watch::Receiver<Issued>,
    task: AbortHandle,
}

impl Drop for Issuing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts a torrent out as the newest of a feed, with its name for display. Where it is a hidden seed's, `contact` says how that is
/// reached ([`super::super::Host::contact`]), and nothing is written while it is not. Call within a tokio runtime.
pub fn issue(
    dht: Arc<Dht>,
    publisher: Publisher,
    infohash: [u8; 20],
    name: String,
    contact: Option<watch::Receiver<Option<Contact>>>,
) -> Issuing {
    issue_at(dht, publisher, infohash, name, contact, Arc::new(unix_now))
}

pub(super) fn issue_at(
    dht: Arc<Dht>,
    publisher: Publisher,
    infohash: [u8; 20],
    name: String,
    contact: Option<watch::Receiver<Option<Contact>>>,
    clock: Clock,
) -> Issuing {
    let (status, seen) = watch::channel(Issued::NotYet);
    let press = Press {
        dht,
        publisher,
        infohash,
        name,
        clock,
        status,
        stood: None,
        numbered: false,
        behind: false,
    };
    let task = tokio::spawn(press.keep(contact)).abort_handle();
    Issuing { status: seen, task }
}

struct Press {
    dht: Arc<Dht>,
    publisher: Publisher,
    infohash: [u8; 20],
    name: String,
    clock: Clock,
    status: watch::Sender<Issued>,
    /// When it was written last by this process.
    stood: Option<Instant>,
    /// The number is one that this process has looked up or taken.
    numbered: bool,
    /// A newer one stood there that the file did not know of.
    behind: bool,
}

/// Why it was not written.
enum Failed {
    /// Later, by another exit.
    Later,
    /// Never again.
    Overtaken,
}

impl Press {
    async fn keep(mut self, mut contact: Option<watch::Receiver<Option<Contact>>>) {
        let (mut wait, mut attempt) = (FIRST_WAIT, 0_u16);
        // How it is reached, as readers were told last.
        let mut told = None;
        let mut soon = FIRST;
        loop {
            let now = match &mut contact {
                None => {
                    pause(soon).await;
                    None
                }
                Some(contact) => {
                    if contact.wait_for(Option::is_some).await.is_err() {
                        return;
                    }
                    pause(soon).await;
                    // As it is now, after what followed.
                    let now = contact.borrow_and_update().clone();
                    if now.is_none() {
                        soon = SETTLE;
                        continue;
                    }
                    now
                }
            };
            let (least, due) = match self.write(now.clone(), attempt).await {
                Ok(()) => {
                    told = now;
                    self.stood = Some(Instant::now());
                    self.status.send_replace(if self.behind {
                        Issued::StandsInstead
                    } else {
                        Issued::Stands
                    });
                    (wait, attempt) = (FIRST_WAIT, 0);
                    let time = (self.clock)();
                    let left = self.publisher.feed().period(time).left(time);
                    let change = left + within(NEW_PERIOD);
                    (LEAST_BETWEEN, within(AGAIN).min(change))
                }
                Err(Failed::Later) => {
                    debug!("a feed's newest is not in the DHT yet");
                    let due = wait + within(0..wait);
                    wait = LONGEST_WAIT.min(wait * 2);
                    attempt = attempt.saturating_add(1);
                    let gone = self.stood.is_none_or(|at| at.elapsed() >= FORGOTTEN);
                    if gone && attempt >= TOLD_AFTER {
                        self.status.send_replace(Issued::Failing);
                    }
                    (due, due)
                }
                Err(Failed::Overtaken) => {
                    self.status.send_replace(Issued::Overtaken);
                    return;
                }
            };
            let least = least.min(due);
            pause(least..least + 1).await;
            let rest = due - least;
            let moved = async {
                match (&mut contact, &told) {
                    (Some(contact), Some(told)) => {
                        contact.wait_for(|now| has_moved(told, now)).await.is_ok()
                    }
                    (None, _) | (_, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause(rest..rest + 1) => soon = 0..1,
                moved = moved => {
                    if !moved {
                        return;
                    }
                    soon = SETTLE;
                }
            }
            let nowhere = |contact: &watch::Receiver<Option<Contact>>| contact.borrow().is_none();
            if contact.as_ref().is_some_and(nowhere) {
                soon = SETTLE;
            }
        }
    }

    /// The item of this name; none, where nobody has it.
    async fn read(&self, name: ItemName, attempt: u16) -> Result<Option<Item>, Failed> {
        let finding = self.dht.get(name, attempt).map_err(|_| Failed::Later)?;
        match end(finding).await {
            (item, Some(Outcome::Items(_))) => Ok(item),
            _ => Err(Failed::Later),
        }
    }

    async fn write(&mut self, contact: Option<Contact>, attempt: u16) -> Result<(), Failed> {
        let later = |_| Failed::Later;
        let now = (self.clock)();
        let feed = self.publisher.feed();
        let place = feed.place(&feed.period(now));
        let name = name_of(&feed.public.0, &place).map_err(later)?;
        let old = self.read(name, attempt).await?;
        let mut other = old.as_ref().and_then(|old| place.open(sealed(old)).ok());
        if self.stood.is_none() {
            // What was written before the names changed is still read.
            for before in feed.around(now).iter().skip(1) {
                let place = feed.place(before);
                let name = name_of(&feed.public.0, &place).map_err(later)?;
                let old = self.read(name, attempt).await?;
                let older = old.as_ref().and_then(|old| place.open(sealed(old)).ok());
                let newer = |older: &Issue| other.as_ref().is_none_or(|o| o.number < older.number);
                other = older.filter(newer).or(other);
            }
        }
        let first = !std::mem::replace(&mut self.numbered, true);
        match &other {
            // At each attempt until one succeeds: what an exit did not show at the first one another may show at the next.
            Some(other) if self.stood.is_none() => {
                let own = other.infohash == self.infohash;
                self.behind |= !own && !self.publisher.knows(other);
            }
            // Nobody can say that the file is no old copy, whose number readers would refuse.
            None if first => self.publisher.forget(),
            Some(_) | None => {}
        }
        let number = self.publisher.number(&self.infohash, now);
        number.ok_or(Failed::Later)?;
        if let Some(other) = other
            && self.publisher.meets(&other)
        {
            if self.stood.is_some() {
                return Err(Failed::Overtaken);
            }
            // Of this key, and from before a backup was put back, or from another computer: what the user has just asked for is newer.
            self.publisher.pass(&other);
        }
        let number = self.publisher.number(&self.infohash, now);
        let number = number.ok_or(Failed::Later)?;
        let old = old.as_ref().and_then(Item::seq);
        let seq = self.publisher.next_seq(old, now).ok_or(Failed::Later)?;
        let writing = self.publisher.writing();
        let written = tokio::task::spawn_blocking(move || writing.write()).await;
        if let Ok(Err(error)) = written {
            // Signed without that, it might be signed again with the same number.
            warn!(%error, "a feed is not renewed while its file can't be written");
            return Err(Failed::Later);
        }
        let issue = Issue {
            number,
            infohash: self.infohash,
            name: self.name.clone(),
            contact,
        };
        let mut value = Vec::with_capacity(1000);
        bencode::put_bytes(&mut value, place.seal(&issue, &mut rand::rng()));
        let item = Item::sign(self.publisher.signer(), place.salt(), seq, &value);
        let item = item.map_err(later)?.with_cas(old);
        let finding = self.dht.put(item, attempt).map_err(|_| Failed::Later)?;
        match end(finding).await {
            (_, Some(Outcome::Stored(1..))) => Ok(()),
            _ => Err(Failed::Later),
        }
    }
}
