//! Being found through the DHT (PROTOCOL.md §8.6): a seed's contact is written there anew and again, and visitors read it.
//!
//! Each slot is asked for in a circuit of its own ([`crate::dht`]), so that no exit sees two of one swarm. What stands there was written by
//! somebody who knows the infohash, and by nobody else; it is believed no more than a peer's word.

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::rendezvous::Contact;
use hushswarm_circuits::rendezvous::item::{self, Entry, Period, SLOTS, Slot};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::debug;

use super::items;
use crate::config::unix_now;
use crate::dht::{Dht, Finding, Found, Outcome};
use crate::krpc::Item;

/// Where it stands at none of the points that were written any more, it is written in so many seconds: others may follow at once, and nobody
/// is to see by the DHT when the last was lost.
pub(super) const SETTLE: Range<u64> = 30..90;
/// Changes are not written more often than this, seconds.
pub(super) const LEAST_BETWEEN: u64 = 5 * 60;
/// It is written anew after so many seconds: nodes keep items for two hours, and one attempt may fail.
pub(super) const AGAIN: Range<u64> = 45 * 60..55 * 60;
/// In a new period it is written within so many seconds.
pub(super) const NEW_PERIOD: Range<u64> = 5..300;
/// After a failure it is tried again in so many seconds, then in twice as many, up to the longest.
pub(super) const FIRST_WAIT: u64 = 60;
pub(super) const LONGEST_WAIT: u64 = 20 * 60;
/// Attempts to read a slot, each by another exit.
pub(super) const ATTEMPTS: u16 = 3;
/// Contacts found that nobody has taken yet.
const UNTAKEN: usize = 16;

pub(super) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A seed's contact is written into the DHT until this is dropped.
#[derive(Debug)]
pub struct Notice {
    task: AbortHandle,
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes the contact of a seed ([`super::Host::contact`]) into the DHT, for those who know the infohash: before nodes forget it, when the names change,
/// and when the seed stands at none of the points any more that were written.
pub fn publish(
    dht: Arc<Dht>,
    infohash: [u8; 20],
    contact: watch::Receiver<Option<Contact>>,
) -> Notice {
    publish_at(dht, infohash, contact, Arc::new(unix_now))
}

fn publish_at(
    dht: Arc<Dht>,
    infohash: [u8; 20],
    contact: watch::Receiver<Option<Contact>>,
    clock: Clock,
) -> Notice {
    let board = Board {
        dht,
        infohash,
        clock,
    };
    let task = tokio::spawn(async move { board.keep(contact).await });
    Notice {
        task: task.abort_handle(),
    }
}

/// A look into the DHT for seeds. Dropping it ends it.
#[derive(Debug)]
pub struct Seeking {
    contacts: mpsc::Receiver<Contact>,
    task: AbortHandle,
}

impl Seeking {
    /// The next contact, of some seed or of one that came before at other points; `None` when all was read. Try again after some minutes, if nobody could be reached.
    pub async fn next(&mut self) -> Option<Contact> {
        self.contacts.recv().await
    }
}

impl Drop for Seeking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks for seeds of a hidden swarm in the DHT, once.
pub fn seek(dht: Arc<Dht>, infohash: [u8; 20]) -> Seeking {
    seek_at(dht, infohash, Arc::new(unix_now))
}

fn seek_at(dht: Arc<Dht>, infohash: [u8; 20], clock: Clock) -> Seeking {
    let (found, contacts) = mpsc::channel(UNTAKEN);
    let board = Arc::new(Board {
        dht,
        infohash,
        clock,
    });
    let task = tokio::spawn(async move { board.seek(found).await });
    Seeking {
        contacts,
        task: task.abort_handle(),
    }
}

/// The slots of one swarm.
struct Board {
    dht: Arc<Dht>,
    infohash: [u8; 20],
    clock: Clock,
}

/// A slot as it was read.
struct Read {
    slot: Slot,
    number: u8,
    item: Option<Item>,
    entries: Vec<Entry>,
}

/// Reading or writing failed: later, by another exit.
struct Failed;

impl Board {
    async fn keep(self, mut contact: watch::Receiver<Option<Contact>>) {
        let mut own: Option<(Period, u8)> = None;
        // How it is reached, as visitors were told last.
        let mut told: Option<Contact> = None;
        let (mut wait, mut attempt) = (FIRST_WAIT, 0);
        let mut soon = SETTLE;
        loop {
            if contact.wait_for(Option::is_some).await.is_err() {
                return;
            }
            pause(soon).await;
            // As it is now, after what followed.
            let Some(now) = contact.borrow_and_update().clone() else {
                soon = SETTLE;
                continue;
            };
            let period = Period::at(&self.infohash, (self.clock)());
            let known = own.filter(|(of, _)| *of == period);
            let written = self
                .write(&period, known.map(|(_, slot)| slot), now.clone(), attempt)
                .await;
            let (least, due) = if let Ok(number) = written {
                own = Some((period, number));
                told = Some(now);
                (wait, attempt) = (FIRST_WAIT, 0);
                let left = period.left((self.clock)());
                let change = left + rand::rng().random_range(NEW_PERIOD);
                (LEAST_BETWEEN, rand::rng().random_range(AGAIN).min(change))
            } else {
                debug!("a hidden seed's contact is not in the DHT yet");
                let due = wait + rand::rng().random_range(0..wait);
                wait = LONGEST_WAIT.min(wait * 2);
                attempt = attempt.wrapping_add(1);
                if attempt >= ATTEMPTS {
                    // Somebody may hold the slot against us.
                    own = None;
                }
                (due, due)
            };
            let rest = due.saturating_sub(least);
            pause(least..least + 1).await;
            let moved = async {
                match &told {
                    Some(told) => contact.wait_for(|now| has_moved(told, now)).await.is_ok(),
                    None => std::future::pending().await,
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
            if contact.borrow().is_none() {
                // When it stands again is not to be read off the DHT either.
                soon = SETTLE;
            }
        }
    }

    /// Writes into the slot that it had, or into the emptiest; gives its number.
    async fn write(
        &self,
        period: &Period,
        own: Option<u8>,
        contact: Contact,
        attempt: u16,
    ) -> Result<u8, Failed> {
        let read = match own {
            Some(number) => self.read(period, number, attempt).await?,
            None => self.emptiest(period, attempt).await?,
        };
        let time = (self.clock)();
        let seq = items::next_seq(read.item.as_ref(), time).ok_or(Failed)?;
        let entries = item::merge(contact, period.since(time), read.entries);
        let old = read.item.as_ref();
        let item = items::write(&read.slot, &entries, seq, old, &mut rand::rng());
        let item = item.map_err(|_| Failed)?;
        let finding = self.dht.put(item, attempt).map_err(|_| Failed)?;
        match end(finding).await {
            (_, Some(Outcome::Stored(1..))) => Ok(read.number),
            _ => Err(Failed),
        }
    }

    /// The slot with the fewest contacts that can be written; any of those.
    async fn emptiest(&self, period: &Period, attempt: u16) -> Result<Read, Failed> {
        let mut numbers: Vec<u8> = (0..SLOTS).collect();
        numbers.shuffle(&mut rand::rng());
        let mut best: Option<Read> = None;
        for number in numbers {
            let Ok(read) = self.read(period, number, attempt).await else {
                continue;
            };
            let writable = items::next_seq(read.item.as_ref(), 0).is_some();
            let emptier = |best: &Read| read.entries.len() < best.entries.len();
            if writable && best.as_ref().is_none_or(emptier) {
                best = Some(read);
            }
        }
        best.ok_or(Failed)
    }

    async fn read(&self, period: &Period, number: u8, attempt: u16) -> Result<Read, Failed> {
        let slot = Slot::new(&self.infohash, period, number);
        let name = items::name(&slot).map_err(|_| Failed)?;
        let finding = self.dht.get(name, attempt).map_err(|_| Failed)?;
        let (item, Some(Outcome::Items(_))) = end(finding).await else {
            return Err(Failed);
        };
        let entries = item.as_ref().map(|item| items::read(&slot, item));
        Ok(Read {
            slot,
            number,
            item,
            entries: entries.unwrap_or_default(),
        })
    }

    async fn seek(self: Arc<Self>, found: mpsc::Sender<Contact>) {
        let periods = Period::around(&self.infohash, (self.clock)());
        let mut slots: Vec<_> = (0..SLOTS).collect();
        slots.shuffle(&mut rand::rng());
        let mut reading = JoinSet::new();
        // This period's first.
        for period in periods {
            for number in slots.clone() {
                let board = Arc::clone(&self);
                reading.spawn(async move {
                    for attempt in 0..ATTEMPTS {
                        if let Ok(read) = board.read(&period, number, attempt).await {
                            return read.entries;
                        }
                    }
                    Vec::new()
                });
            }
        }
        let mut known = BTreeSet::new();
        while let Some(read) = reading.join_next().await {
            for entry in read.unwrap_or_default() {
                let new = known.insert(entry.contact.encode());
                if new && found.send(entry.contact).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether the seed stands somewhere, and nowhere that was told. Only then it is written early: else a relay could let its introduction point
/// fall, see which item is written within a minute, and so learn which item is whose.
pub(super) fn has_moved(told: &Contact, now: &Option<Contact>) -> bool {
    now.as_ref().is_some_and(|now| {
        let mut points = now.points().iter();
        !points.any(|point| told.points().contains(point))
    })
}

/// The newest item that a lookup brought, and how it ended.
pub(super) async fn end(mut finding: Finding) -> (Option<Item>, Option<Outcome>) {
    let (mut newest, mut outcome) = (None, None);
    while let Some(found) = finding.next().await {
        match found {
            Found::Item(item) => newest = Some(item),
            Found::Over(how) => outcome = Some(how),
            Found::Begun | Found::Peers(_) => {}
        }
    }
    (newest, outcome)
}

/// A number of this range.
pub(super) fn within(seconds: Range<u64>) -> u64 {
    rand::rng().random_range(seconds)
}

/// Waits for so long, to the millisecond.
pub(super) async fn pause(seconds: Range<u64>) {
    let millis = rand::rng().random_range(seconds.start * 1000..seconds.end * 1000);
    sleep(Duration::from_millis(millis)).await;
}
