//! Sets up the network inside: `lo`, a card that carries nothing, addresses, and the rules that catch what is meant for others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::message::Doors;
use super::netlink::{self, Card, Interface};
use crate::net::os::jail::{Kernel, listen, raw_replies, udp, udp_catcher};

/// Where SOCKS and HTTP are spoken inside.
pub const SOCKS_PORT: u16 = 1080;
/// Where names are looked up inside.
const DNS_PORT: u16 = 53;
/// Where the packet filter hands what it caught. Nobody connects there by name.
pub const CAUGHT_PORT: u16 = 1081;

/// Puts `lo` up, and the jail's own addresses on an interface that looks like a network card; on `lo` where the kernel has
/// no such. IPv6 may be missing.
///
/// # Errors
/// As the kernel says.
pub(super) fn addresses() -> io::Result<Interface> {
    let kernel = Kernel::routes()?;
    ask(&kernel, &netlink::up(1, Interface::Lo), &[1])?;
    let made = |card| ask(&kernel, &netlink::add_card(2, card), &[2]).is_ok();
    let interface = if made(Card::Dummy) {
        Interface::Card
    } else if made(Card::Veth) {
        ask(&kernel, &netlink::up(6, Interface::CardPeer), &[6])?;
        Interface::Card
    } else {
        Interface::Lo
    };
    ask(&kernel, &netlink::up(3, interface), &[3])?;
    let own = netlink::add_address(4, netlink::OWN4.into(), interface);
    ask(&kernel, &own, &[4])?;
    if has_ipv6() {
        let own = netlink::add_address(5, netlink::OWN6.into(), interface);
        ask(&kernel, &own, &[5])?;
    }
    Ok(interface)
}

/// The doors that are always there: SOCKS, then the resolver; and then one at the port that was asked for.
///
/// # Errors
/// As the system says.
pub(super) fn doors(asked: Option<u16>) -> io::Result<Vec<OwnedFd>> {
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut doors = vec![listen(here(SOCKS_PORT), false)?, udp(here(DNS_PORT))?];
    if let Some(port) = asked {
        doors.push(listen(here(port), false)?);
    }
    Ok(doors)
}

/// Catches everything that is sent to an address: pushes the doors for it, and says which they are. Listens before the rules
/// lead there, and the rules stand before a route leads to them.
///
/// # Errors
/// The kernel can't: then nothing has changed that lets anything out.
pub(super) fn catch(doors: &mut Vec<OwnedFd>, interface: Interface) -> io::Result<Doors> {
    let mut sockets = Vec::from(raw_replies()?);
    let mut families: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    if has_ipv6() {
        families.push(Ipv6Addr::LOCALHOST.into());
    }
    for ip in &families {
        let addr = SocketAddr::new(*ip, CAUGHT_PORT);
        sockets.push(listen(addr, true)?);
        sockets.push(udp_catcher(addr)?);
    }
    let filter = Kernel::filter()?;
    let (batch, expected) = netlink::catch_all(1, CAUGHT_PORT);
    ask(&filter, &batch, &expected)?;
    let kernel = Kernel::routes()?;
    let caught6 = families.len() > 1;
    let mut sources: Vec<IpAddr> = vec![netlink::OWN4.into()];
    sources.extend(caught6.then_some(IpAddr::V6(netlink::OWN6)));
    for source in sources {
        ask(&kernel, &netlink::everything_local(1, source), &[1])?;
        ask(&kernel, &netlink::default_route(2, source, interface), &[2])?;
    }
    doors.append(&mut sockets);
    Ok(Doors {
        caught4: true,
        caught6,
    })
}

fn has_ipv6() -> bool {
    // It may be compiled out, or switched off for every device.
    udp((Ipv6Addr::LOCALHOST, 0).into()).is_ok()
}

/// Sends requests and waits until each of them is acknowledged.
fn ask(kernel: &Kernel, request: &[u8], expected: &[u32]) -> io::Result<()> {
    kernel.send(request)?;
    let mut open = expected.to_vec();
    while !open.is_empty() {
        match netlink::acknowledged(&kernel.receive()?) {
            Ok(done) => open.retain(|sequence| !done.contains(sequence)),
            Err(refused) => return Err(io::Error::from_raw_os_error(refused.errno)),
        }
    }
    Ok(())
}
