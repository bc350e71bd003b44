//! What an answer, or none, changes.

use super::{Errand, Event, Goal, Lookup, Stage};
use crate::krpc::contact::{Contact, is_usable};
use crate::krpc::message::Response;

impl Lookup {
    /// An answer to this query came.
    pub(super) fn answered(&mut self, errand: &Errand, response: &Response<'_>) {
        let (family, allow_private) = (self.family, self.settings.allow_private);
        let nodes = response.nodes(family);
        let nodes = nodes.filter(move |contact| is_usable(family, contact.addr, allow_private));
        match errand {
            Errand::Bootstrap(_) => self.walk.heard(None, nodes),
            // Another node, or one that changes its id: what it says is worth nothing.
            Errand::Walk(contact) | Errand::Tell(contact) | Errand::Store(contact)
                if response.id != contact.id =>
            {
                self.failed(errand);
                // But this is who is there: somebody may have told of an honest node under false ids, so that it is not asked
                // under its own.
                let there = Contact {
                    id: response.id,
                    addr: contact.addr,
                };
                self.walk.proven(contact, there);
                return;
            }
            Errand::Walk(contact) => {
                self.walk.answers(contact);
                self.walk.heard(Some(contact), nodes);
            }
            Errand::Tell(contact) => {
                if let Some(known) = self.walk.find(contact) {
                    known.stage = Stage::Told(response.token.map(Box::from));
                }
                self.walk.heard(Some(contact), nodes);
                self.take(response);
            }
            Errand::Store(contact) => {
                if let Some(known) = self.walk.find(contact) {
                    known.stage = Stage::Stored;
                }
                self.summary.stored += 1;
                self.events.push_back(Event::Stored(self.summary.stored));
            }
        }
        self.summary.answered += 1;
    }

    /// Takes what was looked for.
    fn take(&mut self, response: &Response<'_>) {
        let name = match &self.goal {
            Goal::Nodes => return,
            Goal::Peers | Goal::Announce { .. } => {
                let new = self.found.add(response.peers(self.family));
                self.summary.peers = self.found.len();
                if !new.is_empty() {
                    self.events.push_back(Event::Peers(new));
                }
                return;
            }
            Goal::Get(name) => name.clone(),
            Goal::Put(item) => item.name(),
        };
        let Some(Ok(item)) = response.item(&name) else {
            return;
        };
        let newer = match &self.newest {
            None => true,
            Some(newest) => item.seq() > newest.seq(),
        };
        if newer {
            self.newest = Some(item.clone());
            self.events.push_back(Event::Item(item));
        }
    }

    /// No answer, or a useless one.
    pub(super) fn failed(&mut self, errand: &Errand) {
        match errand {
            Errand::Bootstrap(_) => {}
            Errand::Walk(contact) => self.walk.silent(contact),
            Errand::Tell(contact) => {
                if let Some(known) = self.walk.find(contact) {
                    known.stage = Stage::Told(None);
                }
            }
            Errand::Store(contact) => {
                if let Some(known) = self.walk.find(contact) {
                    known.stage = Stage::Stored;
                }
            }
        }
    }
}
