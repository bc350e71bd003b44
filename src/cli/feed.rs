//! `hushswarm seed --feed`: what is seeded is published under a link that stays.

use std::sync::Arc;

use hushswarm_circuits::rendezvous::Contact;
use serde::Serialize;
use tokio::sync::watch;

use super::progress::{Progress as Display, json_line};
use crate::dht::Dht;
use crate::error::{Error, Exit, Kind};
use crate::hidden::feed::{Issued, Issuing, Publisher, issue};
use crate::state::StateDir;
use crate::torrent::engine::Created;
use crate::torrent::feed::FeedLink;

/// Said where nobody can read a version, and what to do.
const UNPUBLISHED: &str = "not published: readers can't find this version, since it can't be written into the DHT; it is tried again and again
  hint: look whether this computer is online, the relay list has exits that look up in the DHT, and the state folder can be written; --log debug shows each attempt";

/// Said where readers saw a version that this folder does not know of.
const INSTEAD: &str = "published: readers of the feed find this version now, in the place of a newer one that this state folder did not know of
  hint: the folder was put back from an old copy, or somebody else publishes with the same keys; if you did not mean to replace that version, publish it again";

/// Checks what the parser of arguments does not see.
///
/// # Errors
/// It can't be published: tell the user why.
pub(super) fn check(
    by_tor: bool,
    ephemeral: bool,
    closed: bool,
    torrents: usize,
) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::new(Kind::Local, what).with_exit(Exit::Usage));
    if ephemeral {
        return wrong(
            "a feed's link leads to what its key signs, and --ephemeral keeps no key, so that nobody could follow it: leave one of them out",
        );
    }
    if by_tor {
        return wrong(
            "a feed names hidden seeds that are met at a relay, and no onion services: leave --over tor out",
        );
    }
    if closed {
        return wrong(
            "a seed that lets in only some stands in no DHT, and each version would need other keys of its visitors: leave --allow out; only who has the feed's link can read it",
        );
    }
    if torrents > 1 {
        return wrong("a feed has one newest version: name one PATH with --feed");
    }
    Ok(())
}

/// What is said where nothing is to be done in the DHT.
pub(super) fn no_dht() -> Error {
    let what = "a feed stands in the DHT, and nothing is to be done there";
    Error::new(Kind::Policy, what)
        .with_exit(Exit::Usage)
        .with_hint("leave --no-dht out, or let the routes file allow the DHT")
}

/// The feed of this name, from this state folder.
///
/// # Errors
/// Its file is damaged, or the disk: tell the user.
pub(super) fn keep(name: Option<&str>, state: &StateDir) -> Result<Option<Publisher>, Error> {
    let keep = |name| Publisher::keep(state, name, &mut rand::rng());
    name.map(keep).transpose()
}

/// What is published.
pub(super) struct Published {
    issuing: Issuing,
    link: FeedLink,
    /// What the user knows.
    said: Issued,
}

#[derive(Serialize)]
struct Link {
    link: String,
}

#[derive(Serialize)]
struct Stands {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    instead_of_newer: bool,
}

impl Published {
    /// Publishes the first of these torrents. `contact` says how it is reached, where it is a hidden seed's.
    pub(super) fn start(
        publisher: Publisher,
        torrents: &[Created],
        contact: Option<watch::Receiver<Option<Contact>>>,
        dht: Option<Arc<Dht>>,
    ) -> Result<Self, Error> {
        let dht = dht.ok_or_else(no_dht)?;
        let missing = || Error::new(Kind::Bug, "there is no torrent to publish");
        let info = &torrents.first().ok_or_else(missing)?.metainfo.info;
        let link = FeedLink::Sealed(publisher.feed());
        let issuing = issue(dht, publisher, info.hash.0, info.name.clone(), contact);
        Ok(Self {
            issuing,
            link,
            said: Issued::NotYet,
        })
    }

    /// Tells the user, or the program that reads the output, the feed's link.
    pub(super) fn show_link(&self, json: bool, display: &Display) {
        let link = self.link.to_string();
        if json {
            json_line("feed", &Link { link });
        } else {
            display.say("the link of the feed, which stays the same; whoever has it can read it:");
            display.say(&link);
        }
    }

    /// Says what is new.
    pub(super) fn hear(&mut self, json: bool, display: &Display) {
        let now = *self.issuing.status.borrow_and_update();
        if now == self.said {
            return;
        }
        self.said = now;
        let (event, text) = match now {
            Issued::NotYet => return,
            Issued::Stands => (
                "published",
                "published: readers of the feed find this version now",
            ),
            Issued::StandsInstead => ("published", INSTEAD),
            Issued::Failing => ("unpublished", UNPUBLISHED),
            Issued::Overtaken => (
                "overtaken",
                "the feed names a newer version, published elsewhere with the same keys: this one is no longer published, and still shared",
            ),
        };
        if json {
            json_line(
                event,
                &Stands {
                    instead_of_newer: now == Issued::StandsInstead,
                },
            );
        } else {
            display.say(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_published_is_refused_and_says_why() {
        assert!(check(false, false, false, 1).is_ok());
        for (refused, word) in [
            (check(false, true, false, 1), "--ephemeral"),
            (check(true, false, false, 1), "--over tor"),
            (check(false, false, true, 1), "--allow"),
            (check(false, false, false, 2), "one PATH"),
        ] {
            let said = refused.err().map(|error| error.to_string());
            assert!(said.is_some_and(|said| said.contains(word)), "{word}");
        }
    }
}
