//! The options about the DHT that `get` and `seed` have in common.

use std::sync::Arc;

use hushswarm_circuits::target::Target;

use super::routes::Loaded;
use super::tor::service_of_url;
use crate::config::{RelayDht, bootstrap};
use crate::dht::{Dht, Options};
use crate::route::Outside;
use crate::route::special::Place;

/// Options about the DHT.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DhtArgs {
    /// Look for no peers in the DHT. By default they are looked for there, through a circuit of its own for each torrent: no node
    /// learns who asks, and only the few closest to the torrent learn which one it is. Private torrents, and links that name
    /// hidden seeds or onion services, are never looked up there: what hidden seeds say in the DHT is sealed, under names that only
    /// who knows the torrent can compute
    #[arg(long, conflicts_with = "dht_bootstrap")]
    pub no_dht: bool,
    /// Node of the DHT to begin at, where the exit offers no lookups of its own; its name is looked up at the exit. May be given
    /// several times [default: as the routes file says, else those of the public DHT; with --allow-private, none]
    #[arg(long, value_name = "HOST:PORT", value_parser = node)]
    pub dht_bootstrap: Vec<Target>,
}

fn node(text: &str) -> Result<Target, String> {
    bootstrap(text)
        .ok_or_else(|| "a node is a host and a port: router.bittorrent.com:6881".to_owned())
}

/// Whether a torrent has to do with onion services or hidden seeds: then it is never looked up in public, whatever this build or the user's rules
/// do with them (leaks L42, L53).
pub fn is_hidden<'a>(peers: &[Target], mut trackers: impl Iterator<Item = &'a str>) -> bool {
    peers.iter().any(Place::is_concealed) || trackers.any(|url| service_of_url(url).is_some())
}

impl DhtArgs {
    /// Whether anything is looked up.
    pub fn is_off(&self, routes: &Loaded) -> bool {
        self.no_dht || routes.dht.off
    }

    /// Looks up through this way out, unless it is off.
    pub fn finder(&self, routes: &Loaded, outside: Arc<dyn Outside>) -> Option<Arc<Dht>> {
        if self.is_off(routes) {
            return None;
        }
        let allow_private = routes.policy.allows_private();
        let bootstrap = if !self.dht_bootstrap.is_empty() {
            self.dht_bootstrap.clone()
        } else if let Some(named) = &routes.dht.bootstrap {
            named.clone()
        } else if allow_private {
            // A network of one's own has nothing to do with the public DHT.
            Vec::new()
        } else {
            RelayDht::default().bootstrap
        };
        let options = Options {
            bootstrap,
            limits: routes.dht.limits.clone(),
            allow_private,
        };
        Some(Arc::new(Dht::new(outside, options)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::onion::OnionKey;

    #[test]
    fn what_names_an_onion_service_is_hidden_however_it_is_spelled() {
        let name = OnionKey([1; 32]).address();
        let peer = |host: &str| vec![Target::parse(host, 6881).unwrap()];
        let none = || std::iter::empty::<&str>();
        for host in [name.clone(), format!("www.{name}"), name.to_uppercase()] {
            assert!(is_hidden(&peer(&host), none()), "{host}");
        }
        assert!(!is_hidden(&peer("192.0.2.1"), none()));
        assert!(!is_hidden(
            &peer("a.example"),
            ["http://a.example/announce"].into_iter()
        ));
        for url in [
            format!("http://{name}/announce"),
            format!("http://www.{name}:80/a"),
        ] {
            let trackers = ["udp://a.example:1/announce", url.as_str()];
            assert!(is_hidden(&[], trackers.into_iter()), "{url}");
        }
    }
}
