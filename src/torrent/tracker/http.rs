//! HTTP and HTTPS trackers (BEP 3, 7, 23, 48), over streams that a circuit's exit opens.
//!
//! Every request of this program looks the same: one order of parameters and headers, no address of ours (L07, L23).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hushswarm_circuits::isolation::Isolation;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT_ENCODING, CONNECTION, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::announce::{AnnounceError, AnnounceRequest, AnnounceResponse};
use super::endpoint::{Endpoint, Scheme};
use super::scrape::{self, Scraped};
use crate::route::special::Place;
use crate::route::{BoxStream, Outside};
use crate::torrent::gossip::OnionPeer;
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::MAX_TRACKER_URL;

/// Largest body, bytes: ten thousand peers in the longest form fit.
pub const MAX_BODY: usize = 2 << 20;
/// Most redirects followed.
pub const MAX_REDIRECTS: usize = 3;
/// Time for everything, redirects included.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// What libtorrent sends in anonymous mode, and so what most who hide their program send.
pub(in crate::torrent) const AGENT: &str = "curl/7.81.0";
/// Longest response head, bytes.
pub(in crate::torrent) const MAX_HEAD: usize = 64 << 10;

/// Makes the TLS side: public roots and these, no session kept from one connection to the next, since a resumed one
/// would tell the tracker that two circuits are one user.
pub(super) fn tls_connector(extra_roots: &[CertificateDer<'static>]) -> TlsConnector {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    // A root that does not parse is not trusted, which is the safe side.
    let _ = roots.add_parsable_certificates(extra_roots.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

/// Announces once.
///
/// # Errors
/// Say so to the user, try another tracker or later.
pub(super) async fn announce(
    outside: &dyn Outside,
    isolation: Isolation,
    tls: &TlsConnector,
    endpoint: Endpoint,
    request: &AnnounceRequest,
    allow_private: bool,
) -> Result<AnnounceResponse, AnnounceError> {
    let onion = request.onion.filter(|_| Place::is_onion(&endpoint.target));
    let path = announce_path(&endpoint.request, request, onion);
    let (body, from) = get(outside, isolation, tls, endpoint, path, allow_private).await?;
    let mut answer = AnnounceResponse::parse(&body)?;
    if !Place::is_onion(&from.target) {
        answer.onions.clear();
    }
    Ok(answer)
}

/// Asks once how many peers a torrent has (BEP 48).
///
/// # Errors
/// Nothing is known of it: ask again much later.
pub(super) async fn scrape(
    outside: &dyn Outside,
    isolation: Isolation,
    tls: &TlsConnector,
    endpoint: Endpoint,
    hash: InfoHash,
    allow_private: bool,
) -> Result<Scraped, AnnounceError> {
    let mut path = scrape::path(&endpoint.request).ok_or(AnnounceError::NoScrape)?;
    path.push(if path.contains('?') { '&' } else { '?' });
    path.push_str("info_hash=");
    percent_encode(&mut path, &hash.0);
    let (body, _) = get(outside, isolation, tls, endpoint, path, allow_private).await?;
    Scraped::parse(&body, hash)
}

/// Asks for a path, and where redirects lead. Gives the body, and who gave it.
async fn get(
    outside: &dyn Outside,
    isolation: Isolation,
    tls: &TlsConnector,
    mut endpoint: Endpoint,
    mut path: String,
    allow_private: bool,
) -> Result<(Vec<u8>, Endpoint), AnnounceError> {
    let work = async {
        for _ in 0..=MAX_REDIRECTS {
            match fetch(outside, isolation, tls, &endpoint, &path, MAX_BODY).await? {
                Fetched::Body(body) => return Ok((body, endpoint)),
                Fetched::Redirect(location) => {
                    let next =
                        endpoint.redirected(&path, &location, allow_private, MAX_TRACKER_URL)?;
                    path.clone_from(&next.request);
                    endpoint = next;
                }
            }
        }
        Err(AnnounceError::Redirect)
    };
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or(Err(AnnounceError::TimedOut))
}

/// Path and query of an announce: what the URL has, then ours in one order. `onion` is where we are, for a tracker that may
/// know.
fn announce_path(base: &str, request: &AnnounceRequest, onion: Option<OnionPeer>) -> String {
    let mut out = base.to_owned();
    out.push(if base.contains('?') { '&' } else { '?' });
    out.push_str("info_hash=");
    percent_encode(&mut out, &request.hash.0);
    out.push_str("&peer_id=");
    percent_encode(&mut out, &request.peer_id);
    let shown = request.shown();
    // Writing to a String can't fail.
    let _ = write!(
        out,
        "&port={}&uploaded={}&downloaded={}&left={}&key={:08X}",
        onion.map_or(request.port, |onion| onion.port()),
        shown.uploaded,
        shown.downloaded,
        shown.left,
        request.key
    );
    if let Some(event) = request.event {
        let _ = write!(out, "&event={}", event.name());
    }
    let _ = write!(out, "&numwant={}&compact=1&no_peer_id=1", request.numwant);
    if let Some(onion) = onion {
        // The name by which the peer is reached (BEP 3).
        let _ = write!(out, "&ip={}", onion.host());
    }
    out
}

fn percent_encode(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
}

/// What a server answered.
pub(in crate::torrent) enum Fetched {
    Body(Vec<u8>),
    /// To this address, as it stands in the answer.
    Redirect(String),
}

/// Asks a server once, for a body of at most `limit` bytes.
///
/// # Errors
/// Say so to the user, try another server or later.
pub(super) async fn fetch(
    outside: &dyn Outside,
    isolation: Isolation,
    tls: &TlsConnector,
    endpoint: &Endpoint,
    path: &str,
    limit: usize,
) -> Result<Fetched, AnnounceError> {
    let stream = outside.connect(&endpoint.target, isolation).await?;
    match endpoint.scheme {
        Scheme::Http => exchange(stream, &endpoint.authority, path, limit).await,
        Scheme::Https => {
            let stream = secure(tls, endpoint, stream).await?;
            exchange(stream, &endpoint.authority, path, limit).await
        }
        Scheme::Udp => Err(AnnounceError::UnsupportedScheme),
    }
}

pub(in crate::torrent) async fn secure(
    tls: &TlsConnector,
    endpoint: &Endpoint,
    stream: BoxStream,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, AnnounceError> {
    use hushswarm_circuits::target::Host;
    let name = match &endpoint.target.host {
        Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
        Host::Name(name) => {
            ServerName::try_from(name.as_str().to_owned()).map_err(|_| AnnounceError::BadUrl)?
        }
    };
    tls.connect(name, stream).await.map_err(|error| {
        // rustls reports what it found wrong as invalid data; the rest is the stream's.
        if error.kind() == std::io::ErrorKind::InvalidData {
            AnnounceError::Tls
        } else {
            AnnounceError::Lost
        }
    })
}

/// One request and its response on a stream that is closed after it.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    authority: &str,
    path: &str,
    limit: usize,
) -> Result<Fetched, AnnounceError> {
    // hyper keeps the order in which headers are added.
    let request = Request::get(path)
        .header(HOST, authority)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| AnnounceError::BadUrl)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| classify(&error))?;
    let work = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| classify(&error))?;
        read(response, limit).await
    };
    tokio::pin!(work, connection);
    tokio::select! {
        biased;
        result = &mut work => result,
        // The connection is done; what it received is still to be taken.
        _ = &mut connection => work.await,
    }
}

async fn read(response: Response<Incoming>, limit: usize) -> Result<Fetched, AnnounceError> {
    let status = response.status();
    if status.is_redirection() {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        return location
            .map(|location| Fetched::Redirect(location.to_owned()))
            .ok_or(AnnounceError::Redirect);
    }
    let mut body = response.into_body();
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        // Many servers end TLS or a chunked body without ceremony: whether all has come, bencode says by itself.
        let Ok(frame) = frame else { break };
        if let Some(data) = frame.data_ref() {
            if out.len() + data.len() > limit {
                return Err(AnnounceError::TooLarge);
            }
            out.extend_from_slice(data);
        }
    }
    if status.is_success() {
        return Ok(Fetched::Body(out));
    }
    // Some trackers explain a refusal in the body of an error.
    match AnnounceResponse::parse(&out) {
        Err(error @ AnnounceError::Failure(_)) => Err(error),
        Ok(_) | Err(_) => Err(AnnounceError::Status(status.as_u16())),
    }
}

fn classify(error: &hyper::Error) -> AnnounceError {
    if error.is_parse() {
        AnnounceError::Malformed
    } else {
        AnnounceError::Lost
    }
}

#[cfg(test)]
mod tests;
