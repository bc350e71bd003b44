//! `hushswarm network relay-keys`: keys, configuration and descriptor of a relay.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

use hushswarm_circuits::relay_list::{Descriptor, DescriptorError, ExitPolicy, Proto};

use super::{RelayInitArgs, say, usage};
use crate::cli::relay::LINK_SERVICE;
use crate::cli::table::{rate, until};
use crate::cli::tor::service_key;
use crate::config::{
    MAX_RELAY_FILE_LEN, RELAY_CONFIG_FILE, RelayConfig, RelayDht, id_to_hex, unix_now,
};
use crate::error::{Error, Exit};
use crate::state::{RelayKeys, StateDir};

/// The file with a relay's own descriptor, in its state folder.
pub(super) const DESCRIPTOR_FILE: &str = "descriptor";

/// Makes a relay, or signs its descriptor anew: keys stay, and what the arguments leave out stays as it was.
///
/// # Errors
/// Report it and end with its exit code; keys that were there are untouched.
pub fn relay_init(args: RelayInitArgs, out: &mut dyn Write) -> Result<(), Error> {
    let path = match &args.state {
        Some(path) => path.clone(),
        None => StateDir::default_path()?,
    };
    let dir = StateDir::open(path)?;
    let _lock = dir.lock()?;
    let onion = args.onion;
    let mut config = configure(stored(&dir)?, args)?;
    if onion {
        config.onion = Some(service_key(&dir, LINK_SERVICE)?);
    }
    let found = RelayKeys::load(&dir)?;
    let is_new = found.is_none();
    let keys = match found {
        Some(keys) => keys,
        None => RelayKeys::generate(&mut rand::rng()),
    };
    let now = unix_now();
    let descriptor = keys.describe(&config, now).map_err(explain)?;
    if is_new {
        keys.store(&dir)?;
    }
    dir.write(RELAY_CONFIG_FILE, config.to_toml()?.as_bytes())?;
    dir.write(DESCRIPTOR_FILE, descriptor.bytes())?;
    say(out, &summary(&dir, &descriptor, &config, is_new, now)?)
}

fn stored(dir: &StateDir) -> Result<Option<RelayConfig>, Error> {
    let Some(bytes) = dir.read(RELAY_CONFIG_FILE, MAX_RELAY_FILE_LEN)? else {
        return Ok(None);
    };
    let path = dir.path_of(RELAY_CONFIG_FILE)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::local(format!("{} is not a text file", path.display())).with_exit(Exit::Disk)
    })?;
    Ok(Some(RelayConfig::parse(&text, &path)?))
}

fn configure(stored: Option<RelayConfig>, args: RelayInitArgs) -> Result<RelayConfig, Error> {
    let mut config = match stored {
        Some(config) => config,
        None => {
            let Some(nickname) = args.nickname.clone() else {
                return Err(usage("a new relay needs a name: --nickname NAME"));
            };
            if args.listen.is_empty() {
                return Err(usage(
                    "a new relay needs an address to listen on: --listen IP:PORT",
                ));
            }
            RelayConfig::new(nickname, args.listen.clone())
        }
    };
    if let Some(nickname) = args.nickname {
        config.nickname = nickname;
    }
    if !args.listen.is_empty() {
        config.listen = args.listen;
    }
    if !args.address.is_empty() {
        config.addresses = args.address;
    }
    config.roles.guard |= args.guard;
    if args.exit && !config.roles.exit && args.policy.is_empty() {
        config.policy = ExitPolicy::public();
    }
    config.roles.exit |= args.exit;
    config.roles.introduce |= args.introduce;
    if !args.policy.is_empty() {
        for rule in &args.policy {
            ExitPolicy::from_texts(&[rule]).map_err(|error| {
                usage(format!("the rule \"{rule}\" can't be used")).with_source(error)
            })?;
        }
        config.policy = ExitPolicy::from_texts(&args.policy)
            .map_err(|error| usage("the policy can't be used").with_source(error))?;
    }
    if args.dht && config.dht.is_none() {
        config.dht = Some(RelayDht::default());
    }
    config.bandwidth = args.bandwidth.unwrap_or(config.bandwidth);
    config.family = args.family.unwrap_or(config.family);
    config.days = args.days.unwrap_or(config.days);
    Ok(config)
}

fn explain(error: DescriptorError) -> Error {
    let out = usage("the relay can't be described");
    let out = if error == DescriptorError::Addresses {
        let hint = "a relay that listens on 0.0.0.0 or [::] needs --address IP:PORT, where others reach it";
        out.with_hint(hint)
    } else {
        out
    };
    out.with_source(error)
}

fn summary(
    dir: &StateDir,
    descriptor: &Descriptor,
    config: &RelayConfig,
    is_new: bool,
    now: u64,
) -> Result<String, Error> {
    let mut text = format!(
        "{} {}\n  identity   {}\n  roles      {}\n  exit       {}\n  bandwidth  {}\n  expires    in {}\n  descriptor {}\n",
        if is_new {
            "made relay"
        } else {
            "renewed relay"
        },
        descriptor.nickname,
        id_to_hex(&descriptor.identity),
        super::show::roles_in_words(descriptor.roles),
        descriptor.policy.summary(),
        rate(descriptor.bandwidth),
        until(descriptor.expires, now),
        dir.path_of(DESCRIPTOR_FILE)?.display(),
    );
    if config.onion.is_some() {
        text.push_str("  onion      yes: back up the folder \"tor\" with the keys\n");
    }
    if descriptor.roles.exit && descriptor.policy.rejects_everything() {
        text.push_str("warning: the relay is an exit, but its policy accepts nothing\n");
    }
    if descriptor.roles.introduce {
        text.push_str(
            "  introduces hidden seeds and their visitors; limits: section [introductions] of relay.toml\n",
        );
    }
    if descriptor.roles.dht {
        text.push_str(if descriptor.policy.may_allow(Proto::Udp) {
            "  DHT        looks up for others; limits and nodes to begin from: section [dht] of relay.toml\n"
        } else {
            "warning: the relay offers lookups in the DHT, but its policy lets no UDP out, so nobody asks it for any\n"
        });
    }
    if reaches_inside(&descriptor.policy) {
        text.push_str(
            "warning: this policy lets strangers connect to this machine or its own network; that is for test\n\
             networks only (start the policy from \"public\" otherwise)\n",
        );
    }
    text.push_str(
        "Send the descriptor to the network's authorities; then start: hushswarm relay --state DIR --network FILE\n",
    );
    Ok(text)
}

/// Whether some rule accepts loopback or private addresses, at whatever port.
fn reaches_inside(policy: &ExitPolicy) -> bool {
    const INSIDE: [Ipv4Addr; 4] = [
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(172, 16, 0, 1),
        Ipv4Addr::new(192, 168, 1, 1),
    ];
    let ports = || policy.rules().iter().map(|rule| rule.first_port);
    [Proto::Tcp, Proto::Udp].into_iter().any(|proto| {
        INSIDE
            .iter()
            .any(|&ip| ports().any(|port| policy.allows(proto, IpAddr::V4(ip), port)))
    })
}
