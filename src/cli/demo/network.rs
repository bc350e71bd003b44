//! A private network of relays on this computer: keys, descriptors, a list signed by two of three authorities.
//! It protects nobody; it is for seeing and testing the real thing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hushswarm_circuits::keys::{IdentityKey, RelayId};
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::relay_list::{Descriptor, Draft, ExitPolicy, RelayList, Roles, Trust};

use crate::cli::relay::DESCRIPTOR_FILE;
use crate::config::{NetworkFile, RELAY_CONFIG_FILE, RelayConfig, unix_now};
use crate::error::{Error, Kind};
use crate::net::os::{LinkListener, OsDialer};
use crate::relay::limits::Limits;
use crate::relay::{Keys, Options, Relay};
use crate::state::{RelayKeys, StateDir};

/// Name of the network.
const NAME: &str = "private";
/// Authorities, and how many must have signed.
const AUTHORITIES: (usize, usize) = (3, 2);
/// Life of the list, seconds.
const LIST_LIFE: u64 = 86_400;
/// Clocks of one computer agree, but a list that begins this very second would be refused by a slow reader.
const SLACK: u64 = 60;

/// One relay to be.
pub struct Plan {
    /// Its configuration.
    pub config: RelayConfig,
    /// Its keys.
    pub keys: RelayKeys,
    /// Its signed descriptor.
    pub descriptor: Descriptor,
}

/// The documents of a private network.
pub struct PrivateNetwork {
    /// Its relays.
    pub relays: Vec<Plan>,
    /// The signed list.
    pub list: Arc<RelayList>,
    authorities: Vec<RelayId>,
    rules: PathRules,
}

/// The loopback address of the `n`th relay: each in a network (/16) of its own, as path choice wants it.
pub fn relay_ip(n: usize) -> IpAddr {
    Ipv4Addr::new(127, 10 + (n % 100) as u8, 0, 1).into()
}

fn bug(what: &str) -> impl Fn(&dyn std::error::Error) -> Error + '_ {
    move |error| Error::new(Kind::Bug, format!("{what}: {error}"))
}

impl PrivateNetwork {
    /// Makes keys and documents for relays at these addresses. All serve the list, the first `guards` of them are guards,
    /// and the last `exits` are exits, to loopback and private addresses too.
    ///
    /// # Errors
    /// None but by mistakes of this program.
    pub fn new(
        addrs: &[SocketAddr],
        guards: usize,
        exits: usize,
        rules: PathRules,
    ) -> Result<Self, Error> {
        Self::with(addrs, guards, exits, rules, |_| {})
    }

    /// The same, where `edit` has the last word on each relay's configuration.
    ///
    /// # Errors
    /// None but by mistakes of this program, or of `edit`.
    pub fn with(
        addrs: &[SocketAddr],
        guards: usize,
        exits: usize,
        rules: PathRules,
        mut edit: impl FnMut(&mut RelayConfig),
    ) -> Result<Self, Error> {
        let (now, rng) = (unix_now(), &mut rand::rng());
        let mut relays = Vec::new();
        for (n, addr) in addrs.iter().enumerate() {
            let exit = n + exits >= addrs.len();
            let mut config = RelayConfig::new(format!("relay{}", n + 1), vec![*addr]);
            config.roles = Roles {
                guard: n < guards,
                exit,
                list: true,
                dht: false,
                introduce: false,
            };
            config.bandwidth = 100_000;
            if exit {
                config.policy = ExitPolicy::from_texts(&["accept * *:1-65535"])
                    .map_err(|error| bug("exit policy")(&error))?;
            }
            edit(&mut config);
            let keys = RelayKeys::generate(rng);
            let descriptor = keys
                .describe(&config, now - SLACK)
                .map_err(|error| bug("descriptor")(&error))?;
            relays.push(Plan {
                config,
                keys,
                descriptor,
            });
        }
        let descriptors = relays.iter().map(|plan| plan.descriptor.clone()).collect();
        let mut draft = Draft::new(NAME, now - SLACK, now + LIST_LIFE, descriptors)
            .map_err(|error| bug("relay list")(&error))?;
        let keys: Vec<_> = (0..AUTHORITIES.0)
            .map(|_| IdentityKey::generate(rng))
            .collect();
        for key in keys.iter().take(AUTHORITIES.1) {
            draft.sign(key);
        }
        let authorities: Vec<RelayId> = keys.iter().map(IdentityKey::public).collect();
        let bytes = draft.encode().map_err(|error| bug("relay list")(&error))?;
        let trust = Trust {
            network: NAME.to_owned(),
            authorities: authorities.clone(),
            threshold: AUTHORITIES.1,
        };
        // Checked as everybody else checks it.
        let list = RelayList::decode_verified(&bytes, &trust, now)
            .map_err(|error| bug("relay list")(&error))?;
        Ok(Self {
            relays,
            list: Arc::new(list),
            authorities,
            rules,
        })
    }

    /// Writes a network file, the list and one state folder for each relay (`relay1`, `relay2`, ...) below `dir`.
    /// Gives the network file's path.
    ///
    /// # Errors
    /// The disk.
    pub fn write_to(&self, dir: &Path) -> Result<PathBuf, Error> {
        let path = self.write_public(dir)?;
        for plan in &self.relays {
            let state = StateDir::open(dir.join(&plan.config.nickname))?;
            plan.keys.store(&state)?;
            state.write(RELAY_CONFIG_FILE, plan.config.to_toml()?.as_bytes())?;
            state.write(DESCRIPTOR_FILE, plan.descriptor.bytes())?;
        }
        Ok(path)
    }

    /// Writes what clients need: a network file and the list. Gives the network file's path.
    ///
    /// # Errors
    /// The disk.
    pub fn write_public(&self, dir: &Path) -> Result<PathBuf, Error> {
        crate::state::write_public(&dir.join("relay.list"), self.list.bytes())?;
        let network = NetworkFile {
            name: NAME.to_owned(),
            authorities: self.authorities.clone(),
            threshold: AUTHORITIES.1,
            list: PathBuf::from("relay.list"),
            rules: self.rules,
        };
        let path = dir.join("network.toml");
        crate::state::write_public(&path, network.to_toml()?.as_bytes())?;
        Ok(path)
    }
}

/// Relays that run inside this process.
pub struct Running {
    /// The relays, in the order of their numbers.
    pub relays: Vec<Relay>,
    /// Their addresses.
    pub ips: Vec<IpAddr>,
    /// The signed list.
    pub list: Arc<RelayList>,
}

/// Starts `count` relays on loopback, each on an address of its own; the last two are exits.
///
/// # Errors
/// Loopback addresses can't be bound.
pub fn start(count: usize) -> Result<Running, Error> {
    let mut listeners = Vec::new();
    for n in 0..count {
        let listener = LinkListener::bind(SocketAddr::new(relay_ip(n), 0)).map_err(|source| {
            Error::local(format!("can't listen on {}: {source}", relay_ip(n))).with_hint(
                "the demo needs the addresses 127.10.0.1 and on, which Linux has from the start",
            )
        })?;
        listeners.push(listener);
    }
    let addrs = listeners
        .iter()
        .map(LinkListener::local_addr)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::local("can't listen").with_source(source))?;
    let network = PrivateNetwork::new(&addrs, count, 2, PathRules::default())?;
    Ok(serve(network, listeners))
}

/// Starts the relays of a network inside this process, each on its listener.
pub fn serve(network: PrivateNetwork, listeners: Vec<LinkListener>) -> Running {
    let list = network.list;
    let addrs: Vec<SocketAddr> = network
        .relays
        .iter()
        .filter_map(|plan| plan.config.listen.first().copied())
        .collect();
    let relays = network
        .relays
        .into_iter()
        .zip(listeners)
        .zip(&addrs)
        .map(|((plan, listener), addr)| {
            let options = Options {
                descriptor: plan.descriptor,
                keys: Keys {
                    identity: Arc::new(plan.keys.identity),
                    onion: plan.keys.onion,
                    link: plan.keys.link,
                },
                list: Arc::clone(&list),
                listeners: vec![listener],
                exit_source: Some(addr.ip()),
                limits: Limits::default(),
                dht: plan.config.dht,
                meetings: plan.config.introductions,
            };
            Relay::start(options, Arc::new(OsDialer::new(Some(addr.ip()))))
        })
        .collect();
    Running {
        relays,
        ips: addrs.iter().map(SocketAddr::ip).collect(),
        list,
    }
}
