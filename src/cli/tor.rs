//! Tor for commands: where its file is, the route through it, and onion services.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::TorFile;
use crate::error::Error;
use crate::net::RelayDialer;
use crate::onion::{Chosen, OnionKey};
use crate::route::Outside;
use crate::state::StateDir;

/// Options about Tor.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TorArgs {
    /// Tor file, with bridges and pluggable transports [default: ~/.config/hushswarm/tor.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub tor: Option<PathBuf>,
}

/// Whether this program was built with Tor.
pub const HAS_TOR: bool = cfg!(feature = "tor");

/// The port of onion services of torrents, as magnet links and peers name it.
pub const ONION_PORT: u16 = 6881;

/// The onion service at which this tracker is. None has a UDP tracker.
pub fn service_of_url(url: &str) -> Option<OnionKey> {
    let url = url::Url::parse(url).ok()?;
    let http = matches!(url.scheme(), "http" | "https");
    OnionKey::of_host(url.host_str()?).filter(|_| http)
}

#[cfg(feature = "tor")]
pub use crate::tor::{MAX_VISITOR_KEYS, OnionOptions, VisitorKey};
#[cfg(feature = "tor")]
pub use with::{Onion, OurTor, has_visitor_key, service_key, visitor_key};
#[cfg(not(feature = "tor"))]
pub use without::{
    MAX_VISITOR_KEYS, Onion, OnionOptions, OurTor, VisitorKey, has_visitor_key, service_key,
    visitor_key,
};

#[cfg(feature = "tor")]
mod with {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::time::Duration;

    use super::{
        Arc, Chosen, Error, OnionKey, OnionOptions, Outside, RelayDialer, StateDir, TorFile,
        VisitorKey,
    };
    use crate::error::{Exit, Kind};
    use crate::net::os::TorSockets;
    use crate::net::{BoxStream, Transport};
    use crate::route::tor::TorRoute;
    use crate::tor::{self, OnionService, Tor, TorDialer, TorError, TorStatus};

    /// Tor's folder, below the state folder.
    const FOLDER: &str = "tor";
    /// How long to wait before Tor is started again.
    const RETRY: Duration = Duration::from_secs(10);
    /// What to do about such an onion service.
    const KEY_NEEDED: &str = "Tor: an onion peer lets in only those whose key it was given: \"hushswarm onion-key\" with the link prints yours, for the one who shares it";
    /// Progress that is worth a line, percent.
    const STEP: u8 = 20;

    /// The Tor of this command. It starts when something is asked for that goes there, and tells on standard error how far
    /// it is: whoever waits wants to know what for. Clones are the same Tor.
    #[derive(Clone, Debug)]
    pub struct OurTor(Tor);

    /// An onion service of this command.
    pub struct Onion(OnionService);

    impl OurTor {
        /// Tor by this file, which keeps its own files below `state`. Nothing is sent yet.
        pub fn new(file: TorFile, state: &StateDir) -> Self {
            let tor = Tor::new(file, state.path().join(FOLDER), TorSockets::for_tor());
            let mut closed = tor.closed();
            tokio::spawn(async move {
                if closed.wait_for(|closed| !closed.is_empty()).await.is_ok() {
                    tell(KEY_NEEDED);
                }
            });
            let mut status = tor.status();
            tokio::spawn(async move {
                let mut last = TorStatus::Idle;
                while status.changed().await.is_ok() {
                    let now = status.borrow_and_update().clone();
                    if is_news(&last, &now) {
                        text(&now).as_deref().map(tell);
                        last = now;
                    }
                }
            });
            Self(tor)
        }

        /// What whoever waits for Tor waits for; `None` where it was not asked for, or is ready.
        pub fn waits_for(&self) -> Option<String> {
            let status = self.0.status().borrow().clone();
            match status {
                TorStatus::Idle | TorStatus::Ready | TorStatus::Resting => None,
                TorStatus::Starting { .. } | TorStatus::Failed(_) => text(&status),
            }
        }

        /// The route through it, which visits these services with our key, where we have one.
        pub fn route(&self, chosen: Chosen) -> Option<Arc<dyn Outside>> {
            Some(Arc::new(TorRoute::new(self.0.clone(), chosen)))
        }

        /// Waits until one of these onion services was met, and lets in only those whose key it knows, of whom we are none.
        pub async fn key_needed(&self, chosen: &Chosen) {
            let mut closed = self.0.closed();
            let any = |closed: &BTreeSet<OnionKey>| closed.iter().any(|key| chosen.names(key));
            if closed.wait_for(any).await.is_err() {
                std::future::pending().await
            }
        }

        /// Opens links to relays through it.
        ///
        /// # Errors
        /// This program was built without Tor: tell the user.
        pub fn dialer(&self) -> Result<Arc<dyn RelayDialer>, Error> {
            Ok(Arc::new(TorDialer::new(self.0.clone())))
        }

        /// Runs an onion service, and waits for Tor as long as it takes.
        ///
        /// # Errors
        /// Waiting would not help: tell the user.
        pub async fn serve(&self, options: &OnionOptions) -> Result<Onion, Error> {
            loop {
                match self.0.serve(options).await {
                    Ok(service) => return Ok(Onion(service)),
                    // It was told already, as the status.
                    Err(TorError::NotReady { .. }) => {}
                    Err(error) if error.may_pass() => tokio::time::sleep(RETRY).await,
                    Err(error) => return Err(for_user(&error)),
                }
            }
        }
    }

    impl Onion {
        /// `<56 characters>.onion`.
        pub fn address(&self) -> &str {
            self.0.address()
        }

        /// The next stream that somebody opened.
        pub async fn next(&mut self) -> Option<BoxStream> {
            let stream = self.0.next().await?;
            Some(Box::new(stream))
        }

        /// The next stream that somebody opened, for a link.
        pub async fn next_link(&mut self) -> Option<Transport> {
            loop {
                if let Ok(transport) = self.0.next().await?.into_transport() {
                    return Some(transport);
                }
            }
        }
    }

    /// The key of the onion service of this name in this state folder; it is made where there is none. Nothing is sent.
    ///
    /// # Errors
    /// The folder can't be used: tell the user.
    pub fn service_key(state: &StateDir, nickname: &str) -> Result<OnionKey, Error> {
        tor::service_key(&state.path().join(FOLDER), nickname).map_err(|error| for_user(&error))
    }

    /// The key with which this state folder's Tor visits an onion service; it is made where there is none. `None` where that
    /// is no onion service's address. Nothing is sent.
    ///
    /// # Errors
    /// The folder can't be used: tell the user.
    pub fn visitor_key(state: &StateDir, address: &str) -> Result<Option<VisitorKey>, Error> {
        tor::visitor_key(&state.path().join(FOLDER), address).map_err(|error| for_user(&error))
    }

    /// Whether this state folder's Tor has a key with which it visits an onion service. Nothing is sent.
    ///
    /// # Errors
    /// The folder can't be used: tell the user.
    pub fn has_visitor_key(state: &StateDir, address: &str) -> Result<bool, Error> {
        tor::has_visitor_key(&state.path().join(FOLDER), address).map_err(|error| for_user(&error))
    }

    fn for_user(error: &TorError) -> Error {
        Error::new(Kind::Policy, error.to_string()).with_exit(Exit::NoNetwork)
    }

    /// Whether the user has to hear it: not every percent.
    fn is_news(last: &TorStatus, now: &TorStatus) -> bool {
        let held = |what: &str| what.starts_with("held up");
        match (last, now) {
            (
                TorStatus::Starting {
                    percent: from,
                    what: old,
                },
                TorStatus::Starting {
                    percent: to,
                    what: new,
                },
            ) => to.abs_diff(*from) >= STEP || ((held(old) || held(new)) && old != new),
            // It rests and wakes without telling: whoever asks for something waits no longer for it.
            (_, TorStatus::Resting) | (TorStatus::Resting, TorStatus::Ready) => false,
            _ => last != now,
        }
    }

    fn text(status: &TorStatus) -> Option<String> {
        Some(match status {
            TorStatus::Idle | TorStatus::Resting => return None,
            TorStatus::Starting { percent, what } => format!("Tor: {percent} %, {what}"),
            TorStatus::Ready => "Tor is ready".to_owned(),
            TorStatus::Failed(error) => format!("{error}; nothing leaves any other way"),
        })
    }

    fn tell(text: &str) {
        // When nobody can read it, the command still works.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}

#[cfg(not(feature = "tor"))]
mod without {
    use std::convert::Infallible;
    use std::fmt;
    use std::str::FromStr;

    use super::{Arc, Chosen, Error, OnionKey, Outside, RelayDialer, StateDir, TorFile};
    use crate::error::{Exit, Kind};
    use crate::net::{BoxStream, Transport};

    /// Nobody has a key.
    pub const MAX_VISITOR_KEYS: usize = 0;

    /// What an onion service would be like.
    pub type OnionOptions = crate::onion::OnionOptions<VisitorKey>;

    /// There is none.
    #[derive(Clone, Debug)]
    pub struct VisitorKey(Infallible);

    /// No text is a key.
    #[derive(Debug, thiserror::Error)]
    #[error("this program was built without Tor")]
    pub struct NoTor;

    impl FromStr for VisitorKey {
        type Err = NoTor;

        fn from_str(_: &str) -> Result<Self, NoTor> {
            Err(NoTor)
        }
    }

    impl fmt::Display for VisitorKey {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0 {}
        }
    }

    /// Fails.
    ///
    /// # Errors
    /// Always: tell the user.
    pub fn visitor_key(_: &StateDir, _: &str) -> Result<Option<VisitorKey>, Error> {
        Err(no_tor())
    }

    /// There is none.
    ///
    /// # Errors
    /// None.
    pub fn has_visitor_key(_: &StateDir, _: &str) -> Result<bool, Error> {
        Ok(false)
    }

    /// Fails.
    ///
    /// # Errors
    /// Always: tell the user.
    pub fn service_key(_: &StateDir, _: &str) -> Result<OnionKey, Error> {
        Err(no_tor())
    }

    fn no_tor() -> Error {
        let error = Error::new(Kind::Policy, "this program was built without Tor");
        error
            .with_exit(Exit::NoNetwork)
            .with_hint("build it with the cargo feature \"tor\", which is on by default")
    }

    /// This program was built without Tor.
    #[derive(Clone, Debug)]
    pub struct OurTor;

    /// There is none.
    pub enum Onion {}

    impl OurTor {
        /// Does nothing.
        pub fn new(_: TorFile, _: &StateDir) -> Self {
            Self
        }

        /// Nothing.
        pub fn waits_for(&self) -> Option<String> {
            None
        }

        /// There is none.
        pub fn route(&self, _: Chosen) -> Option<Arc<dyn Outside>> {
            None
        }

        /// Waits for ever.
        pub async fn key_needed(&self, _: &Chosen) {
            std::future::pending().await
        }

        /// Fails.
        ///
        /// # Errors
        /// Always: tell the user.
        pub async fn serve(&self, _: &OnionOptions) -> Result<Onion, Error> {
            Err(no_tor())
        }

        /// Fails.
        ///
        /// # Errors
        /// Always: tell the user.
        pub fn dialer(&self) -> Result<Arc<dyn RelayDialer>, Error> {
            Err(no_tor())
        }
    }

    impl Onion {
        /// There is none.
        pub fn address(&self) -> &str {
            match *self {}
        }

        /// There is none.
        pub async fn next(&mut self) -> Option<BoxStream> {
            match *self {}
        }

        /// There is none.
        pub async fn next_link(&mut self) -> Option<Transport> {
            match *self {}
        }
    }
}
