//! Feeds (PROTOCOL.md §8.7): what a publisher puts out under one link ([`issue`], with the keys of a [`Publisher`]), and how it is
//! followed ([`Follower`]). All of it stands in the DHT, where each look and each word has a circuit of its own.

mod follower;
mod issuing;
mod publisher;
#[cfg(test)]
mod tests;

pub use follower::{Feed, Follower, LookError, Unhidden};
pub use issuing::{Issued, Issuing, issue};
pub use publisher::Publisher;

use hushswarm_circuits::keys::{Key32, derive_key};
use hushswarm_circuits::rendezvous::feed::FeedPlace;

use crate::bencode::Value;
use crate::krpc::{Item, ItemError, ItemName};

/// Derives what tells one infohash from another, in the files of the state folder, from `secret[32] | infohash[20]`: they name none.
const TORRENT: &str = "hushswarm v1 torrent of a feed";

/// Stands for an infohash in a file.
fn mark(secret: &[u8], infohash: &[u8; 20]) -> [u8; 32] {
    *derive_key(TORRENT, &[secret, infohash]).as_bytes()
}

/// Under what a feed's item is found.
fn name(public: &[u8; 32], place: &FeedPlace) -> Result<ItemName, ItemError> {
    ItemName::mutable(public, place.salt())
}

/// What is sealed in an item; empty where it holds something else.
fn sealed(item: &Item) -> &[u8] {
    let value = Value::parse(item.value()).ok();
    value.and_then(Value::as_bytes).unwrap_or_default()
}

/// A file's name, which does not tell what it was derived from.
fn file_name(context: &'static str, material: &[&[u8]]) -> String {
    let digest: Key32 = derive_key(context, material);
    let (short, _) = digest.as_bytes().split_at(16);
    format!("feed-{}", data_encoding::HEXLOWER.encode(short))
}
