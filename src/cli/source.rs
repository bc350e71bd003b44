//! What the user names: a magnet link, a torrent file, or the web address of one.

use std::path::Path;
use std::sync::Arc;

use super::compose::trackers;
use super::connect::Without;
use super::routes::Loaded;
use super::tor::service_of_url;
use crate::error::{Error, Exit, Kind};
use crate::overlay::client::Client;
use crate::route::gate::Gate;
use crate::route::special::Place;
use crate::state::StateDir;
use crate::torrent::by_url::{self, FetchError, Found, Reach};
use crate::torrent::engine::Source;
use crate::torrent::magnet::Magnet;
use crate::torrent::metainfo::{MAX_TORRENT, Metainfo};
use crate::torrent::tracker::TrackerClient;

/// What was named.
pub(super) enum Named {
    /// A torrent.
    Torrent(Source),
    /// The web address of a torrent file. No `Debug`: it may hold a key of the user's.
    Address(String),
}

impl Named {
    /// Reads a magnet link, a torrent file or a web address.
    ///
    /// # Errors
    /// It is none of them: tell the user.
    pub(super) fn read(text: &str) -> Result<Self, Error> {
        if by_url::is_web(text) {
            return Ok(Self::Address(text.to_owned()));
        }
        read_source(text).map(Self::Torrent)
    }

    /// What serves where there is no relay list: what names onion services needs none.
    pub(super) fn without(&self, routes: &Loaded) -> Without {
        let onions = match self {
            Self::Address(url) => service_of_url(url).is_some(),
            Self::Torrent(source) => {
                let peers = match source {
                    Source::Magnet(magnet) => magnet.peers.as_slice(),
                    Source::Metainfo(_) => &[],
                };
                peers.iter().any(Place::is_onion)
                    || trackers(source).any(|url| service_of_url(url).is_some())
            }
        };
        if onions {
            Without::Tor
        } else {
            routes.without()
        }
    }

    /// The torrent; one at a web address is fetched, in the way that these routes say, after `say` was told so.
    ///
    /// # Errors
    /// Tell the user.
    pub(super) async fn obtain(
        self,
        client: &Client,
        state: &Arc<StateDir>,
        routes: &Loaded,
        hidden_only: bool,
        say: impl FnOnce(&str),
    ) -> Result<Source, Error> {
        let url = match self {
            Self::Torrent(source) => return Ok(source),
            Self::Address(url) => url,
        };
        say("fetching the torrent file");
        let chosen = service_of_url(&url).into_iter().collect();
        let gate = routes.gate(client, &routes.tor(state), chosen);
        let found = fetch(&gate, &url, hidden_only).await;
        let found = found.map_err(|error| {
            Error::new(Kind::Network, error.to_string())
                .with_hint("fetch it with a browser that hides you, and give the file")
        })?;
        let bad = |message: String| Error::new(Kind::Local, message).with_exit(Exit::BadTorrent);
        match found {
            Found::Magnet(link) => {
                let magnet = Magnet::parse(&link).map_err(|error| bad(error.to_string()))?;
                Ok(Source::Magnet(magnet))
            }
            Found::File(bytes) => {
                let metainfo = Metainfo::parse(&bytes).map_err(|error| {
                    bad(format!("what is at that address is no torrent file: {error}"))
                        .with_hint("must one log in there? then fetch it with a browser that hides you, and give the file")
                })?;
                Ok(Source::Metainfo(metainfo))
            }
        }
    }
}

/// Fetches what stands at a web address, by the rules of this gate.
///
/// # Errors
/// Tell the user.
pub(super) async fn fetch(gate: &Gate, url: &str, hidden_only: bool) -> Result<Found, FetchError> {
    let trust = TrackerClient::new(gate.policy().allows_private());
    let reach = if hidden_only {
        Reach::Onions
    } else {
        Reach::Anywhere
    };
    by_url::fetch(gate, &trust, url, reach).await
}

/// This argument; where it is "-", the first line of standard input.
///
/// # Errors
/// There is none: tell the user.
pub fn argument(text: &str) -> Result<String, Error> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|source| Error::local("can't read standard input").with_source(source))?;
    Ok(line.trim().to_owned())
}

/// Reads a magnet link or a torrent file.
///
/// # Errors
/// It is neither: tell the user.
pub fn read_source(text: &str) -> Result<Source, Error> {
    let bad = |message: String| Error::new(Kind::Local, message).with_exit(Exit::BadTorrent);
    if Magnet::is_link(text) {
        let magnet = Magnet::parse(text).map_err(|error| bad(error.to_string()))?;
        return Ok(Source::Magnet(magnet));
    }
    let bytes = crate::config::read_file(Path::new(text), MAX_TORRENT).map_err(|error| {
        bad("that is no magnet link, and no torrent file that can be read".to_owned())
            .with_source(error)
            .with_hint("quote the magnet link, since \"&\" means something to the shell: hushswarm get \"magnet:?xt=...\"")
    })?;
    let metainfo = Metainfo::parse(&bytes).map_err(|error| bad(error.to_string()))?;
    Ok(Source::Metainfo(metainfo))
}
