//! Links to relays, one for each, opened when needed and closed when unused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hushswarm_circuits::keys::{IdentityKey, RelayId};
use hushswarm_circuits::relay_list::Descriptor;
use hushswarm_circuits::switch::{Link, LinkConfig};

use super::link::{HANDSHAKE_TIMEOUT, LinkFailure, TOR_HANDSHAKE_TIMEOUT, initiate};
use crate::net::{Place, RelayDialer, Way};

/// A link without circuits is closed after this time.
const UNUSED: Duration = Duration::from_secs(300);
/// How often unused links are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Whoever asks first dials; the others wait for the same link.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Link>>>>;

/// Opens and keeps links to relays.
pub struct Links {
    dialer: Arc<dyn RelayDialer>,
    identity: Option<Arc<IdentityKey>>,
    config: LinkConfig,
    slots: Mutex<HashMap<RelayId, Slot>>,
}

impl Links {
    /// Makes an empty set. With an identity, links say which relay opens them (PROTOCOL.md §2.5).
    pub fn new(
        dialer: Arc<dyn RelayDialer>,
        identity: Option<Arc<IdentityKey>>,
        config: LinkConfig,
    ) -> Arc<Self> {
        let links = Arc::new(Self {
            dialer,
            identity,
            config,
            slots: Mutex::default(),
        });
        tokio::spawn(sweep(Arc::downgrade(&links)));
        links
    }

    /// The link to a relay, opened if there is none.
    ///
    /// # Errors
    /// At none of its places anybody answered as the relay list says: use another relay, unless there is
    /// [no way](LinkFailure::no_way) to any.
    pub async fn get(&self, relay: &Descriptor) -> Result<Arc<Link>, LinkFailure> {
        let slot = Arc::clone(self.lock().entry(relay.identity).or_default());
        let mut held = slot.lock().await;
        if let Some(link) = held.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        let mut failure = LinkFailure::Io(std::io::ErrorKind::AddrNotAvailable.into());
        for place in self.dialer.places(relay) {
            match self.open(relay, place).await {
                Ok(link) => {
                    *held = Some(Arc::clone(&link));
                    return Ok(link);
                }
                Err(error) => failure = error,
            }
            if failure.no_way().is_some() {
                break;
            }
        }
        Err(failure)
    }

    async fn open(&self, relay: &Descriptor, place: Place) -> Result<Arc<Link>, LinkFailure> {
        let transport = self.dialer.dial(relay, place).await?;
        let peer = relay.link_peer();
        let limit = match self.dialer.way() {
            Way::Straight => HANDSHAKE_TIMEOUT,
            Way::Through { .. } => TOR_HANDSHAKE_TIMEOUT,
        };
        initiate(
            transport,
            limit,
            &peer,
            self.identity.as_deref(),
            self.config.clone(),
            (),
        )
        .await
    }

    /// How the way to relays is.
    pub fn way(&self) -> Way {
        self.dialer.way()
    }

    /// Closes all links.
    pub fn close(&self) {
        for (_, slot) in self.lock().drain() {
            // A slot that is being dialed closes by itself: nobody holds its link.
            if let Ok(mut held) = slot.try_lock()
                && let Some(link) = held.take()
            {
                link.close(Instant::now());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RelayId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.close();
    }
}

async fn sweep(links: Weak<Links>) {
    let mut unused: HashMap<u64, Instant> = HashMap::new();
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(links) = links.upgrade() else { return };
        let now = Instant::now();
        let mut seen = HashMap::new();
        links.lock().retain(|_, slot| {
            let Ok(held) = slot.try_lock() else {
                return true;
            };
            let Some(link) = held.as_ref().filter(|link| !link.is_closed()) else {
                return false;
            };
            if link.circuits() > 0 {
                return true;
            }
            let since = unused.get(&link.number()).copied().unwrap_or(now);
            seen.insert(link.number(), since);
            if now.duration_since(since) < UNUSED {
                return true;
            }
            link.close(now);
            false
        });
        unused = seen;
    }
}
