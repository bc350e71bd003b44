//! The circuits that many hidden seeds of one program want at one moment, when it starts or is online again: a few at a time.
//!
//! A guard takes so many new circuits of one client in a second, and what is over waits for long. So it is better to wait here: each for
//! its turn, in the order in which they came.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Circuits that are built at one time for the introduction points of all seeds. One takes a second or two, so that this is no brake for
/// a few seeds, and a thousand stand within minutes.
const AT_ONCE: usize = 64;
/// And from one to the next at the least: half as many in a second as a guard takes of a client as a rule (100), since visitors and
/// downloads want some too.
const APART: Duration = Duration::from_millis(20);

/// What seeds of one program share: clones are the same.
#[derive(Clone, Debug)]
pub struct Starts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Arc<Semaphore>,
    /// When the next may begin.
    next: Mutex<Option<Instant>>,
}

impl Default for Starts {
    fn default() -> Self {
        Self(Arc::new(Shared {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            next: Mutex::default(),
        }))
    }
}

/// A circuit may be built. Keep it until that is done.
#[derive(Debug)]
pub(super) struct Start {
    _place: Option<OwnedSemaphorePermit>,
}

impl Starts {
    /// Waits until it is one's turn.
    pub(super) async fn turn(&self) -> Start {
        let place = Arc::clone(&self.0.places).acquire_owned().await;
        let at = {
            let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = next.map_or(now, |at| at.max(now));
            *next = Some(at + APART);
            at
        };
        sleep_until(at).await;
        Start {
            // It is never closed.
            _place: place.ok(),
        }
    }
}
