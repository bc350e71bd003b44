//! Messages that set up the jail's network (rtnetlink(7), nf_tables): bytes only, nothing is sent here.
//!
//! Every address is made local to `lo`, so that nothing can be sent anywhere else; and whatever was meant for an address that
//! isn't the jail's own is handed to sockets that are served from outside (nf_tables `tproxy`, as `nft` would write it):
//!
//! ```text
//! table inet hushswarm { chain catch {
//!   type filter hook prerouting priority -150; policy accept;
//!   ip daddr 127.0.0.0/8 accept;    ip daddr 10.254.0.1 accept
//!   ip6 daddr ::1 accept;           ip6 daddr fdfe:6875:7368::1 accept
//!   ip daddr 224.0.0.0/3 drop;      ip6 daddr ff00::/8 drop
//!   meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:1081 accept     (udp, ip6 likewise)
//!   meta l4proto tcp accept;        meta l4proto udp accept
//!   drop
//! } }
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The jail's own IPv4 address. Programs need one that isn't loopback, or they look no names up; what they send to the world
/// comes from it.
pub const OWN4: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
/// The jail's own IPv6 address, from the range for private networks.
pub const OWN6: Ipv6Addr = Ipv6Addr::new(0xfdfe, 0x6875, 0x7368, 0, 0, 0, 0, 1);

/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX` in the kernel).
const LO: u32 = 1;
/// Index of [`CARD`]: out of the way of tunnels that some kernels put into every namespace.
const CARD_INDEX: u32 = 77;
/// Index of [`CARD_PEER`].
const CARD_PEER_INDEX: u32 = 78;
/// Name of the interface that stands for a network card.
pub const CARD: &str = "jail0";
/// Name of its other end, where it is one of a pair.
pub const CARD_PEER: &str = "jail1";

// linux/netlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
/// Length of a message's header, bytes.
const HEADER: usize = 16;

// linux/rtnetlink.h, linux/if_addr.h, linux/if.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1; // linux/veth.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const NFT_MSG_NEWCHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 3;
const NFT_MSG_NEWRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;
const NFPROTO_INET: u8 = 1;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// Where transparent proxying hooks in: `NF_IP_PRI_MANGLE`.
const PRIORITY: i32 = -150;
const VERDICT_REGISTER: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const LIST_ELEMENT: u16 = 1;

/// IANA protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

const TABLE: &str = "hushswarm";
const CHAIN: &str = "catch";

/// The kernel refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel message {sequence} refused, error {errno}")]
pub struct Refused {
    /// Which message it was.
    pub sequence: u32,
    /// The system's error number.
    pub errno: i32,
}

/// Builds one message; attributes nest.
struct Builder(Vec<u8>);

impl Builder {
    fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = vec![0; 4]; // the length, set at the end
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]); // from nobody in particular
        Self(bytes)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number of nf_tables: big-endian.
    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NLA_F_NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let len = u16::try_from(filled.0.len() - start).unwrap_or(u16::MAX);
        filled.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        filled
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An interface of the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Carries everything.
    Lo,
    /// Carries nothing: a device that has the jail's own addresses, since some programs (libtorrent) believe that an address
    /// of `lo` reaches nobody but this computer, whatever the routes say.
    Card,
    /// The other end of [`Card::Veth`].
    CardPeer,
}

impl Interface {
    fn index(self) -> [u8; 4] {
        match self {
            Self::Lo => LO.to_ne_bytes(),
            Self::Card => CARD_INDEX.to_ne_bytes(),
            Self::CardPeer => CARD_PEER_INDEX.to_ne_bytes(),
        }
    }
}

/// Kinds of device that can stand for a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    /// Drops what is sent.
    Dummy,
    /// One end of a pair. The other end is up, or programs would take the card for unplugged; what arrives there comes from
    /// an address of this very namespace, which the kernel drops.
    Veth,
}

/// Makes [`Interface::Card`]. A kernel without this kind of device refuses.
pub fn add_card(sequence: u32, card: Card) -> Vec<u8> {
    let mut info = vec![0; 4]; // family, padding, device type
    info.extend(CARD_INDEX.to_ne_bytes());
    info.extend([0; 8]); // flags, and which to change
    Builder::new(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, sequence)
        .raw(&info)
        .text(IFLA_IFNAME, CARD)
        .nested(IFLA_LINKINFO, |kind| match card {
            Card::Dummy => kind.text(IFLA_INFO_KIND, "dummy"),
            Card::Veth => kind
                .text(IFLA_INFO_KIND, "veth")
                .nested(IFLA_INFO_DATA, |data| {
                    let mut info = vec![0; 4]; // family, padding, device type
                    info.extend(Interface::CardPeer.index());
                    info.extend([0; 8]); // flags, and which to change
                    data.nested(VETH_INFO_PEER, |peer| {
                        peer.raw(&info).text(IFLA_IFNAME, CARD_PEER)
                    })
                }),
        })
        .finish()
}

/// Puts an interface up.
pub fn up(sequence: u32, interface: Interface) -> Vec<u8> {
    let mut info = vec![0; 4]; // family, padding, device type
    info.extend(interface.index());
    info.extend(IFF_UP.to_ne_bytes());
    info.extend(IFF_UP.to_ne_bytes()); // which flags to change
    Builder::new(RTM_NEWLINK, NLM_F_ACK, sequence)
        .raw(&info)
        .finish()
}

/// Gives an interface an address.
pub fn add_address(sequence: u32, ip: IpAddr, interface: Interface) -> Vec<u8> {
    let octets = octets(ip);
    let prefix = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
    let mut info = vec![family(ip), prefix, IFA_F_NODAD, RT_SCOPE_UNIVERSE];
    info.extend(interface.index());
    Builder::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, sequence)
        .raw(&info)
        .attribute(IFA_LOCAL, &octets)
        .attribute(IFA_ADDRESS, &octets)
        .finish()
}

/// Makes every address of `source`'s family local, and lets what is sent come from `source`.
pub fn everything_local(sequence: u32, source: IpAddr) -> Vec<u8> {
    let kind = [RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL];
    everything(sequence, source, kind, Interface::Lo)
}

/// Adds a default route to the table that programs read to learn whether there is a way out (libtorrent does). The kernel
/// never gets as far as this one: [`everything_local`] comes first.
pub fn default_route(sequence: u32, source: IpAddr, interface: Interface) -> Vec<u8> {
    let kind = [RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK, RTN_UNICAST];
    everything(sequence, source, kind, interface)
}

/// A route for all addresses: `kind` is its table, origin, scope and type.
fn everything(sequence: u32, source: IpAddr, kind: [u8; 4], interface: Interface) -> Vec<u8> {
    let mut info = vec![family(source), 0, 0, 0];
    info.extend(kind);
    info.extend([0; 4]); // flags
    Builder::new(
        RTM_NEWROUTE,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        sequence,
    )
    .raw(&info)
    .attribute(RTA_OIF, &interface.index())
    .attribute(RTA_PREFSRC, &octets(source))
    .finish()
}

/// What a rule looks at, and does.
enum Step {
    /// Goes on where the packet is of this family.
    Family(u8),
    /// Goes on where the packet carries this protocol.
    Protocol(u8),
    /// Goes on where the destination address begins with these bytes.
    To(Vec<u8>),
    /// Goes on where the masked first byte of the destination is this.
    ToMasked { family: u8, mask: u8, value: u8 },
    /// Gives the packet to the socket that listens there.
    Proxy(IpAddr, u16),
    /// Decides.
    Verdict(u32),
}

/// Where the destination address stands in a header, bytes.
fn destination(family: u8) -> u32 {
    if family == AF_INET { 16 } else { 24 }
}

fn expression(list: Builder, name: &str, fill: impl FnOnce(Builder) -> Builder) -> Builder {
    list.nested(LIST_ELEMENT, |element| {
        element.text(1, name).nested(2, fill)
    })
}

fn compare(list: Builder, value: &[u8]) -> Builder {
    expression(list, "cmp", |cmp| {
        cmp.number(1, REGISTER_1)
            .number(2, 0) // equal
            .nested(3, |data| data.attribute(1, value))
    })
}

fn meta(list: Builder, key: u32) -> Builder {
    expression(list, "meta", |meta| {
        meta.number(1, REGISTER_1).number(2, key)
    })
}

fn payload(list: Builder, offset: u32, len: usize) -> Builder {
    expression(list, "payload", |payload| {
        payload
            .number(1, REGISTER_1)
            .number(2, NETWORK_HEADER)
            .number(3, offset)
            .number(4, u32::try_from(len).unwrap_or(u32::MAX))
    })
}

fn immediate(list: Builder, register: u32, value: &[u8]) -> Builder {
    expression(list, "immediate", |immediate| {
        immediate
            .number(1, register)
            .nested(2, |data| data.attribute(1, value))
    })
}

impl Step {
    fn append(&self, list: Builder) -> Builder {
        match self {
            Self::Family(family) => compare(meta(list, NFT_META_NFPROTO), &[*family]),
            Self::Protocol(protocol) => compare(meta(list, NFT_META_L4PROTO), &[*protocol]),
            Self::To(address) => {
                let family = if address.len() == 16 {
                    AF_INET6
                } else {
                    AF_INET
                };
                let list = payload(list, destination(family), address.len());
                compare(list, address)
            }
            Self::ToMasked {
                family,
                mask,
                value,
            } => {
                let list = payload(list, destination(*family), 1);
                let list = expression(list, "bitwise", |bitwise| {
                    bitwise
                        .number(1, REGISTER_1)
                        .number(2, REGISTER_1)
                        .number(3, 1)
                        .nested(4, |data| data.attribute(1, &[*mask]))
                        .nested(5, |data| data.attribute(1, &[0]))
                });
                compare(list, &[*value])
            }
            Self::Proxy(ip, port) => {
                let list = immediate(list, REGISTER_1, &octets(*ip));
                let list = immediate(list, REGISTER_2, &port.to_be_bytes());
                expression(list, "tproxy", |tproxy| {
                    tproxy
                        .number(1, u32::from(family(*ip)))
                        .number(2, REGISTER_1)
                        .number(3, REGISTER_2)
                })
            }
            Self::Verdict(verdict) => expression(list, "immediate", |immediate| {
                immediate.number(1, VERDICT_REGISTER).nested(2, |data| {
                    data.nested(2, |verdict_data| verdict_data.number(1, *verdict))
                })
            }),
        }
    }
}

fn rules(port: u16) -> Vec<Vec<Step>> {
    use Step::{Family, Protocol, Proxy, To, ToMasked, Verdict};
    let masked = |family, mask, value| ToMasked {
        family,
        mask,
        value,
    };
    let mut rules = vec![
        vec![Family(AF_INET), To(vec![127]), Verdict(NF_ACCEPT)],
        vec![
            Family(AF_INET),
            To(OWN4.octets().to_vec()),
            Verdict(NF_ACCEPT),
        ],
        vec![
            Family(AF_INET6),
            To(Ipv6Addr::LOCALHOST.octets().to_vec()),
            Verdict(NF_ACCEPT),
        ],
        vec![
            Family(AF_INET6),
            To(OWN6.octets().to_vec()),
            Verdict(NF_ACCEPT),
        ],
        // Multicast, what is reserved, and broadcast: for nobody outside, and not worth a flow.
        vec![
            Family(AF_INET),
            masked(AF_INET, 0xe0, 0xe0),
            Verdict(NF_DROP),
        ],
        vec![
            Family(AF_INET6),
            masked(AF_INET6, 0xff, 0xff),
            Verdict(NF_DROP),
        ],
    ];
    for loopback in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        for protocol in [TCP, UDP] {
            rules.push(vec![
                Family(family(loopback)),
                Protocol(protocol),
                Proxy(loopback, port),
                Verdict(NF_ACCEPT),
            ]);
        }
    }
    // A program may have bound somebody else's address, and gets its answers.
    rules.push(vec![Protocol(TCP), Verdict(NF_ACCEPT)]);
    rules.push(vec![Protocol(UDP), Verdict(NF_ACCEPT)]);
    // Or the kernel would answer a ping in the name of the world.
    rules.push(vec![Verdict(NF_DROP)]);
    rules
}

/// The batch that hands whatever is meant for others to sockets at this port of 127.0.0.1 and ::1, and the sequence
/// numbers that will be acknowledged.
pub fn catch_all(first: u32, port: u16) -> (Vec<u8>, Vec<u32>) {
    let mut sequence = first;
    let mut expected = Vec::new();
    let mut batch = Vec::new();
    let frame = |kind, sequence| {
        Builder::new(kind, 0, sequence)
            .raw(&[0, 0])
            .raw(&NFNL_SUBSYS_NFTABLES.to_be_bytes())
            .finish()
    };
    batch.extend(frame(NFNL_MSG_BATCH_BEGIN, sequence));
    let mut push = |kind: u16, flags: u16, fill: &dyn Fn(Builder) -> Builder| {
        sequence += 1;
        expected.push(sequence);
        let message = Builder::new(kind, NLM_F_ACK | NLM_F_CREATE | flags, sequence).raw(&[
            NFPROTO_INET,
            0,
            0,
            0,
        ]);
        batch.extend(fill(message).finish());
    };
    push(NFT_MSG_NEWTABLE, NLM_F_EXCL, &|table| table.text(1, TABLE));
    push(NFT_MSG_NEWCHAIN, NLM_F_EXCL, &|chain| {
        chain
            .text(1, TABLE)
            .text(3, CHAIN)
            .nested(4, |hook| {
                hook.number(1, NF_INET_PRE_ROUTING)
                    .attribute(2, &PRIORITY.to_be_bytes())
            })
            .number(5, NF_ACCEPT)
            .text(7, "filter")
    });
    for steps in rules(port) {
        push(NFT_MSG_NEWRULE, NLM_F_APPEND, &|rule| {
            rule.text(1, TABLE).text(2, CHAIN).nested(4, |list| {
                steps.iter().fold(list, |list, step| step.append(list))
            })
        });
    }
    batch.extend(frame(NFNL_MSG_BATCH_END, sequence + 1));
    (batch, expected)
}

/// Reads a datagram of answers: which messages were acknowledged.
///
/// # Errors
/// The first one that the kernel refused.
pub fn acknowledged(mut answer: &[u8]) -> Result<Vec<u32>, Refused> {
    let mut done = Vec::new();
    while let Some((header, rest)) = answer.split_first_chunk::<HEADER>() {
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[at..at + 4]);
            u32::from_ne_bytes(bytes)
        };
        let len = usize::try_from(word(0)).unwrap_or(usize::MAX);
        let Some(body) = len.checked_sub(HEADER).and_then(|len| rest.get(..len)) else {
            break;
        };
        let sequence = word(8);
        if u16::from_ne_bytes([header[4], header[5]]) == NLMSG_ERROR {
            let errno = body
                .first_chunk::<4>()
                .map_or(0, |errno| i32::from_ne_bytes(*errno));
            if errno != 0 {
                return Err(Refused {
                    sequence,
                    errno: errno.saturating_neg(),
                });
            }
            done.push(sequence);
        }
        answer = rest
            .get(body.len().next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(mut batch: &[u8]) -> Vec<(u16, usize)> {
        let mut out = Vec::new();
        while let Some(head) = batch.first_chunk::<6>() {
            let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
            out.push((u16::from_ne_bytes([head[4], head[5]]), len));
            batch = &batch[len..];
        }
        out
    }

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let up = up(7, Interface::Lo);
        assert_eq!(up.len(), 32);
        assert_eq!(up[8..12], 7_u32.to_ne_bytes());
        assert_eq!(up[20..24], 1_u32.to_ne_bytes());
        let address = add_address(8, OWN4.into(), Interface::Lo);
        assert_eq!(address[16..20], [2, 32, 2, 0]);
        assert_eq!(address[24..28], [8, 0, 2, 0]);
        assert_eq!(address[28..32], [10, 254, 0, 1]);
        let route = everything_local(9, OWN6.into());
        assert_eq!(route[16..24], [10, 0, 0, 0, 255, 4, 254, 2]);
        assert_eq!(route.len(), 28 + 8 + 20);
        let card = add_card(10, Card::Dummy);
        assert_eq!(card[20..24], CARD_INDEX.to_ne_bytes());
        assert_eq!(card[36..42], *b"jail0\0");
        assert_eq!(card[44..48], [16, 0, 18, 128]);
        assert_eq!(card[48..58], *b"\x0a\0\x01\0dummy\0");
        let default = default_route(9, OWN6.into(), Interface::Card);
        assert_eq!(default[16..24], [10, 0, 0, 0, 254, 4, 253, 1]);
        for message in [up, address, route] {
            assert_eq!(lengths(&message), [(lengths(&message)[0].0, message.len())]);
        }
    }

    #[test]
    fn the_batch_is_framed_and_each_of_its_messages_is_to_be_acknowledged() {
        let (batch, expected) = catch_all(40, 1081);
        let parts = lengths(&batch);
        assert_eq!(parts.first().unwrap().0, NFNL_MSG_BATCH_BEGIN);
        assert_eq!(parts.last().unwrap().0, NFNL_MSG_BATCH_END);
        assert_eq!(parts[1].0, NFT_MSG_NEWTABLE);
        assert_eq!(parts[2].0, NFT_MSG_NEWCHAIN);
        assert_eq!(parts.len() - 2, expected.len());
        assert_eq!(expected.first(), Some(&41));
        assert_eq!(expected.len(), 2 + rules(1).len());
    }

    #[test]
    fn whatever_is_not_carried_is_dropped_in_the_end() {
        let rules = rules(1081);
        assert!(matches!(
            rules.last().unwrap()[..],
            [Step::Verdict(NF_DROP)]
        ));
        let proxies = rules.iter().flatten();
        assert_eq!(
            proxies
                .filter(|step| matches!(step, Step::Proxy(..)))
                .count(),
            4
        );
    }

    #[test]
    fn answers_are_read_and_refusals_found() {
        let answer = |errno: i32, sequence: u32| {
            let mut out = Vec::new();
            out.extend(36_u32.to_ne_bytes());
            out.extend(NLMSG_ERROR.to_ne_bytes());
            out.extend([0; 2]);
            out.extend(sequence.to_ne_bytes());
            out.extend([0; 4]);
            out.extend(errno.to_ne_bytes());
            out.extend([0; 16]);
            out
        };
        let both = [answer(0, 3), answer(0, 4)].concat();
        assert_eq!(acknowledged(&both), Ok(vec![3, 4]));
        let refused = [answer(0, 3), answer(-1, 4)].concat();
        let expected = Refused {
            sequence: 4,
            errno: 1,
        };
        assert_eq!(acknowledged(&refused), Err(expected));
        for cut in 0..both.len() {
            assert!(acknowledged(&both[..cut]).unwrap().len() < 2);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_survived(bytes: Vec<u8>) {
            let _ = acknowledged(&bytes);
        }
    }
}
