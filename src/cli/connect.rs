//! What commands that use the overlay have in common: the network file, the state folder, the client.

use std::path::PathBuf;
use std::sync::Arc;

use hushswarm_circuits::circuit::padding::CircuitPaddingConfig;

use super::network::keep_fresh;
use crate::config::{NetworkFile, config_folder, unix_now};
use crate::error::{Error, Exit, Kind};
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
    /// Send no padding inside circuits: a little less traffic, and a circuit's use is easier to guess from outside
    #[arg(long)]
    pub no_padding: bool,
}

/// The overlay, ready to be used, and the folder that this process holds.
pub struct Connected {
    /// Builds circuits.
    pub client: Client,
    /// The state folder.
    pub state: Arc<StateDir>,
    /// Held for as long as the folder is used.
    pub lock: StateLock,
    /// Fetches newer relay lists for as long as it is held.
    pub fresh: Fresh,
}

/// Keeps the relay list fresh until it is dropped.
pub struct Fresh(tokio::task::AbortHandle);

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl OverlayArgs {
    /// Opens the state folder, reads the network file and its relay list, and makes a client. Nothing is sent yet.
    ///
    /// # Errors
    /// What is missing or wrong, and what to do. There is no way to go on without circuits.
    pub fn connect(&self) -> Result<Connected, Error> {
        let file = match &self.network {
            Some(file) => file.clone(),
            None => default_network()
                .filter(|file| file.exists())
                .ok_or_else(no_network)?,
        };
        let (network, list) = NetworkFile::load(&file, unix_now())?;
        let path = match &self.state {
            Some(path) => path.clone(),
            None => StateDir::default_path()?,
        };
        let state = Arc::new(StateDir::open(&path)?);
        let lock = state.lock()?;
        let (guards, store) = GuardFile::open(StateDir::open(&path)?, &network.name)?;
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
        let dialer = Arc::new(OsDialer::new(None));
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
            fresh: Fresh(fresh.abort_handle()),
        })
    }
}

fn default_network() -> Option<PathBuf> {
    Some(config_folder()?.join(NETWORK_FILE))
}

fn no_network() -> Error {
    Error::new(Kind::Policy, "no relay list, so there is no circuit, and nothing is sent any other way")
        .with_exit(Exit::NoNetwork)
        .with_hint("pass --network FILE, or put the file that your network's operators gave you at ~/.config/hushswarm/network.toml; \"hushswarm demo\" shows everything on this computer alone")
}
