//! What stands around one torrent, as `get` and the daemon run it: the gate, hidden peers, onion services, the DHT, and the engine.

use std::convert::Infallible;
use std::sync::Arc;

use hushswarm_circuits::path::MAX_HOPS;
use hushswarm_circuits::target::{Host, Target};

use super::dht::is_hidden;
use super::rendezvous::{self, Meetings};
use super::routes::Loaded;
use super::tor::{HAS_TOR, ONION_PORT, OnionOptions, OurTor, has_visitor_key, service_of_url};
use crate::config::RouteAction;
use crate::dht::Dht;
use crate::error::Error;
use crate::onion::{Chosen, OnionKey, Visitors};
use crate::overlay::client::Client;
use crate::route::Outside;
use crate::route::gate::Gate;
use crate::state::StateDir;
use crate::torrent::engine::{Encryption, Engine, Handle, OnionDoor, Options, Source};
use crate::torrent::gossip::OnionPeer;
use crate::torrent::metainfo::Info;

/// Which torrent, and what the user wants of its peers.
pub(super) struct Plan {
    /// Which.
    pub(super) source: Source,
    /// What it is, where a link says only which and that is known.
    pub(super) info: Option<Arc<Info>>,
    /// Whether to share by an onion service, or as a hidden seed, where others are reached that way.
    pub(super) share: bool,
    /// Whether public peers are refused, even where the source names no hidden one.
    pub(super) hidden_only: bool,
    /// Of streams to public peers.
    pub(super) encryption: Encryption,
}

/// Where it runs.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Builds circuits.
    pub(super) client: &'a Client,
    /// The state folder.
    pub(super) state: &'a Arc<StateDir>,
    /// This process's Tor.
    pub(super) tor: &'a OurTor,
    /// What may leave.
    pub(super) routes: &'a Loaded,
}

/// A torrent that can be started.
pub(super) struct Composed {
    /// Starts it.
    pub(super) engine: Engine,
    /// What it is started by: without those who are not to hear of it.
    pub(super) source: Source,
    /// Runs beside it.
    pub(super) beside: Beside,
    /// What its streams pass.
    pub(super) gate: Arc<Gate>,
}

/// What runs beside a torrent: its hidden seed, its onion service, the search for others.
pub(super) struct Beside {
    meetings: Meetings,
    outside: Arc<dyn Outside>,
    onions: Onions,
    tor: OurTor,
    /// The onion services that the torrent names.
    chosen: Chosen,
}

impl Beside {
    /// Runs for as long as it is awaited.
    pub(super) fn run(self, handle: &Handle) -> impl Future<Output = Infallible> + Send + use<> {
        let (door, hidden_door) = (handle.onion_door(), handle.hidden_door());
        async move {
            let sharing = async {
                if self.onions == Onions::Shared {
                    share(&self.tor, &self.chosen, &door).await;
                }
            };
            tokio::join!(sharing, self.meetings.run(self.outside, hidden_door));
            std::future::pending().await
        }
    }
}

/// Puts together what a torrent needs. `find` makes the search in the DHT, through this way out; `say` tells the user what
/// kind of peers it has to do with.
///
/// # Errors
/// What went wrong and what to do.
pub(super) fn compose(
    plan: Plan,
    place: Surroundings<'_>,
    mut options: Options,
    find: impl FnOnce(Arc<dyn Outside>) -> Option<Arc<Dht>>,
    say: &dyn Fn(&str),
) -> Result<Composed, Error> {
    let Surroundings {
        client,
        state,
        tor,
        routes,
    } = place;
    let onions = onions(&plan, routes, state)?;
    let chosen = chosen(&plan.source);
    let mut source = plan.source;
    let may_share = plan.share && rendezvous::is_possible(client);
    let info = plan.info;
    let private = is_private(&source, info.as_deref());
    let mut meetings = Meetings::of(&mut source, may_share, plan.hidden_only);
    if private {
        meetings.keep_private();
    }
    let concealed = names_hidden(&source);
    meetings.admit(&mut source, state)?;
    // Nor is what comes from those who let in only some shared by an onion service.
    let onions = if onions != Onions::None && meetings.is_closed() {
        Onions::Closed
    } else {
        onions
    };
    say(which_peers(
        meetings.only(),
        concealed,
        client.list().is_none(),
    ));
    if meetings.left_out() > 0 {
        say("trackers and public peers are left out, so that nobody in public hears of it");
    }
    if meetings.only() && client.hops() != MAX_HOPS {
        say(
            "hidden seeds are met behind three relays: leave --hops out, or none of them is reached",
        );
    }
    if meetings.shares() {
        say("sharing what has come, as a hidden seed of its own; --no-share stops that");
    }
    match onions {
        Onions::None if meetings.is_closed() => {
            tracing::warn!(
                "sharing nothing: a peer of this link lets in only those whose key it knows"
            );
        }
        Onions::None | Onions::Taken => {}
        Onions::Shared => {
            say("sharing what has come, as an onion service of its own; --no-share stops that");
        }
        Onions::Closed => tracing::warn!(
            "sharing nothing: a peer of this link lets in only those whose key it knows"
        ),
    }
    options.allow_private = routes.policy.allows_private();
    options.encryption = plan.encryption;
    options.gossip = match onions {
        Onions::Shared | Onions::Taken => true,
        Onions::Closed => false,
        Onions::None => meetings.only() && !meetings.is_closed(),
    };
    let gate = routes.gate(client, tor, chosen.clone());
    let outside: Arc<dyn Outside> = Arc::<Gate>::clone(&gate);
    let dht = find(Arc::clone(&outside));
    meetings.look_in(dht.clone(), client)?;
    // Who looks a torrent up in public tells the public swarm of a hidden one.
    let finder =
        dht.filter(|_| onions == Onions::None && !concealed && !meetings.only() && !private);
    options.seeds = Some(meetings.book());
    let outside = meetings.route(outside);
    let mut engine = Engine::new(Arc::clone(&outside), options);
    if let Some(finder) = finder {
        engine = engine.with_finder(finder);
    }
    Ok(Composed {
        engine,
        source,
        beside: Beside {
            meetings,
            outside,
            onions,
            tor: tor.clone(),
            chosen,
        },
        gate,
    })
}

pub(super) fn trackers(source: &Source) -> Box<dyn Iterator<Item = &str> + '_> {
    match source {
        Source::Magnet(magnet) => Box::new(magnet.trackers.iter().map(String::as_str)),
        Source::Metainfo(metainfo) => {
            Box::new(metainfo.trackers.iter().flatten().map(String::as_str))
        }
    }
}

/// Web seeds' URLs.
fn web_seeds(source: &Source) -> Box<dyn Iterator<Item = &str> + '_> {
    match source {
        Source::Magnet(magnet) => Box::new(magnet.web_seeds.iter().map(String::as_str)),
        Source::Metainfo(metainfo) => {
            Box::new(metainfo.web_seeds.iter().map(|seed| seed.url.as_str()))
        }
    }
}

/// Whether it names anybody who is hidden, of whatever kind.
fn names_hidden(source: &Source) -> bool {
    is_hidden(peers(source), trackers(source).chain(web_seeds(source)))
}

/// Whether it is known to be private (BEP 27).
fn is_private(source: &Source, info: Option<&Info>) -> bool {
    match source {
        Source::Magnet(magnet) => {
            info.is_some_and(|info| info.private && info.is_named(magnet.hash, magnet.v2))
        }
        Source::Metainfo(metainfo) => metainfo.info.private,
    }
}

fn peers(source: &Source) -> &[Target] {
    match source {
        Source::Magnet(magnet) => &magnet.peers,
        Source::Metainfo(_) => &[],
    }
}

/// The onion services that this names: whoever takes it has chosen them.
pub(super) fn chosen(source: &Source) -> Chosen {
    let peers = peers(source).iter().filter_map(|peer| match &peer.host {
        Host::Name(name) => OnionKey::of_host(name.as_str()),
        Host::Ip(_) => None,
    });
    peers
        .chain(trackers(source).filter_map(service_of_url))
        .collect()
}

/// Whom a download has to do with, for the user.
fn which_peers(only_hidden: bool, hidden: bool, by_tor: bool) -> &'static str {
    match (only_hidden, hidden, by_tor) {
        (true, _, _) => "peers: hidden ones only",
        (false, true, _) => {
            "peers: hidden ones, and public ones where they are named; --hidden-only leaves those out"
        }
        (false, false, true) => "peers: public ones, through Tor",
        (false, false, false) => "peers: public ones, through circuits",
    }
}

/// What a download has to do with onion peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Onions {
    /// Nothing.
    None,
    /// It takes from them.
    Taken,
    /// It takes from them, and is one.
    Shared,
    /// It takes from one that lets in only some: others are not let in by us, nor told of it.
    Closed,
}

fn onions(plan: &Plan, routes: &Loaded, state: &StateDir) -> Result<Onions, Error> {
    let tracker = trackers(&plan.source).any(|url| service_of_url(url).is_some());
    let mut peers = Vec::new();
    match &plan.source {
        Source::Magnet(magnet) => {
            peers.extend(magnet.peers.iter().filter_map(OnionPeer::from_target));
        }
        // Only its tracker tells who its peers are.
        Source::Metainfo(metainfo) if metainfo.info.private && !tracker => {
            return Ok(Onions::None);
        }
        Source::Metainfo(_) => {}
    }
    let any = !peers.is_empty() || tracker || routes.policy.default_action() == RouteAction::Tor;
    if !any || !HAS_TOR {
        return Ok(Onions::None);
    }
    for peer in &peers {
        if has_visitor_key(state, &peer.host())? {
            return Ok(Onions::Closed);
        }
    }
    Ok(if plan.share {
        Onions::Shared
    } else {
        Onions::Taken
    })
}

/// Runs an onion service until one of the torrent's is met that lets in only some, or for ever. What goes wrong stops no download.
async fn share(tor: &OurTor, chosen: &Chosen, door: &OnionDoor) {
    let options = OnionOptions {
        nickname: "share".to_owned(),
        port: ONION_PORT,
        ephemeral: true,
        allow: Vec::new(),
        visitors: Visitors::Peers,
    };
    let serving = async {
        let mut onion = match tor.serve(&options).await {
            Ok(onion) => onion,
            Err(error) => {
                tracing::warn!(%error, "nothing is shared, since no onion service of its own can be had");
                return;
            }
        };
        if let Some(own) = OnionPeer::parse(onion.address(), ONION_PORT) {
            door.open(vec![own]);
        }
        while let Some(stream) = onion.next().await {
            door.accept(stream);
        }
    };
    tokio::select! {
        () = serving => {}
        () = tor.key_needed(chosen) => tracing::warn!("sharing nothing any more: an onion peer lets in only some"),
    }
    door.close();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::torrent::magnet::Magnet;
    use crate::torrent::metainfo::Metainfo;

    fn torrent(private: &str, more: &str) -> Metainfo {
        let text = format!(
            "d4:infod6:lengthi1e4:name1:n12:piece lengthi16384e6:pieces20:{}{private}e{more}e",
            "h".repeat(20)
        );
        Metainfo::parse(text.as_bytes()).unwrap()
    }

    fn link(rest: &str) -> Source {
        let hash = torrent("", "").info.hash.hex();
        Source::Magnet(Magnet::parse(&format!("magnet:?xt=urn:btih:{hash}{rest}")).unwrap())
    }

    #[test]
    fn an_onion_web_seed_alone_makes_a_torrent_a_hidden_one() {
        let onion = OnionKey([1; 32]).address();
        let url = format!("http://{onion}/f");
        assert!(names_hidden(&link(&format!("&ws={url}"))));
        let list = format!("8:url-list{}:{url}", url.len());
        assert!(names_hidden(&Source::Metainfo(torrent("", &list))));
        assert!(!names_hidden(&link("&ws=http://a.example/f")));
        assert!(!names_hidden(&Source::Metainfo(torrent("", ""))));
    }

    #[test]
    fn a_link_of_a_private_torrent_is_private_once_that_is_known() {
        let private = torrent("7:privatei1e", "");
        let hash = private.info.hash.hex();
        let magnet = Magnet::parse(&format!("magnet:?xt=urn:btih:{hash}")).unwrap();
        let source = Source::Magnet(magnet);
        assert!(!is_private(&source, None));
        assert!(is_private(&source, Some(&private.info)));
        assert!(!is_private(&link(""), Some(&private.info)), "another's");
        assert!(is_private(&Source::Metainfo(private), None));
        assert!(!is_private(&Source::Metainfo(torrent("", "")), None));
    }
}
