//! Introduction and rendezvous (PROTOCOL.md §8): how two who don't know each other's place meet at a relay.
//!
//! [`wire`] is what relays read; [`message`] and [`sealed`] are what passes through them, which they can't read;
//! [`work`] is what a seed under load asks for, and [`toll`] how much;
//! [`contact`] is what visitors know of a seed, and [`item`] where they find it; by a [`feed`] they find a publisher's newest.

pub mod contact;
pub mod feed;
pub mod item;
pub mod message;
pub mod sealed;
pub mod toll;
pub mod wire;
pub mod work;

pub use contact::{Contact, Point};
pub use feed::{FeedKey, Issue};
pub use message::{Introductions, Meeting, SwarmKey, Visitor};
pub use toll::{Toll, Verdict};
pub use wire::{Cookie, Establish, Handed, IntroductionId, Status};
pub use work::{Challenge, Nonce, Proof, Puzzle, Solver};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod work_tests;
