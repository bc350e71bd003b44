//! The half of a connection that speaks extension messages (BEP 9, 10, 11; docs/onion-gossip.md).

use std::time::{Duration, Instant};

use super::{CloseReason, Core, Event, MAX_OUTPUT};
use crate::torrent::extension::{self, Exchange, MetadataMessage, PeerExtensions};
use crate::torrent::gossip::Onions;
use crate::torrent::pex::PeerExchange;
use crate::torrent::wire::MessageRef;

/// Messages about hidden peers that may come within [`GOSSIP_WINDOW`]. We send one a minute; some may wait in a circuit and
/// come together.
const MAX_GOSSIP: usize = 4;
const GOSSIP_WINDOW: Duration = Duration::from_secs(60);

/// A message about public peers that comes sooner after the last is passed over unread. BEP 11 allows one a minute; one that waited
/// in a circuit shortens the time to the next.
const PEX_TIME: Duration = Duration::from_secs(45);

impl Core {
    pub(super) fn handle_extended<'a>(
        &mut self,
        now: Instant,
        id: u8,
        payload: &'a [u8],
    ) -> Result<Event<'a>, CloseReason> {
        if !self.extended {
            return Err(CloseReason::Bad("extension"));
        }
        match id {
            // Who did not offer it is not listened to either.
            extension::HS_ONIONS if self.gossip_id().is_some() => {
                if self.gossip.len() == MAX_GOSSIP
                    && let Some(first) = self.gossip.pop_front()
                    && now < first + GOSSIP_WINDOW
                {
                    return Err(CloseReason::Floods("onion peers"));
                }
                self.gossip.push_back(now);
                Ok(Event::Onions(Onions::parse(payload)?))
            }
            extension::UT_PEX if self.pex_id().is_some() => {
                if self.heard_pex.is_some_and(|last| now < last + PEX_TIME) {
                    return Ok(Event::Nothing);
                }
                self.heard_pex = Some(now);
                Ok(Event::Peers(PeerExchange::parse(payload)?))
            }
            extension::HANDSHAKE => {
                self.extensions = PeerExtensions::parse(payload)?;
                if let Some(reqq) = self.extensions.reqq {
                    self.pipeline.set_limit(reqq);
                }
                Ok(Event::Extensions)
            }
            extension::UT_METADATA => Ok(match MetadataMessage::parse(payload)? {
                Some(MetadataMessage::Request(piece)) => Event::MetadataWanted(piece),
                Some(MetadataMessage::Data {
                    piece,
                    total_size,
                    data,
                }) => Event::Metadata {
                    piece,
                    total: total_size,
                    data,
                },
                Some(MetadataMessage::Reject(_)) => Event::MetadataRejected,
                None => Event::Nothing,
            }),
            _ => Ok(Event::Nothing),
        }
    }

    /// Under which id the peer is told of hidden peers, where both sides offered that.
    pub(super) fn gossip_id(&self) -> Option<u8> {
        let offered = self.exchange == Exchange::Onions;
        self.extensions.hs_onions.filter(|_| offered)
    }

    /// Under which id the peer is told of public peers, where both sides offered that.
    pub(super) fn pex_id(&self) -> Option<u8> {
        let offered = self.exchange == Exchange::Public;
        self.extensions.ut_pex.filter(|_| offered)
    }

    pub(super) fn send_pex(&mut self, peers: &PeerExchange) {
        if let Some(id) = self.pex_id() {
            MessageRef::Extended {
                id,
                payload: &peers.encode(),
            }
            .encode(&mut self.out);
        }
    }

    pub(super) fn send_onions(&mut self, onions: &Onions) {
        if let Some(id) = self.gossip_id() {
            MessageRef::Extended {
                id,
                payload: &onions.encode(),
            }
            .encode(&mut self.out);
        }
    }

    pub(super) fn send_metadata(&mut self, message: &MetadataMessage<'_>) {
        if let Some(id) = self.extensions.ut_metadata {
            MessageRef::Extended {
                id,
                payload: &message.encode(),
            }
            .encode(&mut self.out);
        }
    }

    pub(super) fn give_metadata(&mut self, piece: u32, metadata: Option<&[u8]>) {
        let start = piece as usize * extension::METADATA_PIECE;
        let part = metadata.and_then(|bytes| {
            let total_size = u32::try_from(bytes.len()).ok()?;
            let end = start
                .saturating_add(extension::METADATA_PIECE)
                .min(bytes.len());
            let data = bytes.get(start..end).filter(|data| !data.is_empty())?;
            (data.len() as u64 <= self.metadata_left && self.out.len() < MAX_OUTPUT / 2).then_some(
                MetadataMessage::Data {
                    piece,
                    total_size,
                    data,
                },
            )
        });
        if let Some(MetadataMessage::Data { data, .. }) = part {
            self.metadata_left -= data.len() as u64;
        }
        self.send_metadata(&part.unwrap_or(MetadataMessage::Reject(piece)));
    }
}
