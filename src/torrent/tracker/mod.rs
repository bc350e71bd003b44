//! Trackers: asking them through circuits, and being one.
//!
//! A tracker learns the infohash, the random peer id and the exit's address; nothing in an announce is ours.

pub mod announce;
mod endpoint;
pub mod http;
pub mod query;
pub mod scrape;
pub mod server;
pub mod tiers;
pub mod udp;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::relay_list::is_global;
use rustls::pki_types::CertificateDer;
use tokio_rustls::TlsConnector;

pub use announce::{AnnounceError, AnnounceRequest, AnnounceResponse, Event, NO_PORT};
pub(in crate::torrent) use endpoint::{Endpoint, Scheme};
pub(in crate::torrent) use http::{Fetched, MAX_REDIRECTS};
pub use scrape::Scraped;
pub use tiers::{TierList, TrackerView};

use super::infohash::InfoHash;
use super::metainfo::MAX_TRACKER_URL;
use crate::route::Outside;

/// Announces to trackers of any supported kind. Cheap to clone.
#[derive(Clone)]
pub struct TrackerClient {
    tls: TlsConnector,
    allow_private: bool,
}

impl TrackerClient {
    /// A client that trusts the public certificate authorities. `allow_private` lets trackers and peers be at private
    /// addresses: for test networks only, since a torrent could name what stands next to the exit (L49).
    pub fn new(allow_private: bool) -> Self {
        Self::with_roots(&[], allow_private)
    }

    /// A client that also trusts these certificate authorities: for test networks.
    pub fn with_roots(roots: &[CertificateDer<'static>], allow_private: bool) -> Self {
        Self {
            tls: http::tls_connector(roots),
            allow_private,
        }
    }

    /// Whom it trusts to say who a server is: whoever else asks servers for the same torrent trusts the same.
    pub(in crate::torrent) fn tls(&self) -> TlsConnector {
        self.tls.clone()
    }

    pub(in crate::torrent) fn allows_private(&self) -> bool {
        self.allow_private
    }

    /// Takes the address of a server apart.
    pub(in crate::torrent) fn endpoint(&self, url: &str) -> Result<Endpoint, AnnounceError> {
        Endpoint::parse(url, self.allow_private)
    }

    /// Where a server's redirect leads.
    pub(in crate::torrent) fn redirected(
        &self,
        from: &Endpoint,
        location: &str,
    ) -> Result<Endpoint, AnnounceError> {
        from.redirected(&from.request, location, self.allow_private, MAX_TRACKER_URL)
    }

    /// Asks a server once for what its address names, at most `limit` bytes.
    pub(in crate::torrent) async fn fetch(
        &self,
        outside: &dyn Outside,
        isolation: Isolation,
        from: &Endpoint,
        limit: usize,
    ) -> Result<Fetched, AnnounceError> {
        http::fetch(outside, isolation, &self.tls, from, &from.request, limit).await
    }

    /// Announces once to the tracker at `url`. `isolation` is the torrent's and this tracker's: no other tracker and no
    /// peer of the torrent may be asked on the same circuit (L24, L48).
    ///
    /// # Errors
    /// Say so to the user; where [`AnnounceError::is_permanent`] says so, never ask this URL again.
    pub async fn announce(
        &self,
        outside: &dyn Outside,
        isolation: Isolation,
        url: &str,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, AnnounceError> {
        let endpoint = Endpoint::parse(url, self.allow_private)?;
        let answer = match endpoint.scheme {
            Scheme::Http | Scheme::Https => {
                http::announce(
                    outside,
                    isolation,
                    &self.tls,
                    endpoint,
                    request,
                    self.allow_private,
                )
                .await
            }
            Scheme::Udp => {
                let flow = outside.datagrams(isolation).await?;
                udp::announce(&*flow, endpoint.target, &endpoint.request, request).await
            }
        };
        let mut answer = answer?;
        // What stands next to the exit is nobody's peer (L47).
        answer
            .peers
            .retain(|peer| self.allow_private || is_global(peer.ip()));
        tracing::debug!(peers = answer.peers.len(), "announced");
        Ok(answer)
    }
}

impl TrackerClient {
    /// Asks the tracker at `url` once how many peers a torrent has (BEP 48, 15), and for none of them. `isolation` as for an announce.
    ///
    /// # Errors
    /// Nothing is known of it: ask again much later, and not at all where [`AnnounceError::is_permanent`] says so.
    pub async fn scrape(
        &self,
        outside: &dyn Outside,
        isolation: Isolation,
        url: &str,
        hash: InfoHash,
    ) -> Result<Scraped, AnnounceError> {
        let endpoint = Endpoint::parse(url, self.allow_private)?;
        match endpoint.scheme {
            Scheme::Http | Scheme::Https => {
                let private = self.allow_private;
                http::scrape(outside, isolation, &self.tls, endpoint, hash, private).await
            }
            Scheme::Udp => {
                let flow = outside.datagrams(isolation).await?;
                udp::scrape(&*flow, endpoint.target, hash).await
            }
        }
    }
}

impl std::fmt::Debug for TrackerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrackerClient")
            .field("allow_private", &self.allow_private)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(in crate::torrent) mod fake;
