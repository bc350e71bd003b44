//! What each host of the demo has seen: the kernel's own table of TCP connections, looked at while the download runs.
//! The parts of the demo each have a loopback address of their own, so that the table tells who spoke to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// State number of an established connection in Linux' table.
const ESTABLISHED: &str = "01";

/// For each local address, the remote addresses that it had connections with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings(BTreeMap<IpAddr, BTreeSet<IpAddr>>);

impl Sightings {
    /// Whom a host had connections with.
    pub fn of(&self, host: IpAddr) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.get(&host).into_iter().flatten().copied()
    }

    /// Adds what a table shows; only loopback addresses other than 127.0.0.1 are hosts of the demo.
    fn add(&mut self, table: &str) {
        for (local, remote) in table.lines().skip(1).filter_map(connection) {
            self.0
                .entry(local.into())
                .or_default()
                .insert(remote.into());
        }
    }
}

/// One line of `/proc/net/tcp`: `sl local remote state ...`, addresses as hexadecimal of the bytes in memory.
fn connection(line: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    (fields.next()? == ESTABLISHED && local.is_loopback()).then_some((local, remote))
}

fn address(field: &str) -> Option<Ipv4Addr> {
    let (ip, _port) = field.split_once(':')?;
    let word = u32::from_str_radix(ip, 16).ok()?;
    Some(Ipv4Addr::from(word.to_ne_bytes()))
}

/// Watches until it is dropped or told to stop.
pub struct Witness {
    task: tokio::task::JoinHandle<()>,
    seen: tokio::sync::watch::Receiver<Sightings>,
}

impl Witness {
    /// Begins to watch. `None` where the system has no such table.
    pub fn start() -> Option<Self> {
        read()?;
        let (send, seen) = tokio::sync::watch::channel(Sightings::default());
        let task = tokio::spawn(async move {
            loop {
                if let Ok(Some(table)) = tokio::task::spawn_blocking(read).await {
                    send.send_modify(|sightings| sightings.add(&table));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Some(Self { task, seen })
    }

    /// Ends watching; gives what was seen.
    pub fn stop(self) -> Sightings {
        self.task.abort();
        self.seen.borrow().clone()
    }
}

fn read() -> Option<String> {
    std::fs::read_to_string("/proc/net/tcp").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn established_connections_of_loopback_hosts_are_seen() {
        let mut sightings = Sightings::default();
        sightings.add(
            "  sl  local_address rem_address   st tx_queue\n\
             0: 0100017F:1F90 0100007F:A2C4 01 00000000:00000000\n\
             1: 0100017F:1F90 00000000:0000 0A 00000000:00000000\n\
             2: 0200000A:0016 0100000A:A2C4 01 00000000:00000000\n\
             3: junk\n",
        );
        let relay = IpAddr::from([127, 1, 0, 1]);
        assert_eq!(
            sightings.of(relay).collect::<Vec<_>>(),
            [IpAddr::from([127, 0, 0, 1])]
        );
        assert_eq!(sightings.0.len(), 1);
    }
}
