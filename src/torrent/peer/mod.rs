//! One connection of the peer wire (BEP 3, 6, 9, 10, 52), without I/O.
//!
//! The driver reads into [`Peer::space`], says how much by [`Peer::filled`], then calls [`Peer::poll`] until it gives
//! `None`; blocks are handed out as slices of the receive buffer. It asks for blocks while [`Peer::wants`] is not zero,
//! serves [`Peer::take_uploads`], writes what [`Peer::transmit`] gives, and calls [`Peer::handle_timeout`] when
//! [`Peer::poll_timeout`] is due. An error means: close the connection.

mod chatter;
mod event;
mod extended;
mod fast;
mod hashes;
mod pipeline;
mod serving;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::extension::{self, Exchange, MetadataMessage, PeerExtensions};
use super::gossip::Onions;
use super::infohash::InfoHash;
use super::metainfo::MAX_PIECES;
use super::pex::PeerExchange;
use super::picker::{Bits, Geometry};
use super::wire::{BlockRef, Decoder, HANDSHAKE_LEN, Handshake, MessageRef};
use chatter::Chatter;
pub use event::{CloseReason, Event};
use fast::Fast;
use pipeline::Pipeline;

/// The handshake must be over by then: a circuit's round trip may take seconds.
const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// A peer that owes blocks and gives none for so long is snubbing us.
const SNUB_TIME: Duration = Duration::from_secs(60);

/// A connection on which nothing comes for so long is dead: others send a keep-alive every two minutes.
const IDLE_TIME: Duration = Duration::from_secs(150);

/// A keep-alive is sent after a silence within these bounds, drawn anew each time, so that it is no clock.
const KEEP_ALIVE_MS: std::ops::Range<u64> = 100_000..120_000;

/// Blocks that nobody asked for and that are forgiven, besides those that may have crossed a cancel.
const FORGIVEN: u32 = 16;

/// Most HAVE messages kept while the number of pieces is unknown.
const MAX_EARLY_HAVES: usize = 1 << 16;

/// Most HAVE messages sent at once, where the torrent became known after the handshake. With more, a new connection and
/// its bitfield are cheaper.
const MAX_LATE_HAVES: u32 = 1 << 14;

/// Most output that may wait for a peer that does not read, bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// How often a peer may fetch the metadata, in multiples of its length.
const METADATA_TIMES: u64 = 3;

/// A request that waits for its block.
#[derive(Clone, Copy, Debug)]
struct Asked {
    block: BlockRef,
    sent: Instant,
}

enum Hello {
    /// Reads the other side's handshake.
    Waiting {
        buf: [u8; HANDSHAKE_LEN],
        filled: usize,
        deadline: Instant,
    },
    Done,
}

/// What the peer has, before and after the number of pieces is known.
enum Theirs {
    Early {
        bitfield: Option<Vec<u8>>,
        /// It has every piece (BEP 6).
        all: bool,
        haves: Vec<u32>,
    },
    Known(Bits),
}

/// One connection.
pub struct Peer {
    hello: Hello,
    decoder: Decoder,
    core: Core,
}

struct Core {
    /// The name under which the connection goes.
    hash: InfoHash,
    /// The torrent's name of version 2.
    v2_name: Option<InfoHash>,
    id: [u8; 20],
    outgoing: bool,
    greeted: bool,
    rng: StdRng,
    geometry: Option<Geometry>,
    metadata_size: Option<u32>,
    metadata_left: u64,
    /// Bytes of hashes that the peer may still fetch.
    hashes_left: u64,
    /// Requests for hashes refused since one was answered.
    hashes_refused: u32,
    chatter: Chatter,
    ours: Bits,
    theirs: Theirs,
    /// A message came, so a bitfield is too late.
    spoken: bool,
    /// Pieces of a bitfield that came late, to be told one by one.
    late: Vec<u32>,
    extended: bool,
    extensions: PeerExtensions,
    /// Of whom we offer to tell.
    exchange: Exchange,
    /// When the last messages about hidden peers came.
    gossip: VecDeque<Instant>,
    /// When the last message about public peers came that was read.
    heard_pex: Option<Instant>,
    fast: Fast,
    chokes_us: bool,
    interested_in_us: bool,
    we_choke: bool,
    we_are_interested: bool,
    asked: VecDeque<Asked>,
    /// Blocks that may still come though nobody waits for them.
    pardoned: u32,
    pipeline: Pipeline,
    snubbed: bool,
    /// When silence turns into a snub; `None` while nothing is owed.
    snub_at: Option<Instant>,
    idle_at: Instant,
    keep_alive_at: Instant,
    uploads: VecDeque<BlockRef>,
    /// Requests refused since one was served.
    refused: usize,
    out: Vec<u8>,
}

impl Peer {
    /// Starts a connection to a peer of `hash`; `outgoing` says that we opened it, and so greet first. `id` is a fresh
    /// random peer id (see leaks L19, L20).
    pub fn new(
        now: Instant,
        hash: InfoHash,
        id: [u8; 20],
        outgoing: bool,
        mut rng: StdRng,
    ) -> Self {
        let keep_alive_at = now + Duration::from_millis(rng.random_range(KEEP_ALIVE_MS));
        let mut core = Core {
            hash,
            v2_name: None,
            id,
            outgoing,
            greeted: false,
            rng,
            geometry: None,
            metadata_size: None,
            metadata_left: 0,
            hashes_left: 0,
            hashes_refused: 0,
            chatter: Chatter::new(now),
            ours: Bits::default(),
            theirs: Theirs::Early {
                bitfield: None,
                all: false,
                haves: Vec::new(),
            },
            spoken: false,
            late: Vec::new(),
            extended: false,
            extensions: PeerExtensions::default(),
            exchange: Exchange::Nobody,
            gossip: VecDeque::new(),
            heard_pex: None,
            fast: Fast::default(),
            chokes_us: true,
            interested_in_us: false,
            we_choke: true,
            we_are_interested: false,
            asked: VecDeque::new(),
            pardoned: FORGIVEN,
            pipeline: Pipeline::new(),
            snubbed: false,
            snub_at: None,
            idle_at: now + IDLE_TIME,
            keep_alive_at,
            uploads: VecDeque::new(),
            refused: 0,
            out: Vec::new(),
        };
        if outgoing {
            core.greet();
        }
        let deadline = now + HANDSHAKE_TIME;
        let hello = Hello::Waiting {
            buf: [0; HANDSHAKE_LEN],
            filled: 0,
            deadline,
        };
        Self {
            hello,
            decoder: Decoder::new(),
            core,
        }
    }

    /// Offers to tell of others, and to be told. Before the handshakes.
    pub fn offer(&mut self, exchange: Exchange) {
        self.core.exchange = exchange;
    }

    /// Tells of public peers, where both sides offered that.
    pub fn send_pex(&mut self, peers: &PeerExchange) {
        self.core.send_pex(peers);
    }

    /// Tells whether both sides offer to tell of others, of the kind that we offered.
    pub fn exchanges(&self) -> bool {
        self.core.pex_id().is_some() || self.gossips()
    }

    /// Tells of hidden peers, where both sides offered that.
    pub fn send_onions(&mut self, onions: &Onions) {
        self.core.send_onions(onions);
    }

    /// Tells whether neither side needs anything. Such a connection is closed by itself, but for one on which we offer to
    /// gossip.
    pub fn both_complete(&self) -> bool {
        self.core.both_complete()
    }

    /// Tells whether both sides offer to tell of hidden peers.
    pub fn gossips(&self) -> bool {
        self.core.gossip_id().is_some()
    }

    /// Where to read into; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        match &mut self.hello {
            Hello::Waiting { buf, filled, .. } if *filled < HANDSHAKE_LEN => &mut buf[*filled..],
            Hello::Waiting { .. } | Hello::Done => self.decoder.space(),
        }
    }

    /// Says that the first `len` bytes of [`Peer::space`] were read.
    pub fn filled(&mut self, now: Instant, len: usize) {
        self.core.idle_at = now + IDLE_TIME;
        match &mut self.hello {
            Hello::Waiting { filled, .. } if *filled < HANDSHAKE_LEN => {
                *filled = filled.saturating_add(len).min(HANDSHAKE_LEN);
            }
            Hello::Waiting { .. } | Hello::Done => self.decoder.filled(len),
        }
    }

    /// Takes bytes that were read elsewhere, at the cost of a copy.
    pub fn feed(&mut self, now: Instant, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let len = space.len().min(bytes.len());
            space[..len].copy_from_slice(&bytes[..len]);
            self.filled(now, len);
            bytes = &bytes[len..];
            if matches!(&self.hello, Hello::Waiting { filled, .. } if *filled == HANDSHAKE_LEN) {
                // What follows goes to the decoder, also before the handshake is looked at.
                self.decoder.feed(bytes);
                return;
            }
        }
    }

    /// The next event; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The peer broke the protocol: close the connection.
    pub fn poll(&mut self, now: Instant) -> Result<Option<Event<'_>>, CloseReason> {
        if let Hello::Waiting { buf, filled, .. } = &self.hello {
            if *filled < HANDSHAKE_LEN {
                return Ok(None);
            }
            let theirs = Handshake::decode(buf)?;
            self.hello = Hello::Done;
            self.core.welcome(&theirs)?;
            return Ok(Some(Event::Ready));
        }
        if let Some(piece) = self.core.late.pop() {
            return self.core.handle_have(piece).map(Some);
        }
        match self.decoder.next()? {
            Some(message) => self.core.handle(now, message).map(Some),
            None => Ok(None),
        }
    }

    /// Appends what is to be sent.
    pub fn transmit(&mut self, now: Instant, out: &mut Vec<u8>) {
        if !self.core.out.is_empty() {
            self.core.sent(now);
            out.append(&mut self.core.out);
        }
    }

    /// Notes that the driver sent blocks on its own.
    pub fn sent_blocks(&mut self, now: Instant) {
        self.core.sent(now);
    }

    /// When [`Peer::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        let core = &self.core;
        let mut due = core.idle_at.min(core.keep_alive_at);
        for at in [core.snub_at, core.fast.due()].into_iter().flatten() {
            due = due.min(at);
        }
        match self.hello {
            Hello::Waiting { deadline, .. } => due.min(deadline),
            Hello::Done => due,
        }
    }

    /// Does what time demands. Gives requests to release when the peer snubs us or dropped them.
    ///
    /// # Errors
    /// The peer took too long: close the connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<Vec<BlockRef>, CloseReason> {
        if matches!(self.hello, Hello::Waiting { deadline, .. } if deadline <= now) {
            return Err(CloseReason::TimedOut("handshake"));
        }
        self.core.handle_timeout(now)
    }

    /// Says how the torrent is cut, what we have, and how long its metadata is where it may be given away. Once.
    ///
    /// # Errors
    /// What the peer said before does not fit the torrent: close the connection.
    pub fn set_torrent(
        &mut self,
        geometry: Geometry,
        ours: Bits,
        metadata_size: Option<u32>,
    ) -> Result<(), CloseReason> {
        self.core.set_torrent(geometry, ours, metadata_size)
    }

    /// The peer's pieces; `None` while the number of pieces is unknown.
    pub fn pieces(&self) -> Option<&Bits> {
        match &self.core.theirs {
            Theirs::Known(bits) => Some(bits),
            Theirs::Early { .. } => None,
        }
    }

    /// The peer's pieces that may be asked for now: all, or while it chokes us those that it allows (BEP 6).
    pub fn askable(&self) -> Option<&Bits> {
        self.core.askable()
    }

    /// What the peer's extension handshake said.
    pub fn extensions(&self) -> PeerExtensions {
        self.core.extensions
    }

    /// Tells whether the peer wants something of us.
    pub fn is_interested(&self) -> bool {
        self.core.interested_in_us
    }

    /// Tells whether the peer refuses our requests.
    pub fn is_choking(&self) -> bool {
        self.core.chokes_us
    }

    /// Tells whether the peer owes us blocks and has been silent for a minute.
    pub fn is_snubbing(&self) -> bool {
        self.core.snubbed
    }

    /// Requests that are outstanding.
    pub fn outstanding(&self) -> usize {
        self.core.asked.len()
    }

    /// All outstanding requests, to release them when the connection ends.
    pub fn outstanding_blocks(&self) -> impl Iterator<Item = BlockRef> + '_ {
        self.core.asked.iter().map(|asked| asked.block)
    }

    /// How many blocks to ask for now; 0 while enough are outstanding.
    pub fn wants(&self) -> usize {
        self.core.wants()
    }

    /// Asks for blocks.
    pub fn request(&mut self, now: Instant, blocks: &[BlockRef]) {
        self.core.request(now, blocks);
    }

    /// Takes a request back, since another peer was quicker. Tells whether it was outstanding.
    pub fn cancel(&mut self, block: BlockRef) -> bool {
        self.core.cancel(block)
    }

    /// Takes back all requests and gives them to be released.
    pub fn cancel_all(&mut self) -> Vec<BlockRef> {
        let blocks: Vec<BlockRef> = self.outstanding_blocks().collect();
        for &block in &blocks {
            self.core.cancel(block);
        }
        blocks
    }

    /// Says whether the peer has something we need.
    pub fn set_interested(&mut self, interested: bool) {
        let core = &mut self.core;
        if interested != core.we_are_interested && core.greeted {
            core.we_are_interested = interested;
            let message = if interested {
                MessageRef::Interested
            } else {
                MessageRef::NotInterested
            };
            message.encode(&mut core.out);
        }
    }

    /// Refuses or allows the peer's requests. Refusing drops those that wait.
    pub fn set_choking(&mut self, choke: bool) {
        self.core.set_choking(choke);
    }

    /// Tells the peer of a piece that we newly have.
    ///
    /// # Errors
    /// Neither side needs the other any more: close the connection.
    pub fn have(&mut self, piece: u32) -> Result<(), CloseReason> {
        let core = &mut self.core;
        // Who has it learns nothing from it.
        if core.ours.set(piece) && core.greeted && !core.they_have(piece) {
            MessageRef::Have(piece).encode(&mut core.out);
        }
        core.check_complete()
    }

    /// Tells whether requests wait to be served.
    pub fn has_uploads(&self) -> bool {
        !self.core.uploads.is_empty()
    }

    /// Takes requests to serve, up to about `bytes`, at least one.
    pub fn take_uploads(&mut self, bytes: u32) -> Vec<BlockRef> {
        self.core.take_uploads(bytes)
    }

    /// Asks for a piece of the metadata, where the peer gives it.
    pub fn ask_metadata(&mut self, piece: u32) {
        self.core.send_metadata(&MetadataMessage::Request(piece));
    }

    /// Answers [`Event::MetadataWanted`]: with the piece, as far as the peer's share allows, or with a refusal.
    pub fn give_metadata(&mut self, piece: u32, metadata: Option<&[u8]>) {
        self.core.give_metadata(piece, metadata);
    }
}

impl Core {
    fn sent(&mut self, now: Instant) {
        self.keep_alive_at = now + Duration::from_millis(self.rng.random_range(KEEP_ALIVE_MS));
    }

    /// The peer's handshake came: answers with ours, what we have, and the extension handshake.
    fn welcome(&mut self, theirs: &Handshake) -> Result<(), CloseReason> {
        self.settle_name(theirs)?;
        if !self.outgoing {
            self.greet();
        }
        self.greeted = true;
        self.extended = theirs.supports_extensions();
        self.fast.on = theirs.supports_fast();
        self.send_ours();
        if self.extended {
            let payload = extension::handshake(self.metadata_size, self.exchange);
            MessageRef::Extended {
                id: extension::HANDSHAKE,
                payload: &payload,
            }
            .encode(&mut self.out);
        }
        Ok(())
    }

    fn set_torrent(
        &mut self,
        geometry: Geometry,
        ours: Bits,
        metadata_size: Option<u32>,
    ) -> Result<(), CloseReason> {
        if self.geometry.is_some() {
            return Ok(());
        }
        let pieces = geometry.pieces;
        self.hashes_left = hashes::share_of(&geometry);
        self.geometry = Some(geometry);
        self.metadata_size = metadata_size;
        self.metadata_left = u64::from(metadata_size.unwrap_or(0)).saturating_mul(METADATA_TIMES);
        if self.greeted {
            // Too late for a bitfield.
            if ours.count() > MAX_LATE_HAVES {
                return Err(CloseReason::ByUs);
            }
            for piece in ours.ones() {
                MessageRef::Have(piece).encode(&mut self.out);
            }
        }
        self.ours = ours;
        let mut bits = Bits::new(pieces);
        if let Theirs::Early {
            bitfield,
            all,
            haves,
        } = &self.theirs
        {
            if *all {
                bits = Bits::full(pieces);
            }
            if let Some(bytes) = bitfield {
                bits = Bits::from_bytes(pieces, bytes).ok_or(CloseReason::Bad("bitfield"))?;
            }
            for &piece in haves {
                if piece >= pieces {
                    return Err(CloseReason::Bad("piece number"));
                }
                bits.set(piece);
            }
        }
        self.theirs = Theirs::Known(bits);
        self.refresh_allowed();
        self.check_complete()
    }

    fn they_have(&self, piece: u32) -> bool {
        match &self.theirs {
            Theirs::Known(bits) => bits.get(piece),
            Theirs::Early { .. } => false,
        }
    }

    fn both_complete(&self) -> bool {
        let theirs = match &self.theirs {
            Theirs::Known(bits) => bits.is_full(),
            Theirs::Early { .. } => false,
        };
        theirs && self.ours.is_full()
    }

    /// Those who gossip may still have something to say.
    fn check_complete(&self) -> Result<(), CloseReason> {
        if self.both_complete() && self.exchange != Exchange::Onions {
            Err(CloseReason::BothComplete)
        } else {
            Ok(())
        }
    }

    fn handle<'a>(
        &mut self,
        now: Instant,
        message: MessageRef<'a>,
    ) -> Result<Event<'a>, CloseReason> {
        if self.out.len() > MAX_OUTPUT {
            return Err(CloseReason::Stuck);
        }
        self.count(now, &message)?;
        let first = !self.spoken;
        // The extension handshake may come before the bitfield.
        let counts = !matches!(message, MessageRef::Extended { .. } | MessageRef::KeepAlive);
        self.spoken |= counts;
        match message {
            MessageRef::KeepAlive | MessageRef::Port(_) | MessageRef::Unknown(_) => {}
            MessageRef::Choke => {
                self.chokes_us = true;
                if self.fast.on {
                    self.choked(now);
                    return Ok(Event::Nothing);
                }
                self.snub_at = None;
                let released: Vec<BlockRef> = self.asked.drain(..).map(|a| a.block).collect();
                self.pardon(released.len());
                return Ok(Event::Released(released));
            }
            MessageRef::Unchoke => {
                self.chokes_us = false;
                self.fast.rest_until = None;
                return Ok(Event::Unchoked);
            }
            MessageRef::Interested => self.interested_in_us = true,
            MessageRef::NotInterested => self.interested_in_us = false,
            MessageRef::Have(piece) => return self.handle_have(piece),
            MessageRef::Bitfield(bytes) => {
                if !first {
                    self.handle_late_bitfield(bytes)?;
                    return Ok(Event::Nothing);
                }
                return self.handle_bitfield(bytes);
            }
            MessageRef::Request(block) => self.handle_request(block)?,
            MessageRef::Piece { index, begin, data } => {
                // At most MAX_BLOCK long.
                let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
                return self.handle_block(now, BlockRef { index, begin, len }, data);
            }
            MessageRef::Cancel(block) => self.handle_cancel(block),
            MessageRef::HaveAll => return self.handle_have_all(first),
            MessageRef::HaveNone => return self.handle_have_none(first),
            MessageRef::Suggest(piece) => return self.handle_suggestion(piece),
            MessageRef::AllowedFast(piece) => return self.handle_allowed(piece),
            MessageRef::Reject(block) => return self.handle_reject(now, block),
            MessageRef::Extended { id, payload } => return self.handle_extended(now, id, payload),
            MessageRef::HashRequest(request) => return Ok(Event::HashesWanted(request)),
            // The decoder takes whole hashes alone.
            MessageRef::Hashes(request, hashes) => {
                return Ok(Event::Hashes(request, hashes.as_chunks().0));
            }
            MessageRef::HashReject(request) => return Ok(Event::HashesRefused(request)),
        }
        Ok(Event::Nothing)
    }

    fn handle_have<'a>(&mut self, piece: u32) -> Result<Event<'a>, CloseReason> {
        match &mut self.theirs {
            Theirs::Known(bits) if piece < bits.len() => {
                if !bits.set(piece) {
                    return Ok(Event::Nothing);
                }
                self.refresh_allowed();
                self.check_complete()?;
                Ok(Event::Have(piece))
            }
            Theirs::Early { haves, .. }
                if (piece as usize) < MAX_PIECES && haves.len() < MAX_EARLY_HAVES =>
            {
                haves.push(piece);
                Ok(Event::Nothing)
            }
            Theirs::Known(_) | Theirs::Early { .. } => Err(CloseReason::Bad("piece number")),
        }
    }

    fn handle_bitfield<'a>(&mut self, bytes: &[u8]) -> Result<Event<'a>, CloseReason> {
        match &mut self.theirs {
            Theirs::Early { bitfield, .. } => *bitfield = Some(bytes.to_vec()),
            Theirs::Known(bits) => {
                *bits = Bits::from_bytes(bits.len(), bytes).ok_or(CloseReason::Bad("bitfield"))?;
                self.refresh_allowed();
                self.check_complete()?;
                return Ok(Event::Pieces);
            }
        }
        Ok(Event::Nothing)
    }

    /// BEP 3 has a bitfield come first or never, but aria2 sends one in place of many HAVE messages: it is taken as those.
    fn handle_late_bitfield(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        let Theirs::Known(bits) = &self.theirs else {
            return Err(CloseReason::Bad("bitfield"));
        };
        let said = Bits::from_bytes(bits.len(), bytes).ok_or(CloseReason::Bad("bitfield"))?;
        self.late = said.ones().filter(|piece| !bits.get(*piece)).collect();
        Ok(())
    }

    fn handle_block<'a>(
        &mut self,
        now: Instant,
        block: BlockRef,
        data: &'a [u8],
    ) -> Result<Event<'a>, CloseReason> {
        // Answers come in order, so this looks at the front as a rule.
        let Some(at) = self.asked.iter().position(|asked| asked.block == block) else {
            self.pardoned = self.pardoned.checked_sub(1).ok_or(CloseReason::Unasked)?;
            return Ok(Event::Nothing);
        };
        if let Some(asked) = self.asked.remove(at) {
            self.pipeline.answered(now, asked.sent, block.len);
        }
        self.fast.answered();
        self.snubbed = false;
        self.snub_at = (!self.asked.is_empty()).then_some(now + SNUB_TIME);
        Ok(Event::Block(block, data))
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<Vec<BlockRef>, CloseReason> {
        if self.idle_at <= now {
            return Err(CloseReason::TimedOut("idle"));
        }
        if self.keep_alive_at <= now && self.greeted {
            MessageRef::KeepAlive.encode(&mut self.out);
            self.sent(now);
        } else if self.keep_alive_at <= now {
            self.keep_alive_at = now + HANDSHAKE_TIME;
        }
        let dropped = self.handle_fast_timeout(now);
        if self.snub_at.is_some_and(|at| at <= now) {
            if self.snubbed {
                return Err(CloseReason::TimedOut("snubbed"));
            }
            self.snubbed = true;
            self.snub_at = None;
            self.pipeline.reset();
            let released: Vec<BlockRef> = self.asked.drain(..).map(|a| a.block).collect();
            for &block in &released {
                MessageRef::Cancel(block).encode(&mut self.out);
            }
            self.pardon(released.len());
            return Ok(dropped.into_iter().chain(released).collect());
        }
        Ok(dropped)
    }

    fn wants(&self) -> usize {
        if self.askable().is_none() || !self.we_are_interested || self.fast.rest_until.is_some() {
            return 0;
        }
        if self.snubbed {
            return usize::from(self.asked.is_empty());
        }
        let window = self.allowed_window(self.pipeline.window());
        let room = window.saturating_sub(self.asked.len());
        // Asked for in batches, so that the picker is not locked for each block.
        if room >= (window / 4).max(1) { room } else { 0 }
    }

    fn request(&mut self, now: Instant, blocks: &[BlockRef]) {
        if blocks.is_empty() {
            return;
        }
        if self.asked.is_empty() {
            self.pipeline.started(now);
            self.snub_at = Some(now + SNUB_TIME);
        }
        for &block in blocks {
            MessageRef::Request(block).encode(&mut self.out);
            self.asked.push_back(Asked { block, sent: now });
        }
    }

    fn cancel(&mut self, block: BlockRef) -> bool {
        let Some(at) = self.asked.iter().position(|asked| asked.block == block) else {
            return false;
        };
        self.asked.remove(at);
        self.pardon(1);
        MessageRef::Cancel(block).encode(&mut self.out);
        if self.asked.is_empty() {
            self.snub_at = None;
        }
        true
    }

    fn pardon(&mut self, blocks: usize) {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        self.pardoned = self.pardoned.saturating_add(blocks);
    }
}
