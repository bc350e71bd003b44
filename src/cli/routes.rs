//! The options that commands which let something out have in common: the routes file, and the gate that it makes.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::connect::Without;
use super::tor::{OurTor, TorArgs};
use crate::config::{FirstLink, LookupConfig, RouteAction, Routes, TorFile};
use crate::error::Error;
use crate::onion::Chosen;
use crate::overlay::client::Client;
use crate::route::Outside;
use crate::route::circuits::CircuitRoute;
use crate::route::gate::{Gate, Ways};
use crate::route::policy::Policy;
use crate::state::StateDir;

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
    /// Where everything goes that no rule of the routes file names: circuits, or Tor's exits. Tor's operators ask not to carry
    /// bulk transfers through their exits, and Tor carries no UDP; onion services use no exit
    #[arg(long, value_name = "WAY")]
    pub route: Option<Way>,
    /// Options about Tor.
    #[command(flatten)]
    pub tor: TorArgs,
}

/// The usual way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// Circuits of the relay list's relays.
    Circuit,
    /// Tor.
    Tor,
}

/// The rules, and where they came from.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The rules.
    pub policy: Policy,
    /// The file; `None` where there is none, and the usual rules hold.
    pub file: Option<PathBuf>,
    /// How the first relay is reached, where the command line does not say.
    pub first_link: FirstLink,
    /// How peers are looked for in the DHT.
    pub dht: LookupConfig,
    /// How Tor is reached.
    pub tor: TorFile,
    /// The one Tor of this process, once somebody asked for it.
    pub(super) ours: Arc<OnceLock<OurTor>>,
}

impl RoutesArgs {
    /// Reads the rules.
    ///
    /// # Errors
    /// A file that was named is not there, or an entry is wrong: tell the user.
    pub fn load(&self) -> Result<Loaded, Error> {
        let (mut routes, file) = Routes::load(self.routes.as_deref())?;
        match self.route {
            None => {}
            Some(Way::Circuit) => routes.default = RouteAction::Circuit { hops: None },
            Some(Way::Tor) => routes.default = RouteAction::Tor,
        }
        let tor = TorFile::load(self.tor.tor.as_deref())?;
        let first_link = routes.first_link;
        let dht = routes.dht.clone();
        let policy = Policy::new(routes).with_private(self.allow_private);
        Ok(Loaded {
            policy,
            file,
            first_link,
            dht,
            tor,
            ours: Arc::default(),
        })
    }
}

impl Loaded {
    /// What serves where there is no relay list.
    pub fn without(&self) -> Without {
        match self.policy.default_action() {
            RouteAction::Tor => Without::Tor,
            RouteAction::Circuit { .. } | RouteAction::Refuse => Without::Fails,
        }
    }

    /// The Tor of these options, which keeps its files below `state`: one for all that this process uses it for.
    pub fn tor(&self, state: &StateDir) -> OurTor {
        let ours = self
            .ours
            .get_or_init(|| OurTor::new(self.tor.clone(), state));
        ours.clone()
    }

    /// A gate with these rules in front of this client's circuits and of this Tor, which visits the chosen onion services with
    /// our keys.
    pub fn gate(&self, client: &Client, tor: &OurTor, chosen: Chosen) -> Arc<Gate> {
        let ways = EveryWay {
            circuits: CircuitRoute::new(client.clone()),
            tor: tor.route(chosen),
        };
        Gate::new(Arc::new(ways), self.policy.clone())
    }
}

/// Circuits, and Tor where this program has it.
struct EveryWay {
    circuits: CircuitRoute,
    tor: Option<Arc<dyn Outside>>,
}

impl Ways for EveryWay {
    fn circuits(&self, hops: Option<u8>) -> Arc<dyn Outside> {
        self.circuits.circuits(hops)
    }

    fn tor(&self) -> Option<Arc<dyn Outside>> {
        self.tor.clone()
    }
}
