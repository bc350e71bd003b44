//! The switch: what a node does with the frames of its links, whether it is a hop of other people's circuits or
//! the origin of its own (PROTOCOL.md §2, §4, §6).
//!
//! Bytes go in at [`Receiver::process`], sealed frames come out of [`Transmitter::fill`]; whoever owns the transport calls
//! the first when bytes have come and the second when [`Wake`] was called and the transport takes more. Everything in
//! between happens inside these calls: a cell is opened in the caller's read buffer, copied once into a pooled frame, sealed
//! in place, and queued on the link where it leaves.
//!
//! Objects are shared between threads, one reader and one writer for each link. Locks are short, are held over no
//! callback, and are taken in this order: a link's table, its handshakes, a circuit's forward side or end point, and a
//! link's queue last.

mod hop;
mod link;
mod origin;
mod run;
#[cfg(test)]
mod tests;

pub use hop::HopCircuit;
pub use link::{Link, LinkClosed, LinkConfig, MAX_CIRCUITS, OpenError, Receiver, Transmitter};
pub use origin::OriginCircuit;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::body::DestroyReason;
use crate::circuit::mux::MuxEvent;
use crate::circuit::origin::OriginEvent;
use crate::handshake::CREATE_LEN;
use crate::keys::RelayId;

/// Called when a link has something to write. It may be called at any time, from any thread, and must only take a note.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// What a switch tells its owner. Methods are called without any lock held, from the thread that works the link; they
/// must be quick, and hand work that waits to a task.
pub trait Handler: Send + Sync {
    /// A neighbour asks for a circuit: answer with [`Link::accept`] or [`Link::refuse`], now or later.
    fn create(&self, link: &Arc<Link>, circuit: u32, message: &[u8; CREATE_LEN]) {
        let _ = message;
        link.refuse(circuit, DestroyReason::Protocol);
    }

    /// The neighbour says that it is this relay, and proved it (§2.5).
    fn authenticated(&self, link: &Arc<Link>, relay: RelayId) {
        let _ = (link, relay);
    }

    /// Something happened at a circuit that ends or passes here.
    fn hop_event(&self, circuit: &Arc<HopCircuit>, event: MuxEvent) {
        let _ = (circuit, event);
    }

    /// A circuit that ended or passed here is gone.
    fn hop_closed(&self, circuit: &Arc<HopCircuit>) {
        let _ = circuit;
    }
}

/// Whom one circuit of ours tells. Called as [`Handler`] is.
pub trait OriginHandler: Send + Sync {
    /// Something happened at the circuit.
    fn event(&self, event: OriginEvent);
}

/// A panic while a lock is held leaves plain data behind that the next holder can use or tear down.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
