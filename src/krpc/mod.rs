//! The DHT's protocol (KRPC: BEP 5, 32, 42, 43, 44), without input and output: bytes and `now` go in, bytes, events and
//! deadlines come out. Whoever has a way to send datagrams runs it: a relay's node, or a client through a circuit.
//!
//! - [`lookup`] finds peers and items without telling more nodes what is looked for than need to know it.
//! - [`table`] keeps the nodes from which a relay's lookups begin. A client keeps none.
//! - [`message`], [`item`], [`contact`] and [`id`] are what stands on the wire.
//!
//! This side is read-only (BEP 43): it asks, answers nobody and stores nothing.

mod carried;
pub mod contact;
pub mod id;
pub mod item;
pub mod lookup;
pub mod message;
pub mod settings;
pub mod table;

pub use contact::{Contact, Family, Network};
pub use id::Id;
pub use item::{Item, ItemError, ItemName};
pub use lookup::{Event, Goal, Lookup, Start, Summary, To, Transmit};
pub use message::{Transaction, transaction_of};
pub use settings::Settings;
pub use table::RoutingTable;
