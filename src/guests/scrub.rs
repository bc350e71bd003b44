//! What a client says to a hidden peer, without what gives either away.
//!
//! Clients tell each peer more than it needs: their own global addresses (`ipv4`, `ipv6`), the address that the peer has for
//! them (`yourip`, here one of our virtual ones), their listening port and version, in the extension handshake (BEP 10);
//! whom else they know (PEX, BEP 11; holepunch, BEP 55); their DHT port (BEP 5); and, by the pieces of an allowed fast set
//! (BEP 6), a hash of the peer's address as they see it. So a hidden peer would learn who the client is, and a hostile one could name
//! addresses to it where somebody waits for who comes.
//!
//! A [`Scrubber`] reads one direction and lets through what is known to name nobody: messages about pieces, metadata
//! (BEP 9), hashes (BEP 52). The rest is dropped, and what is not the protocol ends the connection. Blocks pass as
//! they come; only an extension handshake is held until it is whole.

mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::stream::carry;
use crate::bencode::{self, BencodeError, Value};
use crate::torrent::extension::HANDSHAKE;
use crate::torrent::wire::{EXTENSION_BIT, HANDSHAKE_LEN, MAX_EXTENDED, PROTOCOL, WireError};

/// Longest message, bytes: what our own clients take, with what stands before the payload.
pub const MAX_MESSAGE: u32 = MAX_EXTENDED + 64;
/// Longest extension handshake, bytes: those of clients have a few hundred.
pub const MAX_EXTENSION_HANDSHAKE: u32 = 16 << 10;
/// Extensions that name nobody, in the order in which they stand in a dictionary.
pub const EXTENSIONS: [&str; 3] = ["lt_donthave", "upload_only", "ut_metadata"];

/// The bit of byte 7 of the reserved bytes that offers the fast extension (BEP 6).
const FAST_BIT: u8 = 0x04;
/// What is kept of the reserved bytes: neither the DHT nor what nobody here knows.
const RESERVED: [u8; 8] = [0, 0, 0, 0, 0, EXTENSION_BIT, 0, FAST_BIT];
/// Message id of the extension protocol.
const EXTENDED: u8 = 20;
/// Bytes that decide what becomes of a message: length, id, extended id.
const HEAD: usize = 6;

/// This is not the peer protocol: end the connection. Nothing more comes from the scrubber that said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScrubError {
    /// Not a handshake (BEP 3), or a message with a length that it can't have.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// An extension handshake that nobody can read.
    #[error("an extension handshake is malformed")]
    Handshake(#[from] BencodeError),
}

/// Under which extended ids one side takes messages.
#[derive(Default)]
struct Announced {
    /// In the order of [`EXTENSIONS`].
    ids: [Option<u8>; EXTENSIONS.len()],
    /// Ids that it once had for something else: messages with these would be taken for that.
    barred: BTreeSet<u8>,
}

impl Announced {
    fn takes(&self, id: u8) -> bool {
        self.ids.contains(&Some(id)) && !self.barred.contains(&id)
    }
}

type Side = Arc<Mutex<Announced>>;

fn lock(side: &Side) -> MutexGuard<'_, Announced> {
    side.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy)]
enum State {
    /// So many bytes of the handshake have passed.
    Handshake(usize),
    /// At the beginning of a message; so many bytes of its head are there.
    Head(usize),
    /// So many bytes of a message are still to pass.
    Pass(u32),
    /// So many are still to be dropped.
    Drop(u32),
    /// So many of an extension handshake are still to come.
    Hold(u32),
    Broken(ScrubError),
}

/// What becomes of a message.
enum Fate {
    Pass,
    Drop,
    /// The extended id decides.
    Extended,
}

/// One direction of a connection between two peers.
pub struct Scrubber {
    state: State,
    head: [u8; HEAD],
    /// The extension handshake that is not whole yet.
    held: Vec<u8>,
    /// What the side that speaks here has announced.
    speaker: Side,
    /// What the other has: messages to it have its ids.
    listener: Side,
}

impl Scrubber {
    /// One for each direction of a connection.
    pub fn pair() -> (Self, Self) {
        let (one, other) = (Side::default(), Side::default());
        let scrubber = |speaker: &Side, listener: &Side| Self {
            state: State::Handshake(0),
            head: [0; HEAD],
            held: Vec::new(),
            speaker: Arc::clone(speaker),
            listener: Arc::clone(listener),
        };
        (scrubber(&one, &other), scrubber(&other, &one))
    }

    /// Takes the next bytes, cut anywhere, and appends what may pass: never more than came in.
    ///
    /// # Errors
    /// This is not the peer protocol: end the connection. What was appended before may pass.
    pub fn scrub(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), ScrubError> {
        let done = self.run(input, out);
        if let Err(error) = done {
            self.state = State::Broken(error);
            self.held = Vec::new();
        }
        done
    }

    fn run(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), ScrubError> {
        while !input.is_empty() {
            self.state = match self.state {
                State::Handshake(at) => {
                    let (now, rest) = take(input, HANDSHAKE_LEN - at);
                    input = rest;
                    handshake(at, now, out)?;
                    match at + now.len() {
                        HANDSHAKE_LEN => State::Head(0),
                        at => State::Handshake(at),
                    }
                }
                State::Head(at) => {
                    self.head[at] = input[0];
                    input = &input[1..];
                    self.decide(at + 1, out)?
                }
                State::Pass(left) => {
                    let (now, rest) = take(input, left as usize);
                    input = rest;
                    out.extend_from_slice(now);
                    body(State::Pass, left - now.len() as u32)
                }
                State::Drop(left) => {
                    let (now, rest) = take(input, left as usize);
                    input = rest;
                    body(State::Drop, left - now.len() as u32)
                }
                State::Hold(left) => {
                    let (now, rest) = take(input, left as usize);
                    input = rest;
                    self.held.extend_from_slice(now);
                    let left = left - now.len() as u32;
                    if left == 0 {
                        let held = std::mem::take(&mut self.held);
                        self.extension_handshake(&held, out)?;
                    }
                    body(State::Hold, left)
                }
                State::Broken(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Decides on a message of whose head so many bytes are there.
    fn decide(&self, at: usize, out: &mut Vec<u8>) -> Result<State, ScrubError> {
        let [a, b, c, d, id, extended] = self.head;
        let len = u32::from_be_bytes([a, b, c, d]);
        match at {
            4 if len == 0 => {
                out.extend_from_slice(&self.head[..4]);
                Ok(State::Head(0))
            }
            5 => match fate(id, len)? {
                Fate::Pass => {
                    out.extend_from_slice(&self.head[..5]);
                    Ok(body(State::Pass, len - 1))
                }
                Fate::Drop => Ok(body(State::Drop, len - 1)),
                Fate::Extended => Ok(State::Head(5)),
            },
            6 if extended == HANDSHAKE => {
                let payload = len - 2;
                if (1..=MAX_EXTENSION_HANDSHAKE).contains(&payload) {
                    Ok(State::Hold(payload))
                } else {
                    Err(WireError::Length { id, len }.into())
                }
            }
            6 if lock(&self.listener).takes(extended) => {
                out.extend_from_slice(&self.head);
                Ok(body(State::Pass, len - 2))
            }
            6 => Ok(body(State::Drop, len - 2)),
            at => Ok(State::Head(at)),
        }
    }

    /// Appends what an extension handshake may say, as a message, and notes under which ids its sender takes messages.
    fn extension_handshake(&self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), ScrubError> {
        // Some clients append bytes; they are none of the dictionary and don't pass.
        let (value, _) = Value::parse_prefix(payload)?;
        let [m, size, reqq, upload_only] =
            value.fields(["m", "metadata_size", "reqq", "upload_only"])?;
        let m = m.filter(|m| m.as_dict().is_some());
        let ids = m.map(|m| self.announce(m)).transpose()?;
        let number = |value: Option<Value<'_>>| {
            let value = value.and_then(Value::as_uint);
            value.and_then(|n| u32::try_from(n).ok())
        };
        let mut kept = Vec::new();
        bencode::put_dict(&mut kept, |dict| {
            if let Some(ids) = ids {
                bencode::put_dict(dict.key("m"), |m| {
                    for (name, id) in EXTENSIONS.iter().zip(ids) {
                        if let Some(id) = id {
                            bencode::put_int(m.key(name), id);
                        }
                    }
                });
            }
            if let Some(size) = number(size) {
                bencode::put_int(dict.key("metadata_size"), size);
            }
            if let Some(reqq) = number(reqq) {
                bencode::put_int(dict.key("reqq"), reqq);
            }
            if let Some(upload_only) = number(upload_only) {
                bencode::put_int(dict.key("upload_only"), u8::from(upload_only != 0));
            }
        });
        // No longer than what came, and so than its limit.
        let len = kept.len() as u32 + 2;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&[EXTENDED, HANDSHAKE]);
        out.extend_from_slice(&kept);
        Ok(())
    }

    /// Notes the ids of a handshake; gives what it may say of each of [`EXTENSIONS`], 0 where it takes one back.
    fn announce(&self, m: Value<'_>) -> Result<[Option<u8>; EXTENSIONS.len()], ScrubError> {
        let id = |value: Value<'_>| value.as_uint().and_then(|id| u8::try_from(id).ok());
        let fields = m.fields(EXTENSIONS)?;
        let mut speaker = lock(&self.speaker);
        for (name, value) in m.as_dict().into_iter().flatten() {
            let allowed = EXTENSIONS.iter().any(|known| known.as_bytes() == name);
            if let Some(id) = id(value).filter(|id| *id != 0 && !allowed) {
                speaker.barred.insert(id);
            }
        }
        let mut said = [None; EXTENSIONS.len()];
        for (n, value) in fields.into_iter().enumerate() {
            let Some(id) = value.and_then(id) else {
                continue;
            };
            if !speaker.barred.contains(&id) {
                speaker.ids[n] = (id != 0).then_some(id);
                said[n] = Some(id);
            }
        }
        Ok(said)
    }
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrubber").finish_non_exhaustive()
    }
}

/// At most so many bytes of the input, and the rest.
fn take(input: &[u8], most: usize) -> (&[u8], &[u8]) {
    input.split_at(most.min(input.len()))
}

/// In a message of which so many bytes are still to come.
fn body(state: impl FnOnce(u32) -> State, left: u32) -> State {
    if left == 0 {
        State::Head(0)
    } else {
        state(left)
    }
}

/// Appends these bytes of a handshake, which stand there from `at` on. The peer id passes: it tells connections apart.
fn handshake(at: usize, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ScrubError> {
    for (at, byte) in (at..).zip(bytes) {
        match PROTOCOL.get(at) {
            Some(wanted) if wanted != byte => return Err(WireError::NotBitTorrent.into()),
            Some(_) => out.push(*byte),
            None => {
                let kept = RESERVED.get(at - PROTOCOL.len());
                out.push(byte & kept.unwrap_or(&0xff));
            }
        }
    }
    Ok(())
}

/// What becomes of a message with this id and length, bytes, which is not 0.
fn fate(id: u8, len: u32) -> Result<Fate, ScrubError> {
    let payload = len - 1;
    // Messages of one length have it, so that both ends see the same messages.
    let (fate, good) = match id {
        // CHOKE to NOT_INTERESTED, HAVE_ALL, HAVE_NONE
        0..=3 | 14 | 15 => (Fate::Pass, payload == 0),
        // HAVE, SUGGEST
        4 | 13 => (Fate::Pass, payload == 4),
        // REQUEST, CANCEL, REJECT
        6 | 8 | 16 => (Fate::Pass, payload == 12),
        // BITFIELD, PIECE, and of BEP 52 HASH_REQUEST, HASHES, HASH_REJECT
        5 | 7 | 21..=23 => (Fate::Pass, true),
        EXTENDED => (Fate::Extended, payload >= 1),
        // PORT, ALLOWED_FAST, and what nobody here knows
        _ => (Fate::Drop, true),
    };
    if good && len <= MAX_MESSAGE {
        Ok(fate)
    } else {
        Err(WireError::Length { id, len }.into())
    }
}
