//! Tor, through arti in this process: streams to onion services and through Tor's exits.
//!
//! Nothing is sent before something is asked for that only Tor can reach. Every connection is opened by
//! [`TorSockets`], the state lies in a folder of ours, and whoever must not be linked gets circuits of their own.

mod client;
mod dialer;
mod failure;
mod keys;
mod passing;
mod progress;
mod service;
mod stream;
mod uses;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::isolation::Isolation;
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use crate::config::TorFile;
use crate::net::os::TorSockets;
use crate::onion::OnionKey;
use uses::Uses;

pub use dialer::TorDialer;
pub use failure::TorError;
pub use keys::{NotAKey, VisitorKey, has_visitor_key, visitor_key};
pub use service::{MAX_VISITOR_KEYS, OnionOptions, OnionService, service_key};
pub use stream::TorStream;

/// How long starting may take before whoever waits is told. It goes on behind, and the next one waits again.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long nothing may be open before Tor rests, unless the Tor file says otherwise.
const DORMANT_AFTER: Duration = Duration::from_secs(600);
/// How long to wait before a stream is tried again where no relay could be used: a moment after it has started, or was woken, it
/// may not know its bridges and guards yet.
const TRY_AGAIN: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// How far Tor is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TorStatus {
    /// Nothing asked for it yet, and nothing was sent.
    #[default]
    Idle,
    /// It connects and fetches its directory.
    Starting {
        /// 0 to 100.
        percent: u8,
        /// What it does or waits for, for people; it names no address.
        what: String,
    },
    /// Streams can be opened.
    Ready,
    /// Nothing was open for a while, and it rests; the next request wakes it.
    Resting,
    /// It could not start; what was asked for fails, and the next request tries again.
    Failed(TorError),
}

/// Tor. Clones are the same one.
#[derive(Clone)]
pub struct Tor {
    shared: Arc<Shared>,
}

struct Shared {
    file: TorFile,
    folder: PathBuf,
    sockets: TorSockets,
    client: OnceCell<client::Client>,
    uses: Uses,
    status: Arc<watch::Sender<TorStatus>>,
    closed: watch::Sender<BTreeSet<OnionKey>>,
}

/// Whose choice a visit to an onion service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The user's: it is visited with the key by which it lets us in, where there is one.
    Chosen,
    /// Others told of it. Our key would tell them who we are, so that one for which we have a key is not visited at all.
    Told,
}

impl Tor {
    /// Tor with this file, that keeps its directory and guards in this folder. Only one process at a time writes there.
    /// Nothing is opened or sent.
    pub fn new(file: TorFile, folder: PathBuf, sockets: TorSockets) -> Self {
        Self {
            shared: Arc::new(Shared {
                file,
                folder,
                sockets,
                client: OnceCell::new(),
                uses: Uses::default(),
                status: Arc::new(watch::Sender::new(TorStatus::Idle)),
                closed: watch::Sender::default(),
            }),
        }
    }

    /// How far it is, now and from now on.
    pub fn status(&self) -> watch::Receiver<TorStatus> {
        self.shared.status.subscribe()
    }

    /// The onion services of the user's choice that were met and let in only those whose key they know, of whom we are none.
    pub fn closed(&self) -> watch::Receiver<BTreeSet<OnionKey>> {
        self.shared.closed.subscribe()
    }

    /// Opens a stream to an onion service, or through an exit to a name or address, which the exit resolves.
    ///
    /// # Errors
    /// See [`TorError`]; nothing was sent any other way.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        isolation: Isolation,
        visit: Visit,
    ) -> Result<TorStream, TorError> {
        // Before it is woken, so that it does not fall asleep again before the stream is there.
        let used = || self.shared.uses.begin();
        let _opening = used();
        let client = self.started().await?;
        if visit == Visit::Told && client::has_key(client, host) {
            return Err(TorError::NotFound);
        }
        let mut waits = TRY_AGAIN.iter();
        loop {
            let opened = client::connect(client, host, port, isolation, used()).await;
            match (&opened, waits.next()) {
                (Err(TorError::NotNow(_)), Some(wait)) => tokio::time::sleep(*wait).await,
                (Err(TorError::KeyNeeded), _) if visit == Visit::Chosen => {
                    let service = OnionKey::of_host(host);
                    self.shared.closed.send_if_modified(|closed| {
                        service.is_some_and(|service| closed.insert(service))
                    });
                    return opened;
                }
                _ => return opened,
            }
        }
    }

    /// Starts it, if it is not running, and waits until streams can be opened.
    ///
    /// # Errors
    /// It can't be started now: tell the user why. It may be tried again.
    pub async fn start(&self) -> Result<(), TorError> {
        self.started().await.map(drop)
    }

    async fn started(&self) -> Result<&client::Client, TorError> {
        let shared = &self.shared;
        let make = || {
            let status = Arc::clone(&shared.status);
            let sockets = shared.sockets.clone();
            async {
                let made = client::open(&shared.file, &shared.folder, sockets, status).await?;
                tokio::spawn(self.clone().rest_when_unused(made.clone()));
                Ok::<_, TorError>(made)
            }
        };
        let client = match shared.client.get_or_try_init(make).await {
            Ok(client) => client,
            Err(error) => {
                shared.status.send_replace(TorStatus::Failed(error.clone()));
                return Err(error);
            }
        };
        let mut status = shared.status.subscribe();
        self.wake(client);
        self.begin(client);
        let over = |now: &TorStatus| matches!(now, TorStatus::Ready | TorStatus::Failed(_));
        let waited = timeout(START_TIMEOUT, status.wait_for(over)).await;
        let waited = waited.map(|now| now.map(|now| now.clone()));
        match waited {
            Ok(Ok(TorStatus::Failed(error))) => Err(error),
            Ok(Ok(_)) => Ok(client),
            Ok(Err(_)) | Err(_) => Err(TorError::slow(&shared.status.borrow())),
        }
    }

    /// Lets it start, where it neither runs nor is starting. It does so whether or not anybody waits.
    fn begin(&self, client: &client::Client) {
        let begins = self.shared.status.send_if_modified(|status| {
            let idle = matches!(status, TorStatus::Idle | TorStatus::Failed(_));
            if idle {
                *status = TorStatus::starting();
            }
            idle
        });
        if !begins {
            return;
        }
        let (client, status) = (client.clone(), Arc::clone(&self.shared.status));
        tokio::spawn(async move {
            let started = client::start(&client).await;
            status.send_replace(match started {
                Ok(()) => TorStatus::Ready,
                Err(error) => TorStatus::Failed(error),
            });
        });
    }
}

/// Rest.
impl Tor {
    /// Lets it rest whenever nothing was open for a while, for as long as the program runs.
    async fn rest_when_unused(self, client: client::Client) {
        let shared = &self.shared;
        let after = shared.file.dormant_after.unwrap_or(DORMANT_AFTER);
        let mut uses = shared.uses.count();
        loop {
            let unused = uses.wait_for(|count| *count == 0).await.is_ok();
            let quiet = timeout(after, uses.wait_for(|count| *count > 0))
                .await
                .is_err();
            if !unused || !quiet {
                continue;
            }
            shared.uses.if_none(|| {
                let rests = shared.status.send_if_modified(|status| {
                    let ready = matches!(status, TorStatus::Ready);
                    if ready {
                        *status = TorStatus::Resting;
                    }
                    ready
                });
                if rests {
                    client::rest(&client);
                    tracing::info!("Tor rests: nothing was open for a while");
                }
            });
        }
    }

    /// Ends its rest, where it rests. Whoever calls it has begun a use.
    fn wake(&self, client: &client::Client) {
        let woken = self.shared.status.send_if_modified(|status| {
            let rests = matches!(status, TorStatus::Resting);
            if rests {
                *status = TorStatus::Ready;
            }
            rests
        });
        if woken {
            client::wake(client);
            tracing::info!("Tor is woken");
        }
    }
}

impl TorStatus {
    fn starting() -> Self {
        Self::Starting {
            percent: 0,
            what: "connecting".to_owned(),
        }
    }
}

impl std::fmt::Debug for Tor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tor")
            .field("file", &self.shared.file)
            .field("status", &*self.shared.status.borrow())
            .finish_non_exhaustive()
    }
}
