//! Hidden seeds over circuits, as `seed` and `get` run them: one for each torrent, with keys of its own.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::rendezvous::message::Guests;
use hushswarm_circuits::rendezvous::{Contact, Point, SwarmKey};
use hushswarm_circuits::target::Target;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};

use super::tor::service_of_url;
use crate::dht::Dht;
use crate::error::{Error, Exit, Kind};
use crate::hidden::{
    Book, ConcealedOnly, Gauge, HiddenRoute, Host, HostOptions, Identity, Notice, Sealed, Starts,
    find_key, publish, seek, target,
};
use crate::hush::SeedKey;
use crate::overlay::client::Client;
use crate::route::special::Place;
use crate::route::{BoxStream, Outside};
use crate::state::StateDir;
use crate::torrent::engine::{Engine, OnionDoor, Options, Source};
use crate::torrent::gossip::SeedBook;
use crate::torrent::infohash::InfoHash;

/// A link is shown when this many introduction points stand, or what stands after [`PATIENCE`].
const POINTS: usize = 3;

/// Three circuits of three hops take a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// Seconds until hidden seeds are looked for again: as often as a client asks a tracker.
pub(super) const LOOK_AGAIN: Range<u64> = 15 * 60..30 * 60;

/// The same while none is known at all.
const LOOK_SOON: Range<u64> = 2 * 60..4 * 60;

/// How often it is looked whether a hidden seed still stands.
const LOOK: Duration = Duration::from_secs(10);

/// After so long without any introduction point the user is told: circuits that break are built anew sooner.
const NOWHERE: Duration = Duration::from_secs(60);

/// What is wrong, and what to do, where a seed lets in only some.
const KEY_NEEDED: &str =
    "the link's hidden seed lets in only those whose keys it knows, and there is none for it here";
const KEY_HINT: &str = "\"hushswarm visitor-key\" with the link prints your key: send it to who gave you the link, who starts again with --allow and the key";

/// A hidden seed that is on its way.
pub(super) struct HiddenSeed {
    /// It stands for as long as this is kept.
    host: Host,
    /// It is written into the DHT for as long as this is kept.
    _notice: Option<Notice>,
    visitors: mpsc::Receiver<Sealed>,
    contact: watch::Receiver<Option<Contact>>,
}

impl HiddenSeed {
    /// Takes up introduction points, for as long as the value lives, and says in the DHT which they are, sealed to those who
    /// know the infohash. It lets in `guests` alone, where there are some. Seeds of one program share `starts`.
    pub(super) fn start(
        outside: Arc<dyn Outside>,
        identity: Identity,
        hash: &InfoHash,
        dht: Option<Arc<Dht>>,
        guests: Option<Guests>,
        starts: &Starts,
    ) -> Result<Self, Error> {
        let swarm = SwarmKey::new(&hash.0).map_err(|error| {
            Error::new(Kind::Bug, "can't make a key of the infohash").with_source(error)
        })?;
        let options = HostOptions {
            points: POINTS,
            ..HostOptions::default()
        };
        let (host, visitors) = Host::start_for(outside, identity, swarm, options, guests, starts);
        let contact = host.contact();
        let notice = dht.map(|dht| publish(dht, hash.0, contact.clone()));
        Ok(Self {
            host,
            _notice: notice,
            visitors,
            contact,
        })
    }

    /// Says how it stands, as long as it does.
    pub(super) fn gauge(&self) -> Gauge {
        self.host.gauge()
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

    /// How it is reached, now and later.
    pub(super) fn contact(&self) -> watch::Receiver<Option<Contact>> {
        self.contact.clone()
    }

    /// Leads those who come to the torrent, and lets it know how it is reached, for as long as this is awaited. `tell` is told what
    /// the user has to know.
    pub(super) async fn lead(mut self, door: OnionDoor, tell: impl Fn(News)) {
        let mut shown = Shown::default();
        let mut clock = interval(LOOK);
        loop {
            tokio::select! {
                visitor = self.visitors.recv() => match visitor {
                    Some(stream) => door.accept(Box::new(stream) as BoxStream),
                    None => return,
                },
                Ok(()) = self.contact.changed() => {}
                _ = clock.tick() => {}
            }
            let contact = self.contact.borrow_and_update().clone();
            if let Some(news) = shown.look(Instant::now(), contact.as_ref()) {
                tell(news);
            }
            door.stand(contact);
        }
    }
}

/// What the user of a hidden seed has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// None of the points that the link named stands any more: a new link names these.
    Moved(Contact),
    /// It has stood nowhere for a while: nobody new can come.
    Nowhere,
    /// It stands again.
    Again,
}

/// What the user knows of how a hidden seed is reached.
#[derive(Default)]
struct Shown {
    /// What the link names.
    link: Option<Contact>,
    /// Since when it stands nowhere.
    nowhere: Option<Instant>,
    said: bool,
}

impl Shown {
    fn look(&mut self, now: Instant, contact: Option<&Contact>) -> Option<News> {
        let Some(contact) = contact else {
            let since = *self.nowhere.get_or_insert(now);
            let late = !self.said && now.duration_since(since) >= NOWHERE;
            self.said |= late;
            return late.then_some(News::Nowhere);
        };
        self.nowhere = None;
        let link = self.link.get_or_insert_with(|| contact.clone());
        let named = |point: &Point| link.points().contains(point);
        if !contact.points().iter().any(named) {
            *link = contact.clone();
            self.said = false;
            return Some(News::Moved(contact.clone()));
        }
        std::mem::take(&mut self.said).then_some(News::Again)
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
    /// Its peers are hidden ones alone: its link names some, or the user wants no others.
    only: bool,
    /// Something hidden is named, by which to begin.
    named: bool,
    /// Its peers are its tracker's to name (BEP 27).
    private: bool,
    /// Trackers and public peers that are left out for it.
    left_out: usize,
    shares: bool,
    /// One of them lets in only some: nothing is passed on.
    closed: bool,
    dht: Option<Arc<Dht>>,
}

impl Meetings {
    /// Notes the hidden seeds that a link names, and lets it name them as peers. Where it does, or `only` is set, it names nobody any
    /// more who is to be found in public; and if `share` is set, what comes is shared as a hidden seed.
    pub(super) fn of(source: &mut Source, share: bool, only: bool) -> Self {
        let book = Arc::new(Book::default());
        let (hash, private, seeds) = match source {
            Source::Magnet(magnet) => {
                let seeds = magnet.seeds.iter().cloned();
                let targets = seeds.filter_map(|seed| book.learn(magnet.hash.0, seed));
                (magnet.hash, false, targets.collect())
            }
            Source::Metainfo(metainfo) => (metainfo.info.hash, metainfo.info.private, Vec::new()),
        };
        let only = only || !seeds.is_empty();
        let left_out = if only { leave_out(source) } else { 0 };
        let named = match source {
            Source::Magnet(magnet) => {
                magnet.peers.extend(seeds);
                magnet.peers.len() + magnet.trackers.len() > 0
            }
            Source::Metainfo(metainfo) => !metainfo.trackers.is_empty(),
        };
        Self {
            hash,
            book,
            only,
            named,
            private,
            left_out,
            shares: only && share,
            closed: false,
            dht: None,
        }
    }

    /// Says that the torrent is private (BEP 27), which its link does not tell.
    pub(super) fn keep_private(&mut self) {
        self.private = true;
    }

    /// Takes our keys for those that let in only some from this folder; who can't be shown a key is not called. Where there is one of
    /// them, nothing is shared, and nobody is told of anybody.
    ///
    /// # Errors
    /// There is nobody else, or a key can't be read: tell the user.
    pub(super) fn admit(&mut self, source: &mut Source, state: &StateDir) -> Result<(), Error> {
        let Source::Magnet(magnet) = source else {
            return Ok(());
        };
        let closed = magnet.seeds.iter().filter(|seed| seed.is_closed());
        for key in closed.map(|seed| SeedKey(seed.key)) {
            self.closed = true;
            self.shares = false;
            if let Some(own) = find_key(state, &key)? {
                self.book.admit(&key, own);
                continue;
            }
            let name = target(&key);
            magnet.peers.retain(|peer| Some(peer) != name.as_ref());
            if magnet.peers.is_empty() && magnet.trackers.is_empty() {
                let error = Error::new(Kind::Policy, KEY_NEEDED).with_exit(Exit::Unreachable);
                return Err(error.with_hint(KEY_HINT));
            }
            tracing::warn!("{KEY_NEEDED}: {KEY_HINT}");
        }
        Ok(())
    }

    /// Whether nothing is to be passed on.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether what comes is shared.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// Whether its peers are hidden ones alone.
    pub(super) fn only(&self) -> bool {
        self.only
    }

    /// Trackers and public peers that are left out, since its peers are hidden ones.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Looks for them here too, where that may be.
    ///
    /// # Errors
    /// Nobody would be found: tell the user.
    pub(super) fn look_in(&mut self, dht: Option<Arc<Dht>>, client: &Client) -> Result<(), Error> {
        // Closed seeds stand in none, and who else writes there was not let in.
        self.dht = dht.filter(|_| self.only && !self.private && !self.closed);
        if self.named || !self.only {
            return Ok(());
        }
        let (what, hint) = if self.private {
            (
                "a private torrent's peers are those that its tracker names, and no hidden ones",
                "leave --hidden-only out: then its tracker and peers are reached through circuits",
            )
        } else if self.dht.is_none() {
            (
                "no hidden peer is named, and none is looked for in the DHT",
                "let the DHT be used, or ask for a link that names a hidden seed: hushswarm seed prints one",
            )
        } else if !is_possible(client) {
            (
                "no relay of this network introduces hidden seeds",
                "ask its operators to set \"introduce = true\" in relay.toml, or leave --hidden-only out",
            )
        } else {
            return Ok(());
        };
        let error = Error::new(Kind::Policy, what).with_exit(Exit::Usage);
        Err(error.with_hint(hint))
    }

    /// Those that are known.
    pub(super) fn book(&self) -> Arc<dyn SeedBook> {
        Arc::<Book>::clone(&self.book)
    }

    /// The way out that reaches them too.
    pub(super) fn route(&self, outside: Arc<dyn Outside>) -> Arc<dyn Outside> {
        let outside = if self.only {
            Arc::new(ConcealedOnly::new(outside))
        } else {
            outside
        };
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
    match HiddenSeed::start(outside, identity, hash, None, None, &Starts::default()) {
        Ok(seed) => seed.lead(door, |_| {}).await,
        Err(error) => tracing::warn!(%error, "nothing is shared as a hidden seed"),
    }
}

/// Looks in the DHT for hidden seeds of this swarm, again and again, and tells the torrent of those that are found.
async fn look(dht: Arc<Dht>, hash: InfoHash, book: &Book, door: &OnionDoor) {
    let mut said = false;
    loop {
        let mut seeking = seek(Arc::clone(&dht), hash.0);
        while let Some(contact) = seeking.next().await {
            if let Some(target) = book.hear(hash.0, contact) {
                door.tell(target);
            }
        }
        let none = book.is_empty();
        if none && !std::mem::replace(&mut said, true) {
            tracing::warn!(
                "no hidden seed of this torrent is found in the DHT yet; it is looked again every few minutes"
            );
        }
        let wait = if none { LOOK_SOON } else { LOOK_AGAIN };
        let wait = rand::rng().random_range(wait);
        sleep(Duration::from_secs(wait)).await;
    }
}

/// Lets it name hidden peers alone; gives how many others it named.
fn leave_out(source: &mut Source) -> usize {
    let onion = |url: &String| service_of_url(url).is_some();
    match source {
        Source::Magnet(magnet) => {
            let before = magnet.peers.len() + magnet.trackers.len();
            magnet.peers.retain(Place::is_concealed);
            magnet.trackers.retain(onion);
            before - magnet.peers.len() - magnet.trackers.len()
        }
        Source::Metainfo(metainfo) => {
            let tiers = &mut metainfo.trackers;
            let before = tiers.iter().flatten().count();
            tiers.iter_mut().for_each(|tier| tier.retain(onion));
            tiers.retain(|tier| !tier.is_empty());
            before - tiers.iter().flatten().count()
        }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hushswarm_circuits::isolation::Isolation;
    use hushswarm_circuits::keys::RelayId;
    use hushswarm_circuits::rendezvous::{IntroductionId, Point};

    use super::*;
    use crate::cli::dht::is_hidden;
    use crate::onion::OnionKey;
    use crate::route::{At, BoxFuture, Datagrams, Meet, Met, RouteError};
    use crate::torrent::engine::Job;
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

    /// One that lets in only some, and what a link says of it.
    fn closed() -> String {
        let point = Point {
            relay: RelayId([1; 32]),
            introduction: IntroductionId([2; 32]),
        };
        let closed = Contact::new([9; 32], vec![point]).unwrap().closed(true);
        let text = data_encoding::BASE64URL_NOPAD.encode(&closed.encode());
        format!("&x.hush={text}")
    }

    #[test]
    fn nobody_in_public_hears_of_a_torrent_whose_link_names_hidden_seeds() {
        let onion = OnionKey([1; 32]).address();
        let public =
            "&tr=http://t.example/a&tr=udp://u.example:1/a&x.pe=192.0.2.1:6881&x.pe=p.example:1";
        let concealed = format!("&x.pe={onion}:6881&tr=http://{onion}/a");
        let mut source = link(&format!("{public}{concealed}{}", seed()));
        let meetings = Meetings::of(&mut source, true, false);
        assert!(meetings.only() && meetings.shares());
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
        let meetings = Meetings::of(&mut source, true, false);
        assert!(!meetings.only() && !meetings.shares());
        assert_eq!(meetings.left_out(), 0);
        let Source::Magnet(magnet) = &source else {
            panic!("it was a link");
        };
        assert_eq!((magnet.peers.len(), magnet.trackers.len()), (2, 2));
    }

    #[test]
    fn who_wants_hidden_peers_only_is_named_no_others_whatever_the_link_says() {
        let onion = OnionKey([1; 32]).address();
        for (rest, left_out, named) in [
            ("", 0, false),
            ("&tr=http://t.example/a&x.pe=192.0.2.1:6881", 2, false),
            (
                &format!("&tr=http://t.example/a&x.pe={onion}:6881"),
                1,
                true,
            ),
            (&format!("&tr=http://{onion}/a"), 0, true),
            (&seed(), 0, true),
        ] {
            let mut source = link(rest);
            let meetings = Meetings::of(&mut source, true, true);
            assert!(meetings.only() && meetings.shares());
            assert_eq!((meetings.left_out(), meetings.named), (left_out, named));
            let Source::Magnet(magnet) = &source else {
                panic!("it was a link");
            };
            assert!(magnet.peers.iter().all(Place::is_concealed));
            assert!(
                magnet
                    .trackers
                    .iter()
                    .all(|url| service_of_url(url).is_some())
            );
        }
    }

    #[test]
    fn a_closed_seed_is_called_with_its_key_alone_and_nothing_of_it_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        let closed = closed();
        let admit = |rest: &str| {
            let mut source = link(&format!("{closed}{rest}"));
            let mut meetings = Meetings::of(&mut source, true, false);
            let admitted = meetings.admit(&mut source, &state);
            (meetings, admitted, source)
        };
        let (_, admitted, _) = admit("");
        let error = admitted.unwrap_err();
        assert!(error.to_string().contains("lets in only those"), "{error}");
        assert!(error.hint().unwrap().contains("hushswarm visitor-key"));

        // Beside an open one it is passed over.
        let peers = |source: &Source| match source {
            Source::Magnet(magnet) => magnet.peers.clone(),
            Source::Metainfo(_) => panic!("it was a link"),
        };
        let key = SeedKey([9; 32]);
        let name = target(&key).unwrap();
        let (meetings, admitted, source) = admit(&seed());
        admitted.unwrap();
        assert!(meetings.is_closed() && meetings.only() && !meetings.shares());
        assert!(!peers(&source).contains(&name) && peers(&source).len() == 1);

        crate::hidden::make_key(&state, &key, &mut rand::rng()).unwrap();
        let (meetings, admitted, source) = admit("");
        admitted.unwrap();
        assert!(meetings.is_closed() && !meetings.shares());
        assert_eq!(peers(&source), [name]);
    }

    #[test]
    fn the_user_is_told_once_when_a_seed_stands_nowhere_or_elsewhere() {
        let contact = |points: std::ops::Range<u8>| {
            let points = points.map(|n| Point {
                relay: RelayId([n; 32]),
                introduction: IntroductionId([n; 32]),
            });
            Contact::new([3; 32], points.collect()).unwrap()
        };
        let (begin, mut shown) = (Instant::now(), Shown::default());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (first, overlaps, elsewhere) = (contact(0..3), contact(2..5), contact(5..8));
        assert_eq!(shown.look(at(0), Some(&first)), None);
        assert_eq!(
            shown.look(at(1), Some(&overlaps)),
            None,
            "one of the link's still leads there"
        );
        assert_eq!(shown.look(at(2), None), None);
        assert_eq!(shown.look(at(61), None), None);
        assert_eq!(shown.look(at(62), None), Some(News::Nowhere));
        assert_eq!(shown.look(at(500), None), None, "once");
        assert_eq!(shown.look(at(501), Some(&first)), Some(News::Again));
        assert_eq!(shown.look(at(502), Some(&first)), None);
        assert_eq!(
            shown.look(at(503), Some(&elsewhere)),
            Some(News::Moved(elsewhere.clone()))
        );
        assert_eq!(shown.look(at(504), Some(&elsewhere)), None);
        // A short break is nobody's business.
        assert_eq!(shown.look(at(510), None), None);
        assert_eq!(shown.look(at(520), Some(&elsewhere)), None);
        assert_eq!(shown.look(at(530), None), None);
        assert_eq!(shown.look(at(589), None), None);
    }

    /// A network in which nobody can be reached, and how often a relay was asked to take part in a meeting.
    #[derive(Default)]
    struct Nobody(AtomicUsize);

    impl Outside for Nobody {
        fn connect<'a>(
            &'a self,
            _: &'a Target,
            _: Isolation,
        ) -> BoxFuture<'a, Result<BoxStream, RouteError>> {
            Box::pin(async { Err(RouteError::Unreachable) })
        }

        fn datagrams(&self, _: Isolation) -> BoxFuture<'_, Result<Box<dyn Datagrams>, RouteError>> {
            Box::pin(async { Err(RouteError::Unreachable) })
        }

        fn meet<'a>(
            &'a self,
            _: At,
            _: Meet<'a>,
            _: Isolation,
        ) -> BoxFuture<'a, Result<Met, RouteError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(RouteError::CircuitLost) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_takes_or_was_let_in_is_no_hidden_seed_and_asks_no_relay_to_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("state")).unwrap();
        let closed = closed();
        crate::hidden::make_key(&state, &SeedKey([9; 32]), &mut rand::rng()).unwrap();
        for (link_of, share, asks) in [
            (seed(), true, true),
            (seed(), false, false),
            (closed, true, false),
        ] {
            let mut source = link(&link_of);
            let mut meetings = Meetings::of(&mut source, share, false);
            meetings.admit(&mut source, &state).unwrap();
            assert_eq!((meetings.only(), meetings.shares()), (true, asks));
            let output = dir.path().join(format!("{share}-{asks}"));
            let job = Job {
                source,
                output,
                seed_after: true,
                overwrite: false,
                info: None,
            };
            let engine = Engine::new(
                Arc::new(Nobody::default()),
                Options::new(state.path().to_owned()),
            );
            let door = engine.download(job).hidden_door();
            let nobody = Arc::new(Nobody::default());
            let outside: Arc<dyn Outside> = Arc::<Nobody>::clone(&nobody);
            // That it ends at once is as good.
            let _ = timeout(Duration::from_secs(60), meetings.run(outside, door)).await;
            assert_eq!(nobody.0.load(Ordering::Relaxed) > 0, asks, "{share}");
        }
    }
}
