//! Introduction and rendezvous (PROTOCOL.md §8): how two who don't know each other's place meet at a relay.
//!
//! [`wire`] is what relays read; [`message`] and [`sealed`] are what passes through them, which they can't read;
//! [`contact`] is what visitors know of a seed, and [`item`] where they find it; by a [`feed`] they find a publisher's newest.

pub mod contact;
pub mod feed;
pub mod item;
pub mod message;
pub mod sealed;
pub mod wire;

pub use contact::{Contact, Point};
pub use feed::{FeedKey, Issue};
pub use message::{Introductions, Meeting, SwarmKey, Visitor};
pub use wire::{Cookie, Establish, IntroductionId, Status};

#[cfg(test)]
mod tests;
