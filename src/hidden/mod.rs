//! Hidden seeds: a visitor and a seed meet at a relay, each behind a circuit of its own (PROTOCOL.md §8).
//!
//! A seed ([`Host`], with the keys of an [`Identity`]) stands at introduction points ([`Reception::stand`]) and gets streams of
//! visitors; a visitor that knows a seed's keys and one of its points gets a stream by [`visit`]. What both get is a [`Sealed`]
//! stream, which the relay that carries it can neither read nor change. [`HiddenRoute`] lets whoever has an
//! [`Outside`](crate::route::Outside) call seeds of a [`Book`] by name.
//!
//! A seed may let in only some ([`guests`], [`Reception::open_to`]): then a visitor shows it a key of its own ([`make_key`]).
//!
//! Who knows the infohash alone finds seeds by [`seek`], where they [`publish`] themselves in the DHT. A [`feed`] leads from one
//! link to whatever its publisher puts out.

mod book;
pub mod feed;
mod guest;
mod host;
mod identity;
mod items;
mod notice;
mod only;
mod reception;
mod route;
mod starts;
mod stream;
#[cfg(test)]
mod tests;
mod visitor;
mod work;

pub use book::{Book, target};
pub use guest::{GuestKey, NotAGuest, PREFIX as GUEST_PREFIX, find_key, guests, make_key};
pub use host::{Gauge, Host, HostOptions, HostStatus};
pub use identity::{DoorChange, Identity};
pub use notice::{Notice, Seeking, publish, seek};
pub use only::ConcealedOnly;
pub use reception::{Counters, Keys, Limits, Lost, Reception, Standing};
pub use route::HiddenRoute;
pub use starts::Starts;
pub use stream::{Sealed, Side};
pub use visitor::{Seed, VisitError, visit, visit_known};

use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use hushswarm_circuits::rendezvous::Cookie;

/// Two have met within this time, or it is given up: circuits at both ends may have to be built.
const MEET_LIMIT: Duration = Duration::from_secs(60);

/// A circuit for one half of one meeting: no other stream is ever in it.
fn isolation(half: &str, cookie: &Cookie) -> Isolation {
    Isolation::new(half, &cookie.0, 0)
}
