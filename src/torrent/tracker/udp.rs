//! UDP trackers (BEP 15, 41), announces and scrapes, over a datagram flow that a circuit's exit opens.
//!
//! [`Exchange`] is the protocol without a socket or a clock; `announce` drives it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hushswarm_circuits::target::{Host, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::announce::{
    AnnounceError, AnnounceRequest, AnnounceResponse, NO_PORT, clamp_interval, distinct, printable,
    push_compact_v4, push_compact_v6,
};
use super::scrape::Scraped;
use crate::route::Datagrams;
use crate::torrent::infohash::InfoHash;

/// Wait for the first answer; doubles with each try (BEP 15).
pub const FIRST_WAIT: Duration = Duration::from_secs(15);
/// Longest wait for an answer: a tracker that takes longer through a circuit is as good as gone.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// Datagrams sent without an answer before the tracker counts as gone.
pub const MAX_TRIES: u32 = 4;
/// Time for which a connection id may be used (BEP 15).
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// The constant in a connect request (BEP 15).
const MAGIC: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;
/// Longest URL data sent (BEP 41), bytes: what keeps the datagram below 1 KiB.
const MAX_URL_DATA: usize = 765;

enum State {
    Connecting,
    Announcing { connection: u64, since: Instant },
}

/// One announce or scrape over UDP. Send [`Exchange::datagram`] to [`Exchange::target`] at the start and whenever a handler says
/// so; call [`Exchange::handle_timeout`] at [`Exchange::deadline`].
pub struct Exchange {
    request: AnnounceRequest,
    /// Asks for counts alone.
    scrapes: bool,
    url_data: Vec<u8>,
    target: Target,
    state: State,
    transaction: u32,
    tries: u32,
    deadline: Instant,
    rng: StdRng,
}

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send [`Exchange::datagram`].
    Send,
    /// Nothing, wait on.
    Wait,
    /// The tracker has answered.
    Done(AnnounceResponse),
    /// The tracker has answered a scrape.
    Counted(Scraped),
}

impl Exchange {
    /// Starts an announce. `url_data` is path and query of the URL.
    pub fn new(
        now: Instant,
        target: Target,
        url_data: &str,
        request: AnnounceRequest,
        mut rng: StdRng,
    ) -> Self {
        let bytes = url_data.as_bytes();
        let url_data = if url_data == "/" {
            &[]
        } else {
            bytes.get(..MAX_URL_DATA).unwrap_or(bytes)
        };
        Self {
            request,
            scrapes: false,
            url_data: url_data.to_vec(),
            target,
            state: State::Connecting,
            transaction: rng.random(),
            tries: 1,
            deadline: now + FIRST_WAIT,
            rng,
        }
    }

    /// Starts to ask how many peers a torrent has, and for none of them.
    pub fn scrape(now: Instant, target: Target, hash: InfoHash, rng: StdRng) -> Self {
        // Of this the hash alone is sent.
        let request = AnnounceRequest {
            hash,
            peer_id: [0; 20],
            event: None,
            uploaded: 0,
            downloaded: 0,
            left: 0,
            key: 0,
            numwant: 0,
            port: NO_PORT,
            onion: None,
        };
        Self {
            scrapes: true,
            ..Self::new(now, target, "/", request, rng)
        }
    }

    /// Whom to send to: after the first answer of a tracker that was named, the address that answered, so that the
    /// connection id reaches the machine that gave it.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// When to call [`Exchange::handle_timeout`].
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The datagram to send now.
    pub fn datagram(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.url_data.len());
        match self.state {
            State::Connecting => {
                out.extend_from_slice(&MAGIC.to_be_bytes());
                out.extend_from_slice(&CONNECT.to_be_bytes());
                out.extend_from_slice(&self.transaction.to_be_bytes());
            }
            State::Announcing { connection, .. } if self.scrapes => {
                out.extend_from_slice(&connection.to_be_bytes());
                out.extend_from_slice(&SCRAPE.to_be_bytes());
                out.extend_from_slice(&self.transaction.to_be_bytes());
                out.extend_from_slice(&self.request.hash.0);
            }
            State::Announcing { connection, .. } => {
                let request = &self.request;
                let shown = request.shown();
                out.extend_from_slice(&connection.to_be_bytes());
                out.extend_from_slice(&ANNOUNCE.to_be_bytes());
                out.extend_from_slice(&self.transaction.to_be_bytes());
                out.extend_from_slice(&request.hash.0);
                out.extend_from_slice(&request.peer_id);
                for count in [shown.downloaded, shown.left, shown.uploaded] {
                    out.extend_from_slice(&count.to_be_bytes());
                }
                let event = request.event.map_or(0, |event| event.number());
                // The zero is the IP field: never an address of ours (L07).
                for field in [event, 0, request.key, u32::from(request.numwant)] {
                    out.extend_from_slice(&field.to_be_bytes());
                }
                out.extend_from_slice(&request.port.to_be_bytes());
                for chunk in self.url_data.chunks(255) {
                    // A chunk's length fits a byte.
                    out.extend_from_slice(&[2, chunk.len() as u8]);
                    out.extend_from_slice(chunk);
                }
            }
        }
        out
    }

    /// Takes a datagram. Whatever is not from the tracker or not about this announce is ignored.
    ///
    /// # Errors
    /// The tracker refused or broke BEP 15: try another.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: &Target,
        bytes: &[u8],
    ) -> Result<Step, AnnounceError> {
        let Some((action, payload)) = self.open(from, bytes) else {
            return Ok(Step::Wait);
        };
        match (&self.state, action) {
            (_, ERROR) => Err(AnnounceError::Failure(printable(payload))),
            (State::Connecting, CONNECT) => {
                let id = payload.first_chunk::<8>().ok_or(AnnounceError::Malformed)?;
                self.state = State::Announcing {
                    connection: u64::from_be_bytes(*id),
                    since: now,
                };
                self.target = from.clone();
                self.transaction = self.rng.random();
                self.tries = 1;
                self.deadline = now + FIRST_WAIT;
                Ok(Step::Send)
            }
            (State::Announcing { .. }, SCRAPE) if self.scrapes => {
                Scraped::parse_datagram(payload).map(Step::Counted)
            }
            (State::Announcing { .. }, ANNOUNCE) if !self.scrapes => {
                self.answer(from, payload).map(Step::Done)
            }
            // A late repetition of an answer can't have the transaction id that is current.
            (State::Connecting | State::Announcing { .. }, _) => Err(AnnounceError::Malformed),
        }
    }

    /// Checks sender and transaction; gives action and payload.
    fn open<'a>(&self, from: &Target, bytes: &'a [u8]) -> Option<(u32, &'a [u8])> {
        let sender_fits = match (&self.target.host, &from.host) {
            // The exit resolved the name; the port and the transaction id speak for the sender.
            (Host::Name(_), Host::Ip(_)) => self.target.port == from.port,
            (Host::Name(_) | Host::Ip(_), _) => self.target == *from,
        };
        let (action, rest) = bytes.split_first_chunk::<4>()?;
        let (transaction, payload) = rest.split_first_chunk::<4>()?;
        let transaction_fits = u32::from_be_bytes(*transaction) == self.transaction;
        (sender_fits && transaction_fits).then_some((u32::from_be_bytes(*action), payload))
    }

    fn answer(&self, from: &Target, payload: &[u8]) -> Result<AnnounceResponse, AnnounceError> {
        let (head, peers) = payload
            .split_first_chunk::<12>()
            .ok_or(AnnounceError::Malformed)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *head;
        let interval = i32::from_be_bytes([a, b, c, d]);
        let mut found = Vec::new();
        // The family of the peers is that of the packets they come in.
        match &from.host {
            Host::Ip(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_none() => {
                push_compact_v6(peers, &mut found)?;
            }
            Host::Ip(_) => push_compact_v4(peers, &mut found)?,
            // The flow did not say which address answered; only one of the lengths fits, or both do and v4 is likelier.
            Host::Name(_) if peers.len() % 6 == 0 => push_compact_v4(peers, &mut found)?,
            Host::Name(_) => return Err(AnnounceError::Malformed),
        }
        Ok(AnnounceResponse {
            interval: clamp_interval(Some(interval.into())),
            min_interval: None,
            peers: distinct(found),
            onions: Vec::new(),
            leechers: Some(u32::from_be_bytes([e, f, g, h])),
            seeders: Some(u32::from_be_bytes([i, j, k, l])),
            warning: None,
        })
    }

    /// The deadline has passed: [`Step::Send`] again.
    ///
    /// # Errors
    /// The tracker does not answer: try another, this one later.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<Step, AnnounceError> {
        if now < self.deadline {
            return Ok(Step::Wait);
        }
        if self.tries >= MAX_TRIES {
            return Err(AnnounceError::TimedOut);
        }
        self.tries += 1;
        self.deadline = now + (FIRST_WAIT * 2_u32.pow(self.tries - 1)).min(MAX_WAIT);
        if let State::Announcing { since, .. } = self.state
            && now.saturating_duration_since(since) >= CONNECTION_LIFE
        {
            self.state = State::Connecting;
            self.transaction = self.rng.random();
        }
        Ok(Step::Send)
    }
}

/// Announces once over a flow. Takes at most about six minutes.
///
/// # Errors
/// Say so to the user, try another tracker or later.
pub(super) async fn announce(
    flow: &dyn Datagrams,
    target: Target,
    url_data: &str,
    request: &AnnounceRequest,
) -> Result<AnnounceResponse, AnnounceError> {
    let rng = StdRng::from_rng(&mut rand::rng());
    let exchange = Exchange::new(clock(), target, url_data, *request, rng);
    match drive(flow, exchange).await? {
        Step::Done(answer) => Ok(answer),
        Step::Counted(_) | Step::Send | Step::Wait => Err(AnnounceError::Malformed),
    }
}

/// Asks once over a flow how many peers a torrent has. Takes as long at most.
///
/// # Errors
/// Nothing is known of it: ask again much later.
pub(super) async fn scrape(
    flow: &dyn Datagrams,
    target: Target,
    hash: InfoHash,
) -> Result<Scraped, AnnounceError> {
    let rng = StdRng::from_rng(&mut rand::rng());
    match drive(flow, Exchange::scrape(clock(), target, hash, rng)).await? {
        Step::Counted(counts) => Ok(counts),
        Step::Done(_) | Step::Send | Step::Wait => Err(AnnounceError::Malformed),
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn drive(flow: &dyn Datagrams, mut exchange: Exchange) -> Result<Step, AnnounceError> {
    let now = clock;
    let mut step = Step::Send;
    loop {
        match step {
            Step::Done(_) | Step::Counted(_) => return Ok(step),
            Step::Send => flow
                .send(exchange.target(), &exchange.datagram())
                .map_err(|_| AnnounceError::Lost)?,
            Step::Wait => {}
        }
        // Looked at before each datagram: who floods us does not hold the announce open.
        if now() >= exchange.deadline() {
            step = exchange.handle_timeout(now())?;
            continue;
        }
        step = tokio::select! {
            () = tokio::time::sleep_until(exchange.deadline().into()) => {
                exchange.handle_timeout(now())?
            }
            received = flow.recv() => {
                let (from, bytes) = received.map_err(|_| AnnounceError::Lost)?;
                exchange.handle_datagram(now(), &from, &bytes)?
            }
        };
    }
}

#[cfg(test)]
mod tests;
