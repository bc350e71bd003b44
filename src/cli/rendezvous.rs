//! Hidden seeds over circuits, as `seed` and `get` run them: one for each torrent, with keys of its own.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::rendezvous::{Contact, SwarmKey};
use hushswarm_circuits::target::Target;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::tor::service_of_url;
use crate::dht::Dht;
use crate::error::{Error, Exit, Kind};
use crate::hidden::{
    Book, HiddenRoute, Host, HostOptions, Identity, Notice, Sealed, publish, seek,
};
use crate::hush::SeedKey;
use crate::overlay::client::Client;
use crate::route::special::Place;
use crate::route::{BoxStream, Outside};
use crate::torrent::engine::{Engine, OnionDoor, Options, Source};
use crate::torrent::gossip::SeedBook;
use crate::torrent::infohash::InfoHash;

/// A link is shown when this many introduction points stand, or what stands after [`PATIENCE`].
const POINTS: usize = 3;

/// Three circuits of three hops take a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// Seconds until hidden seeds are looked for again: as often as a client asks a tracker.
const LOOK_AGAIN: Range<u64> = 15 * 60..30 * 60;

/// A hidden seed that is on its way.
pub(super) struct HiddenSeed {
    /// It stands for as long as this is kept.
    _host: Host,
    /// It is written into the DHT for as long as this is kept.
    _notice: Option<Notice>,
    visitors: mpsc::Receiver<Sealed>,
    contact: watch::Receiver<Option<Contact>>,
}

impl HiddenSeed {
    /// Takes up introduction points, for as long as the value lives, and says in the DHT which they are, sealed to those who
    /// know the infohash.
    pub(super) fn start(
        outside: Arc<dyn Outside>,
        identity: Identity,
        hash: &InfoHash,
        dht: Option<Arc<Dht>>,
    ) -> Result<Self, Error> {
        let swarm = SwarmKey::new(&hash.0).map_err(|error| {
            Error::new(Kind::Bug, "can't make a key of the infohash").with_source(error)
        })?;
        let options = HostOptions {
            points: POINTS,
            ..HostOptions::default()
        };
        let (host, visitors) = Host::start(outside, identity, swarm, options);
        let contact = host.contact();
        let notice = dht.map(|dht| publish(dht, hash.0, contact.clone()));
        Ok(Self {
            _host: host,
            _notice: notice,
            visitors,
            contact,
        })
    }

    /// Waits until it can be found. Cancel safe.
    pub(super) async fn found(&mut self) -> Option<Contact> {
        let first = self.contact.wait_for(Option::is_some).await;
        drop(first.ok()?);
        let all = |contact: &Option<Contact>| {
            let points = contact.iter().flat_map(Contact::points);
            let relays: BTreeSet<_> = points.map(|point| point.relay).collect();
            relays.len() >= POINTS
        };
        // Where the network has fewer relays that introduce, fewer will do.
        let _ = timeout(PATIENCE, self.contact.wait_for(all)).await;
        self.contact.borrow().clone()
    }

    /// Leads those who come to the torrent, and lets it know how it is reached, for as long as this is awaited.
    pub(super) async fn lead(mut self, door: OnionDoor) {
        door.stand(self.contact.borrow_and_update().clone());
        loop {
            tokio::select! {
                visitor = self.visitors.recv() => match visitor {
                    Some(stream) => door.accept(Box::new(stream) as BoxStream),
                    None => return,
                },
                Ok(()) = self.contact.changed() => {
                    door.stand(self.contact.borrow_and_update().clone());
                }
            }
        }
    }
}

impl SeedBook for Book {
    fn learn(&self, hash: InfoHash, contact: Contact) -> Option<Target> {
        Self::learn(self, hash.0, contact)
    }

    fn hear(&self, hash: InfoHash, contact: Contact) -> Option<Target> {
        Self::hear(self, hash.0, contact)
    }

    fn contact(&self, hash: InfoHash, key: &SeedKey) -> Option<Contact> {
        let (swarm, contact) = self.find(key)?;
        (swarm == hash.0).then_some(contact)
    }

    fn forget(&self, hash: InfoHash, key: &SeedKey) {
        if self.contact(hash, key).is_some() {
            Self::forget(self, key);
        }
    }
}

/// An engine for one torrent that knows hidden seeds of that torrent alone.
pub(super) fn engine(outside: Arc<dyn Outside>, mut options: Options) -> Engine {
    let book = Arc::new(Book::default());
    let seeds: Arc<dyn SeedBook> = Arc::<Book>::clone(&book);
    options.seeds = Some(seeds);
    Engine::new(Arc::new(HiddenRoute::new(outside, book)), options)
}

/// What a download has to do with hidden seeds.
pub(super) struct Meetings {
    hash: InfoHash,
    book: Arc<Book>,
    /// Its link names some.
    named: bool,
    /// Trackers and public peers of such a link, which are left out.
    left_out: usize,
    shares: bool,
    dht: Option<Arc<Dht>>,
}

impl Meetings {
    /// Notes the hidden seeds that a link names, and lets it name them as peers. Where it does, it names nobody any more who is to
    /// be found in public; and if `share` is set, what comes is shared as a hidden seed.
    pub(super) fn of(source: &mut Source, share: bool) -> Self {
        let book = Arc::new(Book::default());
        let (hash, named, left_out) = match source {
            Source::Magnet(magnet) => {
                let seeds = magnet.seeds.iter().cloned();
                let targets = seeds.filter_map(|seed| book.learn(magnet.hash.0, seed));
                let targets: Vec<_> = targets.collect();
                let named = !targets.is_empty();
                let before = magnet.peers.len() + magnet.trackers.len();
                if named {
                    magnet.peers.retain(Place::is_concealed);
                    magnet.trackers.retain(|url| service_of_url(url).is_some());
                }
                let left_out = before - magnet.peers.len() - magnet.trackers.len();
                magnet.peers.extend(targets);
                (magnet.hash, named, left_out)
            }
            Source::Metainfo(metainfo) => (metainfo.info.hash, false, 0),
        };
        Self {
            hash,
            book,
            named,
            left_out,
            shares: named && share,
            dht: None,
        }
    }

    /// Whether what comes is shared.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// Whether there may be any hidden peers.
    pub(super) fn any(&self) -> bool {
        self.named
    }

    /// Trackers and public peers of the link that are left out, since it names hidden seeds.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Looks for them here too, where that may be.
    pub(super) fn look_in(&mut self, dht: Option<Arc<Dht>>) {
        self.dht = dht.filter(|_| self.named);
    }

    /// Those that are known.
    pub(super) fn book(&self) -> Arc<dyn SeedBook> {
        Arc::<Book>::clone(&self.book)
    }

    /// The way out that reaches them too.
    pub(super) fn route(&self, outside: Arc<dyn Outside>) -> Arc<dyn Outside> {
        Arc::new(HiddenRoute::new(outside, Arc::clone(&self.book)))
    }

    /// Looks for hidden seeds, and is one, for as long as it is awaited. What goes wrong stops no download.
    pub(super) async fn run(self, outside: Arc<dyn Outside>, door: OnionDoor) {
        let looking = async {
            if let Some(dht) = self.dht {
                look(dht, self.hash, &self.book, &door).await;
            }
        };
        let sharing = async {
            if self.shares {
                share(outside, &self.hash, door.clone()).await;
            }
        };
        tokio::join!(looking, sharing);
    }
}

/// Is a hidden seed of what has come, with keys that nobody has seen before. Hidden peers hear of it; the DHT does not, since the
/// torrent may be private.
async fn share(outside: Arc<dyn Outside>, hash: &InfoHash, door: OnionDoor) {
    let identity = Identity::ephemeral(&mut rand::rng());
    match HiddenSeed::start(outside, identity, hash, None) {
        Ok(seed) => seed.lead(door).await,
        Err(error) => tracing::warn!(%error, "nothing is shared as a hidden seed"),
    }
}

/// Looks in the DHT for hidden seeds of this swarm, again and again, and tells the torrent of those that are found.
async fn look(dht: Arc<Dht>, hash: InfoHash, book: &Book, door: &OnionDoor) {
    loop {
        let mut seeking = seek(Arc::clone(&dht), hash.0);
        while let Some(contact) = seeking.next().await {
            if let Some(target) = book.hear(hash.0, contact) {
                door.tell(target);
            }
        }
        let wait = rand::rng().random_range(LOOK_AGAIN);
        sleep(Duration::from_secs(wait)).await;
    }
}

/// Whether any relay of the list introduces.
pub(super) fn is_possible(client: &Client) -> bool {
    let list = client.list();
    list.relays().iter().any(|relay| relay.roles.introduce)
}

/// The same, for who asked for it.
///
/// # Errors
/// None does: tell the user what else there is.
pub(super) fn require(client: &Client) -> Result<(), Error> {
    if is_possible(client) {
        return Ok(());
    }
    let what = "no relay of this network introduces hidden seeds";
    Err(Error::new(Kind::Policy, what)
        .with_exit(Exit::NoNetwork)
        .with_hint("ask its operators to set \"introduce = true\" in relay.toml; or seed --over tor, or --over circuits to those whom a tracker or the DHT names"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::{IntroductionId, Point};

    use super::*;
    use crate::cli::dht::is_hidden;
    use crate::onion::OnionKey;
    use crate::torrent::magnet::Magnet;

    fn link(rest: &str) -> Source {
        let link = format!("magnet:?xt=urn:btih:{}{rest}", "07".repeat(20));
        Source::Magnet(Magnet::parse(&link).unwrap())
    }

    fn seed() -> String {
        let point = Point {
            relay: RelayId([1; 32]),
            introduction: IntroductionId([2; 32]),
        };
        let contact = Contact::new([3; 32], vec![point]).unwrap();
        format!(
            "&x.hush={}",
            data_encoding::BASE64URL_NOPAD.encode(&contact.encode())
        )
    }

    #[test]
    fn nobody_in_public_hears_of_a_torrent_whose_link_names_hidden_seeds() {
        let onion = OnionKey([1; 32]).address();
        let public =
            "&tr=http://t.example/a&tr=udp://u.example:1/a&x.pe=192.0.2.1:6881&x.pe=p.example:1";
        let concealed = format!("&x.pe={onion}:6881&tr=http://{onion}/a");
        let mut source = link(&format!("{public}{concealed}{}", seed()));
        let meetings = Meetings::of(&mut source, true);
        assert!(meetings.any() && meetings.shares());
        assert_eq!(meetings.left_out(), 4);
        let Source::Magnet(magnet) = &source else {
            panic!("it was a link");
        };
        assert!(magnet.peers.iter().all(Place::is_concealed));
        assert_eq!((magnet.peers.len(), magnet.trackers.len()), (2, 1));
        assert!(
            is_hidden(&magnet.peers, std::iter::empty()),
            "never looked up in public"
        );

        // Another stays as it was, and looks for no hidden seeds.
        let mut source = link(public);
        let mut meetings = Meetings::of(&mut source, true);
        assert!(!meetings.any() && !meetings.shares());
        assert_eq!(meetings.left_out(), 0);
        meetings.look_in(None);
        assert!(meetings.dht.is_none());
        let Source::Magnet(magnet) = &source else {
            panic!("it was a link");
        };
        assert_eq!((magnet.peers.len(), magnet.trackers.len()), (2, 2));
    }

    #[test]
    fn who_only_takes_is_no_hidden_seed() {
        let meetings = Meetings::of(&mut link(&seed()), false);
        assert!(meetings.any() && !meetings.shares());
    }
}
