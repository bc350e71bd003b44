//! Opens a stream to a peer that is called, encrypted where the way there reads along.

use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::target::Target;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::table::Ended;
use crate::route::special::Place;
use crate::route::{BoxStream, Outside, RouteError};
use crate::torrent::infohash::InfoHash;
use crate::torrent::mse;
use crate::torrent::wire::PROTOCOL;

/// A stream to a peer.
pub(super) struct Opened {
    pub(super) stream: BoxStream,
    /// Who reads along on the way sees no handshake.
    pub(super) encrypted: bool,
}

/// How long to wait for a connection: circuits to far peers take seconds.
const CONNECT_TIME: Duration = Duration::from_secs(60);

/// How long a peer may take to answer with its key: those that don't know the encryption say nothing or hang up.
const KEY_TIME: Duration = Duration::from_secs(20);

/// Whether streams to public peers are encrypted, so that exits see neither handshake nor infohash ([`mse`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Where the peer knows it; else the same peer is called in the clear.
    #[default]
    Preferred,
    /// Peers that don't know it are not talked to.
    Required,
    /// None is.
    Off,
}

/// Opens a stream, or says how the attempt ended. Streams to concealed peers are encrypted from end to end already: theirs go in the clear,
/// whatever `encryption` says.
pub(super) async fn open(
    outside: &dyn Outside,
    target: &Target,
    isolation: Isolation,
    torrent: InfoHash,
    encryption: Encryption,
) -> Result<Opened, Ended> {
    let stream = connect(outside, target, isolation).await?;
    let concealed = Place::is_concealed(target);
    if encryption == Encryption::Off || concealed {
        return Ok(Opened {
            stream,
            encrypted: concealed,
        });
    }
    let mut rng = StdRng::from_rng(&mut rand::rng());
    match timeout(KEY_TIME, mse::initiate(stream, torrent, &mut rng)).await {
        Ok(Ok(stream)) => Ok(Opened {
            stream: Box::new(stream),
            encrypted: true,
        }),
        Ok(Err(_)) | Err(_) if encryption == Encryption::Required => Err(Ended::Unreached),
        Ok(Err(_)) | Err(_) => Ok(Opened {
            stream: connect(outside, target, isolation).await?,
            encrypted: false,
        }),
    }
}

/// How long a visitor may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// The stream of a visitor that came by our address, and what was read of it: plain, or opened if it speaks encrypted and asks for this
/// torrent, by either name. Those who come to a service of ours are not answered so: an answer that needs no knowledge of the infohash would
/// tell anybody that there is a BitTorrent client.
pub(super) async fn accepted(
    stream: BoxStream,
    torrents: impl Iterator<Item = InfoHash> + Send,
) -> Option<(BoxStream, Vec<u8>)> {
    timeout(PATIENCE, asked(stream, torrents)).await.ok()?
}

async fn asked(
    mut stream: BoxStream,
    torrents: impl Iterator<Item = InfoHash> + Send,
) -> Option<(BoxStream, Vec<u8>)> {
    let mut said = Vec::new();
    while said.len() < PROTOCOL.len() && PROTOCOL.starts_with(&said) {
        let mut first = [0; PROTOCOL.len()];
        let rest = first.get_mut(said.len()..)?;
        let len = stream.read(rest).await.ok().filter(|&len| len > 0)?;
        said.extend_from_slice(rest.get(..len)?);
    }
    if said == PROTOCOL {
        return Some((stream, said));
    }
    let mut rng = StdRng::from_rng(&mut rand::rng());
    let answer = mse::answer(stream, said, torrents, &mut rng);
    let (_, stream) = answer.await.ok()?;
    Some((Box::new(stream), Vec::new()))
}

async fn connect(
    outside: &dyn Outside,
    target: &Target,
    isolation: Isolation,
) -> Result<BoxStream, Ended> {
    match timeout(CONNECT_TIME, outside.connect(target, isolation)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(RouteError::CircuitLost)) => Err(Ended::CircuitLost),
        Ok(Err(RouteError::NoCircuit(_))) => Err(Ended::NoNetwork),
        Ok(Err(RouteError::Forbidden(_))) => Err(Ended::Useless),
        Ok(Err(_)) | Err(_) => Err(Ended::Unreached),
    }
}
