//! What commands that use the overlay have in common: the network file, the state folder, the client.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hushswarm_circuits::circuit::padding::CircuitPaddingConfig;
use hushswarm_circuits::path::GuardSample;

use super::network::keep_fresh;
use super::routes::Loaded;
use super::tor::OurTor;
use crate::config::{FirstLink, NetworkFile, config_folder, unix_now};
use crate::error::{Error, Exit, Kind};
use crate::net::RelayDialer;
use crate::net::os::OsDialer;
use crate::overlay::client::{Client, ClientConfig};
use crate::overlay::guards::GuardFile;
use crate::state::{StateDir, StateLock};

/// Name of the network file in the configuration folder.
const NETWORK_FILE: &str = "network.toml";

/// Options of commands that use the overlay.
#[derive(Clone, Debug, clap::Args)]
pub struct OverlayArgs {
    /// Network file, which names the relay list and who signs it [default: ~/.config/hushswarm/network.toml]
    #[arg(long, value_name = "FILE")]
    pub network: Option<PathBuf>,
    /// Relays between you and the world; with 1, that relay knows both you and your peers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub hops: u8,
    /// Folder for guards and resume records [default: ~/.local/state/hushswarm]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// How the first relay is reached: by a connection of this computer's own, which tells that relay its address, or through
    /// Tor, so that no relay learns it. Through Tor is slower; nothing is sent to a relay any other way then [default: as the
    /// routes file says, else tcp]
    #[arg(long, value_name = "WAY", value_enum)]
    pub first_link: Option<FirstLink>,
    /// Send no padding inside circuits: a little less traffic, and a circuit's use is easier to guess from outside
    #[arg(long)]
    pub no_padding: bool,
}

/// What opens links to relays, the only thing of this process that does.
///
/// # Errors
/// It is to be Tor, and this program has none: tell the user.
pub fn dialer(way: FirstLink, tor: impl FnOnce() -> OurTor) -> Result<Arc<dyn RelayDialer>, Error> {
    match way {
        FirstLink::Tcp => Ok(Arc::new(OsDialer::new(None))),
        FirstLink::Tor => tor().dialer(),
    }
}

/// The overlay, ready to be used, and the folder that this process holds.
pub struct Connected {
    /// Builds circuits.
    pub client: Client,
    /// The state folder.
    pub state: Arc<StateDir>,
    /// Held by a command that keeps others of its kind out.
    pub lock: Option<StateLock>,
    /// Fetches newer relay lists for as long as it is held; `None` where there is none to be kept fresh.
    pub fresh: Option<Fresh>,
}

/// What is used where there is no network file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Nothing: the command can't go on.
    Fails,
    /// Tor alone.
    Tor,
}

/// Keeps the relay list fresh until it is dropped.
pub struct Fresh(tokio::task::AbortHandle);

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl OverlayArgs {
    /// What who downloads over so few relays should know.
    pub fn warning(&self) -> Option<&'static str> {
        (self.hops == 1)
            .then_some("with one hop, that relay sees both your address and whom you download from")
    }

    /// Opens the state folder, reads the network file and its relay list, and makes a client. Nothing is sent yet. Other
    /// commands may use the folder at the same time.
    ///
    /// # Errors
    /// What is missing or wrong, and what to do. With [`Without::Tor`], a missing network file is no error: then there are
    /// no circuits.
    pub fn connect(&self, without: Without, routes: &Loaded) -> Result<Connected, Error> {
        self.open(false, without, routes)
    }

    /// The same for a command that writes resume records: only one of them may use the folder at a time.
    ///
    /// # Errors
    /// As [`OverlayArgs::connect`]; another one uses the folder.
    pub fn connect_alone(&self, without: Without, routes: &Loaded) -> Result<Connected, Error> {
        self.open(true, without, routes)
    }

    fn open(&self, alone: bool, without: Without, routes: &Loaded) -> Result<Connected, Error> {
        let loaded = match network_path(self.network.as_deref()) {
            Ok(file) => Some(NetworkFile::load(&file, unix_now())?),
            Err(_) if without == Without::Tor => None,
            Err(error) => return Err(error),
        };
        let path = match &self.state {
            Some(path) => path.clone(),
            None => StateDir::default_path()?,
        };
        let state = Arc::new(StateDir::open(&path)?);
        let lock = alone.then(|| state.lock()).transpose()?;
        let way = self.first_link.unwrap_or(routes.first_link);
        let dialer = dialer(way, || routes.tor(&state))?;
        let Some((network, list)) = loaded else {
            return Ok(Connected {
                client: Client::without_relays(dialer),
                state,
                lock,
                fresh: None,
            });
        };
        let draw = |guards: &mut GuardSample| guards.refresh(&list, unix_now(), &mut rand::rng());
        let folder = StateDir::open(&path)?;
        let (guards, store) = GuardFile::open_drawn(folder, &network.name, draw)?;
        let config = ClientConfig {
            hops: usize::from(self.hops),
            rules: network.rules,
            padding: if self.no_padding {
                CircuitPaddingConfig::off()
            } else {
                CircuitPaddingConfig::default()
            },
            ..ClientConfig::default()
        };
        let client = Client::new(
            Arc::new(list),
            guards,
            Some(Box::new(store)),
            dialer,
            config,
        );
        client.prebuild();
        let fresh = tokio::spawn(keep_fresh(network, client.clone()));
        Ok(Connected {
            client,
            state,
            lock,
            fresh: Some(Fresh(fresh.abort_handle())),
        })
    }
}

/// The network file that was named, or the one at its usual place.
///
/// # Errors
/// None was named, and there is none: nothing can be sent.
pub fn network_path(named: Option<&Path>) -> Result<PathBuf, Error> {
    let usual = || config_folder().map(|folder| folder.join(NETWORK_FILE));
    match named {
        Some(file) => Ok(file.to_owned()),
        None => usual().filter(|file| file.exists()).ok_or_else(no_network),
    }
}

fn no_network() -> Error {
    Error::new(Kind::Policy, "no relay list, so there is no circuit, and nothing is sent any other way")
        .with_exit(Exit::NoNetwork)
        .with_hint("pass --network FILE, or put the file that your network's operators gave you at ~/.config/hushswarm/network.toml; \"hushswarm demo\" shows everything on this computer alone; Tor needs no relay list: --route tor")
}
