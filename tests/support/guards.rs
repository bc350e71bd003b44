//! Guards that somebody has chosen before, so that a test knows whom they talk to.

use std::path::Path;

use hushswarm::config::unix_now;
use hushswarm::overlay::guards;
use hushswarm::state::StateDir;
use hushswarm_circuits::path::{Guard, GuardSample};

use super::network::Network;

/// Sets the first guards of whoever has this state folder, by the relays' numbers in the network.
pub fn draw(network: &Network, state: &Path, relays: std::ops::Range<usize>) {
    let guards = relays.map(|n| {
        let addr = network.relays[n].addr;
        let mut listed = network.list.relays().iter();
        let relay = listed.find(|relay| relay.addresses.contains(&addr));
        Guard {
            id: relay.unwrap().identity,
            added_at: unix_now(),
            last_ok: Some(unix_now()),
            failures: 0,
            retry_at: 0,
            unlisted_since: None,
        }
    });
    let dir = StateDir::open(state).unwrap();
    let sample = GuardSample::from_guards(guards);
    guards::store(&dir, network.list.network(), &sample).unwrap();
}
