//! The options that commands which let something out have in common: the routes file, and the gate that it makes.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Routes;
use crate::error::Error;
use crate::overlay::client::Client;
use crate::route::circuits::CircuitRoute;
use crate::route::gate::Gate;
use crate::route::policy::Policy;

/// Options about what may leave.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RoutesArgs {
    /// Routes file, which says what may leave and how [default: ~/.config/hushswarm/routes.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub routes: Option<PathBuf>,
    /// Let private and loopback addresses and local names through: for a network of your own, on computers of your own.
    /// With other people's relays, their exits learn what you ask for, and answer in its place
    #[arg(long)]
    pub allow_private: bool,
}

/// The rules, and where they came from.
pub struct Loaded {
    /// The rules.
    pub policy: Policy,
    /// The file; `None` where there is none, and the usual rules hold.
    pub file: Option<PathBuf>,
}

impl RoutesArgs {
    /// Reads the rules.
    ///
    /// # Errors
    /// A file that was named is not there, or an entry is wrong: tell the user.
    pub fn load(&self) -> Result<Loaded, Error> {
        let (routes, file) = Routes::load(self.routes.as_deref())?;
        let policy = Policy::new(routes).with_private(self.allow_private);
        Ok(Loaded { policy, file })
    }
}

impl Loaded {
    /// A gate with these rules in front of this client's circuits.
    pub fn gate(&self, client: &Client) -> Arc<Gate> {
        gate(self.policy.clone(), client)
    }
}

/// A gate with these rules in front of this client's circuits.
pub fn gate(policy: Policy, client: &Client) -> Arc<Gate> {
    Gate::new(Arc::new(CircuitRoute::new(client.clone())), policy)
}
