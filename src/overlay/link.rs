//! Runs one link over a transport: the handshake, then a reader and a writer task around the switch.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hushswarm_circuits::circuit::padding::KeepAlive;
use hushswarm_circuits::frame::FrameBuf;
use hushswarm_circuits::keys::{DhSecret, IdentityKey};
use hushswarm_circuits::link::{
    HANDSHAKE_LEN, HandshakeError, LinkInitiator, LinkKeys, LinkPeer, respond, sign_auth,
};
use hushswarm_circuits::switch::{Link, LinkClosed, LinkConfig, Receiver, Transmitter};
use rand::RngExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{timeout, timeout_at};
use tracing::debug;

use crate::net::Transport;

/// A handshake that takes longer is given up (PROTOCOL.md §2.2).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where the transport is known to be a Tor stream: each of its steps crosses six relays or more.
pub const TOR_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// A link from which nothing comes for so long is closed (§2.6).
const SILENCE: Duration = Duration::from_secs(60);
/// A neighbour that takes nothing away for so long is gone.
const STALL: Duration = Duration::from_secs(60);
/// What a busy reader takes in one go: 64 bulk frames. With the frames that they are copied to it stays in a
/// processor's second cache until a writer has sealed them.
const READ_BUFFER: usize = 256 * 1024;
/// What an idle one has: a relay has thousands of them.
const IDLE_BUFFER: usize = 16 * 1024;
/// A reader to which nothing came for so long is idle.
const REST: Duration = Duration::from_secs(2);
/// Read buffers start at a page: a misaligned one doubles the kernel's cost per byte.
const PAGE: usize = 4096;

/// A link could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkFailure {
    /// The transport failed: try another address or relay.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The neighbour is not who the relay list says.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// No answer in time.
    #[error("no answer to the handshake")]
    TimedOut,
}

impl LinkFailure {
    /// Why there is no way to any relay, where it is that.
    pub fn no_way(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::NetworkDown => Some(error),
            Self::Io(_) | Self::Handshake(_) | Self::TimedOut => None,
        }
    }

    /// Whether the relay's end said, or showed, that it does not take links. Where the way there leads through others,
    /// everything else may be their fault.
    pub fn is_the_relays_own(&self) -> bool {
        match self {
            Self::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            Self::Handshake(_) => true,
            Self::TimedOut => false,
        }
    }
}

/// Bytes of a link so far, and a brake. Relays give one that counts and limits; clients give `()`.
pub trait Meter: Send + Sync + 'static {
    /// Called after `bytes` were read; the next read waits for it.
    fn read(&self, bytes: usize) -> impl Future<Output = ()> + Send;
}

impl Meter for () {
    async fn read(&self, _bytes: usize) {}
}

/// Opens a link over a fresh transport within `limit`, and runs it until it closes. `identity` makes it a relay's link (§2.5).
///
/// # Errors
/// Try another address or relay.
pub async fn initiate(
    mut transport: Transport,
    limit: Duration,
    peer: &LinkPeer,
    identity: Option<&IdentityKey>,
    config: LinkConfig,
    meter: impl Meter,
) -> Result<Arc<Link>, LinkFailure> {
    let keys = timeout(limit, async {
        let (initiator, message) = LinkInitiator::start(peer, &mut rand::rng())?;
        transport.writer.write_all(&message).await?;
        transport.writer.flush().await?;
        let mut answer = [0; HANDSHAKE_LEN];
        transport.reader.read_exact(&mut answer).await?;
        Ok::<_, LinkFailure>(initiator.finish(&answer)?)
    })
    .await
    .map_err(|_| LinkFailure::TimedOut)??;
    let auth = identity.map(|identity| sign_auth(identity, &keys.hash));
    let link = run(transport, keys, true, config, meter, auth);
    Ok(link)
}

/// Answers a link over a transport that came in, within `limit`, and runs it until it closes.
///
/// # Errors
/// The other side speaks something else, or expected another relay: close the transport without an answer.
pub async fn answer(
    mut transport: Transport,
    limit: Duration,
    secret: &DhSecret,
    own: &LinkPeer,
    config: LinkConfig,
    meter: impl Meter,
) -> Result<Arc<Link>, LinkFailure> {
    let keys = timeout(limit, async {
        let mut message = [0; HANDSHAKE_LEN];
        transport.reader.read_exact(&mut message).await?;
        let (answer, keys) = respond(secret, own, &message, &mut rand::rng())?;
        transport.writer.write_all(&answer).await?;
        transport.writer.flush().await?;
        Ok::<_, LinkFailure>(keys)
    })
    .await
    .map_err(|_| LinkFailure::TimedOut)??;
    Ok(run(transport, keys, false, config, meter, None))
}

fn run(
    transport: Transport,
    keys: LinkKeys,
    initiator: bool,
    config: LinkConfig,
    meter: impl Meter,
    auth: Option<[u8; 96]>,
) -> Arc<Link> {
    let wake = Arc::new(Notify::new());
    let notify = Arc::clone(&wake);
    let (link, receiver, transmitter) = Link::new(
        keys,
        initiator,
        config,
        Box::new(move || notify.notify_one()),
    );
    if let Some(auth) = auth {
        // A fresh link has room, and nothing can have been queued before it.
        let _ = link.send_auth(&auth);
    }
    let running = Arc::clone(&link);
    tokio::spawn(async move {
        // The writer is a task of its own, so that opening and sealing can use two processors.
        let writer = tokio::spawn(write(transport.writer, transmitter, wake));
        let abort = writer.abort_handle();
        let ended = tokio::select! {
            ended = read(transport.reader, receiver, meter) => ended,
            ended = writer => ended.unwrap_or(Err(Ended::Io(io::ErrorKind::Other.into()))),
        };
        abort.abort();
        running.close(Instant::now());
        debug!(link = running.number(), reason = %ended.err().unwrap_or(Ended::Eof), "link closed");
    });
    link
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the neighbour closed it")]
    Eof,
    #[error("nothing came for 60 s")]
    Silent,
    #[error("the neighbour takes nothing away")]
    Stalled,
    #[error("{}", .0.kind())]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] LinkClosed),
}

async fn read(
    mut transport: Box<dyn AsyncRead + Send + Unpin>,
    mut receiver: Receiver,
    meter: impl Meter,
) -> Result<(), Ended> {
    let mut buffer = Aligned::new(IDLE_BUFFER);
    let mut filled = 0;
    loop {
        let rest = if buffer.len > IDLE_BUFFER {
            REST
        } else {
            SILENCE
        };
        let room = &mut buffer.bytes()[filled..];
        let capacity = room.len();
        let n = match timeout(rest, transport.read(room)).await {
            Ok(n) => n?,
            Err(_) if rest == SILENCE => return Err(Ended::Silent),
            Err(_) => {
                // What is left over is less than a frame.
                buffer = buffer.resized(IDLE_BUFFER, filled);
                continue;
            }
        };
        if n == 0 {
            return Err(Ended::Eof);
        }
        filled += n;
        let done = receiver.process(Instant::now(), &mut buffer.bytes()[..filled])?;
        meter.read(n).await;
        // The writers that were just woken go first, while what they seal is still in this processor's cache, and a link
        // that never runs dry does not keep the others waiting.
        tokio::task::yield_now().await;
        buffer.bytes().copy_within(done..filled, 0);
        filled -= done;
        if n == capacity && buffer.len < READ_BUFFER {
            buffer = buffer.resized(READ_BUFFER, filled);
        }
    }
}

/// Bytes that begin at a page.
struct Aligned {
    pages: Vec<u8>,
    base: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let pages = vec![0; len + PAGE];
        let base = pages.as_ptr().align_offset(PAGE).min(PAGE);
        Self { pages, base, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.pages[self.base..self.base + self.len]
    }

    /// As long as told, with the first `keep` bytes of this one.
    fn resized(mut self, len: usize, keep: usize) -> Self {
        let mut other = Self::new(len);
        other.bytes()[..keep].copy_from_slice(&self.bytes()[..keep]);
        other
    }
}

async fn write(
    mut transport: Box<dyn AsyncWrite + Send + Unpin>,
    mut transmitter: Transmitter,
    wake: Arc<Notify>,
) -> Result<(), Ended> {
    let now = || tokio::time::Instant::now().into_std();
    let mut keep_alive = KeepAlive::new(now(), &mut rand::rng());
    let mut batch: Vec<FrameBuf> = Vec::new();
    loop {
        transmitter.fill(Instant::now(), &mut batch)?;
        if batch.is_empty() {
            // What wakes need not have brought a frame, so it is the time since the last one that counts.
            let _ = timeout_at(keep_alive.poll_timeout().into(), wake.notified()).await;
            if keep_alive.handle_timeout(now(), &mut rand::rng()) {
                let nonce = rand::rng().random();
                // A full queue means that something is about to leave anyway.
                let _ = transmitter.link().ping(nonce);
            }
            continue;
        }
        match timeout(STALL, write_all(&mut transport, &batch)).await {
            Ok(written) => written?,
            Err(_) => return Err(Ended::Stalled),
        }
        batch.clear();
        keep_alive.sent(now());
    }
}

/// Writes whole frames with as few system calls as the transport allows.
async fn write_all(
    transport: &mut (dyn AsyncWrite + Send + Unpin),
    frames: &[FrameBuf],
) -> io::Result<()> {
    let mut slices: Vec<io::IoSlice<'_>> = frames
        .iter()
        .map(|frame| io::IoSlice::new(frame.bytes()))
        .collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let n = transport.write_vectored(left).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        io::IoSlice::advance_slices(&mut left, n);
    }
    transport.flush().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use hushswarm_circuits::frame::{Class, Pool};
    use hushswarm_circuits::keys::Suite;
    use hushswarm_circuits::scheduler::CreditBudget;
    use hushswarm_circuits::switch::Handler;

    use super::*;
    use crate::net::mem::MemNet;

    struct Nobody;

    impl Handler for Nobody {}

    fn config() -> LinkConfig {
        LinkConfig {
            handler: Arc::new(Nobody),
            pool: Pool::new(4),
            budget: CreditBudget::new(0),
            max_circuits: 1,
        }
    }

    fn relay() -> (DhSecret, LinkPeer) {
        let secret = DhSecret::generate(&mut rand::rng());
        let peer = LinkPeer {
            link_key: secret.public(),
            suite: Suite::ChaCha20Poly1305,
            digest: [1; 32],
            psk: None,
        };
        (secret, peer)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_link_stays_open() {
        let (ours, theirs) = MemNet::pair();
        let (secret, peer) = relay();
        let (ours, theirs) = tokio::join!(
            initiate(ours, HANDSHAKE_TIMEOUT, &peer, None, config(), ()),
            answer(theirs, HANDSHAKE_TIMEOUT, &secret, &peer, config(), ()),
        );
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(!ours.unwrap().is_closed() && !theirs.unwrap().is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn keep_alives_leave_though_the_writer_is_woken_for_nothing() {
        let (secret, peer) = relay();
        let (initiator, message) = LinkInitiator::start(&peer, &mut rand::rng()).unwrap();
        let (answer, _) = respond(&secret, &peer, &message, &mut rand::rng()).unwrap();
        let keys = initiator.finish(&answer).unwrap();
        let (_link, _receiver, transmitter) = Link::new(keys, true, config(), Box::new(|| ()));
        let (ours, mut theirs) = MemNet::pair();
        let wake = Arc::new(Notify::new());
        // With its other half, the connection would stay open.
        drop(ours.reader);
        let writer = tokio::spawn(write(ours.writer, transmitter, Arc::clone(&wake)));
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            wake.notify_one();
        }
        writer.abort();
        let _ = writer.await;
        let mut bytes = Vec::new();
        theirs.reader.read_to_end(&mut bytes).await.unwrap();
        let frame = Class::Small.frame_len();
        assert_eq!(bytes.len() % frame, 0);
        // One in 10 to 20 s, over 120 s.
        let frames = bytes.len() / frame;
        assert!((5..=12).contains(&frames), "{frames}");
    }
}
