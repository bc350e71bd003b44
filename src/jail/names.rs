//! Names and the virtual addresses that stand for them inside a jail.
//!
//! A program asks for a name's address and gets one of 198.18.0.0/15 (the range for benchmarks, RFC 2544: nothing in the
//! world answers there). What it then sends to that address is sent to the name, which only the exit resolves. A pure
//! table in virtual time, besides [`SharedNames`], which puts it behind a lock and a clock.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hushswarm_circuits::target::{Host, HostName, Target};

/// Virtual addresses begin with these 15 bits.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Bits of a virtual address that are its own.
const HOST_BITS: u32 = 17;
/// Last octets 1 to 254: some programs take 0 for a network and 255 for a broadcast.
const PER_BLOCK: u32 = 254;
/// 198.18.0.* is left out.
const FIRST_BLOCK: u32 = 1;
/// Names that have an address at once: 129,794, all that the network holds. Each costs at most 700 bytes or so, 90 MiB
/// for a program that asks for as many names of full length.
pub const CAPACITY: u32 = ((1 << (HOST_BITS - 8)) - FIRST_BLOCK) * PER_BLOCK;
/// For how long after its last use an address keeps its name: ten times the [`TTL`](super::dns::TTL) of the answers, for
/// programs and libraries that hold on to what they resolved.
pub const YOUNG: Duration = Duration::from_secs(600);

/// Every address is held or young: the question can be asked again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no virtual address is free")]
pub struct NoneFree;

struct Slot {
    name: HostName,
    /// Its place in the order of use; none while it is held.
    place: Option<u64>,
    used: Instant,
    holders: u32,
}

/// Which name has which virtual address.
pub struct Names {
    capacity: u32,
    /// In order of address; grows up to `capacity`.
    slots: Vec<Slot>,
    by_name: HashMap<HostName, u32>,
    /// Slots that nobody holds, least recently used first.
    order: BTreeMap<u64, u32>,
    next_place: u64,
}

impl Default for Names {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

/// The name as it is compared: lower case, without the dot at the end. `None` where nothing is left.
pub fn canonical(name: &HostName) -> Option<HostName> {
    let name = name.as_str();
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    HostName::new(&name).ok()
}

/// Whether an address is of the virtual network, given out or not.
pub fn is_virtual(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (u32::from(ip) ^ u32::from(NETWORK)) >> HOST_BITS == 0,
        IpAddr::V6(_) => false,
    }
}

fn address(slot: u32) -> Ipv4Addr {
    let block = FIRST_BLOCK + slot / PER_BLOCK;
    Ipv4Addr::from(u32::from(NETWORK) | block << 8 | (1 + slot % PER_BLOCK))
}

fn slot_of(ip: IpAddr) -> Option<usize> {
    let IpAddr::V4(ip) = ip.to_canonical() else {
        return None;
    };
    if !is_virtual(ip.into()) {
        return None;
    }
    let own = u32::from(ip) & ((1 << HOST_BITS) - 1);
    let block = (own >> 8).checked_sub(FIRST_BLOCK)?;
    let last = (own & 0xff).checked_sub(1).filter(|n| *n < PER_BLOCK)?;
    usize::try_from(block * PER_BLOCK + last).ok()
}

impl Names {
    /// An empty table for so many names, at most [`CAPACITY`].
    pub fn with_capacity(capacity: u32) -> Self {
        Self {
            capacity: capacity.min(CAPACITY),
            slots: Vec::new(),
            by_name: HashMap::new(),
            order: BTreeMap::new(),
            next_place: 0,
        }
    }

    /// How many names have an address.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no name has an address yet.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The virtual address of a name: the one that it has, a fresh one, or that of the name that was not used for
    /// longest.
    ///
    /// # Errors
    /// All are in use or were lately: answer SERVFAIL.
    pub fn give(&mut self, now: Instant, name: &HostName) -> Result<Ipv4Addr, NoneFree> {
        let name = canonical(name).ok_or(NoneFree)?;
        if let Some(&slot) = self.by_name.get(&name) {
            self.touch(now, slot);
            return Ok(address(slot));
        }
        let fresh = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let slot = if fresh < self.capacity {
            self.slots.push(Slot {
                name: name.clone(),
                place: None,
                used: now,
                holders: 0,
            });
            fresh
        } else {
            self.take_oldest(now, &name).ok_or(NoneFree)?
        };
        self.by_name.insert(name, slot);
        self.touch(now, slot);
        Ok(address(slot))
    }

    /// Gives the address that was not used for longest to another name, unless it is young.
    fn take_oldest(&mut self, now: Instant, name: &HostName) -> Option<u32> {
        let (&place, &slot) = self.order.first_key_value()?;
        let oldest = self.slots.get_mut(slot as usize)?;
        if now.saturating_duration_since(oldest.used) < YOUNG {
            return None;
        }
        self.order.remove(&place);
        oldest.place = None;
        let former = std::mem::replace(&mut oldest.name, name.clone());
        self.by_name.remove(&former);
        Some(slot)
    }

    /// Notes a use: the slot is now the youngest.
    fn touch(&mut self, now: Instant, slot: u32) {
        let Some(entry) = self.slots.get_mut(slot as usize) else {
            return;
        };
        entry.used = now;
        if let Some(place) = entry.place.take() {
            self.order.remove(&place);
        }
        if entry.holders == 0 {
            entry.place = Some(self.next_place);
            self.order.insert(self.next_place, slot);
            self.next_place += 1;
        }
    }

    fn entry(&self, ip: IpAddr) -> Option<(u32, &Slot)> {
        let slot = slot_of(ip)?;
        let entry = self.slots.get(slot)?;
        Some((u32::try_from(slot).ok()?, entry))
    }

    /// The name of a virtual address, which counts as a use. `None` where it has none: refuse the connection.
    pub fn name(&mut self, now: Instant, ip: IpAddr) -> Option<HostName> {
        let (slot, entry) = self.entry(ip)?;
        let name = entry.name.clone();
        self.touch(now, slot);
        Some(name)
    }

    /// As [`Names::name`]; the address keeps its name until [`Names::release`] was called as often.
    pub fn hold(&mut self, now: Instant, ip: IpAddr) -> Option<HostName> {
        let (slot, entry) = self.entry(ip)?;
        let name = entry.name.clone();
        self.slots[slot as usize].holders += 1;
        self.touch(now, slot);
        Some(name)
    }

    /// Ends a [`Names::hold`].
    pub fn release(&mut self, now: Instant, ip: IpAddr) {
        if let Some((slot, _)) = self.entry(ip) {
            let entry = &mut self.slots[slot as usize];
            entry.holders = entry.holders.saturating_sub(1);
            self.touch(now, slot);
        }
    }
}

/// What a target with a virtual address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a virtual address that no name has")]
pub struct Unknown;

/// One table for everything that serves a jail. Clones are the same table.
#[derive(Clone, Default)]
pub struct SharedNames(Arc<Mutex<Names>>);

impl SharedNames {
    /// An empty table of the given size.
    pub fn new(names: Names) -> Self {
        Self(Arc::new(Mutex::new(names)))
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Names::give`].
    ///
    /// # Errors
    /// As [`Names::give`].
    pub fn give(&self, name: &HostName) -> Result<Ipv4Addr, NoneFree> {
        self.lock().give(Instant::now(), name)
    }

    /// As [`Names::name`].
    pub fn name(&self, ip: IpAddr) -> Option<HostName> {
        self.lock().name(Instant::now(), ip)
    }

    /// The target that a program means: a virtual address becomes the name again, which is held until the [`Held`] is
    /// dropped; everything else stays as it is.
    ///
    /// # Errors
    /// A virtual address that no name has: refuse.
    pub fn hold(&self, target: &Target) -> Result<(Target, Held), Unknown> {
        let mut held = Held {
            names: self.clone(),
            ip: None,
        };
        let ip = match target.host {
            Host::Ip(ip) if is_virtual(ip) => ip,
            Host::Ip(_) | Host::Name(_) => return Ok((target.clone(), held)),
        };
        let name = self.lock().hold(Instant::now(), ip).ok_or(Unknown)?;
        held.ip = Some(ip);
        let host = Host::Name(name);
        let port = target.port;
        Ok((Target { host, port }, held))
    }
}

/// Keeps a name at its virtual address.
pub struct Held {
    names: SharedNames,
    ip: Option<IpAddr>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(ip) = self.ip {
            self.names.lock().release(Instant::now(), ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> HostName {
        HostName::new(text).unwrap()
    }

    #[test]
    fn a_name_keeps_its_address_in_any_spelling() {
        let (mut names, now) = (Names::default(), Instant::now());
        let first = names.give(now, &name("Tracker.Example.")).unwrap();
        assert_eq!(first, Ipv4Addr::new(198, 18, 1, 1));
        assert_eq!(names.give(now, &name("tracker.example")), Ok(first));
        assert_ne!(names.give(now, &name("other.example")), Ok(first));
        let found = names.name(now, first.into()).unwrap();
        assert_eq!(found.as_str(), "tracker.example");
    }

    #[test]
    fn an_address_that_was_never_given_out_has_no_name() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.give(now, &name("a.example")).unwrap();
        for ip in [
            "198.18.0.0",
            "198.18.0.1",
            "198.18.1.0",
            "198.18.1.2",
            "198.18.1.255",
            "198.19.255.254",
            "198.20.1.1",
            "198.17.1.1",
            "1.2.3.4",
            "::1",
        ] {
            assert_eq!(names.name(now, ip.parse().unwrap()), None, "{ip}");
        }
        // The same address, as a program with IPv6 sockets names it.
        let mapped = "::ffff:198.18.1.1".parse().unwrap();
        assert_eq!(names.name(now, mapped), Some(name("a.example")));
    }

    #[test]
    fn the_whole_network_is_used_and_nothing_else() {
        let (mut names, now) = (Names::default(), Instant::now());
        let mut given = std::collections::HashSet::new();
        for n in 0..CAPACITY {
            let ip = names.give(now, &name(&format!("{n}.example"))).unwrap();
            assert!(is_virtual(ip.into()) && !matches!(ip.octets()[3], 0 | 255));
            assert!(ip.octets()[1..3] != [18, 0] && given.insert(ip));
        }
        assert_eq!(names.give(now, &name("more.example")), Err(NoneFree));
        let later = now + YOUNG;
        let first = names.give(later, &name("more.example")).unwrap();
        assert_eq!(first, Ipv4Addr::new(198, 18, 1, 1));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_never_a_young_or_held_one() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut names = Names::with_capacity(2);
        let a = names.give(at(0), &name("a")).unwrap();
        let b = names.give(at(1), &name("b")).unwrap();
        names.hold(at(2), a.into()).unwrap();
        names.name(at(300), b.into()).unwrap();
        assert_eq!(names.give(at(899), &name("c")), Err(NoneFree));
        assert_eq!(names.give(at(900), &name("c")), Ok(b));
        names.release(at(901), a.into());
        assert_eq!(names.give(at(1500), &name("d")), Ok(b));
        assert_eq!(names.give(at(1501), &name("e")), Ok(a));
        assert_eq!(names.name(at(1502), a.into()), Some(name("e")));
    }

    #[test]
    fn a_virtual_target_becomes_its_name_and_an_unknown_one_is_refused() {
        let names = SharedNames::new(Names::with_capacity(1));
        let ip = names.give(&name("a.example")).unwrap();
        let target = |ip: &str| Target::parse(ip, 80).unwrap();
        let (meant, held) = names.hold(&target(&ip.to_string())).unwrap();
        assert_eq!(meant, Target::parse("a.example", 80).unwrap());
        assert!(names.lock().order.is_empty());
        drop(held);
        assert_eq!(names.lock().order.len(), 1);
        assert!(names.hold(&target("198.18.1.2")).is_err());
        for other in ["192.0.2.1", "b.example"] {
            assert_eq!(names.hold(&target(other)).unwrap().0, target(other));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Give(u8),
        Use(u8),
        Hold(u8),
        Release(u8),
        Wait(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12u8).prop_map(Step::Give),
            2 => (0..6u8).prop_map(Step::Use),
            1 => (0..6u8).prop_map(Step::Hold),
            1 => (0..6u8).prop_map(Step::Release),
            2 => (0..700u16).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Beside a model: an address changes its name only when nobody held it and it was not used for [`YOUNG`].
        #[test]
        fn an_address_never_changes_hands_while_it_matters(steps in prop::collection::vec(step(), 0..200)) {
            let mut names = Names::with_capacity(6);
            let mut now = Instant::now();
            // By address: name, last use, holders.
            let mut model: HashMap<Ipv4Addr, (HostName, Instant, u32)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                    Step::Give(n) => {
                        let asked = name(&format!("{n}.example"));
                        let had = model.iter().find(|(_, held)| held.0 == asked).map(|(ip, _)| *ip);
                        match names.give(now, &asked) {
                            Ok(ip) => {
                                prop_assert!(had.is_none_or(|had| had == ip));
                                if let Some((former, used, holders)) = model.get(&ip) && *former != asked {
                                    prop_assert!(*holders == 0 && now - *used >= YOUNG);
                                    let oldest = model.values().filter(|held| held.2 == 0).map(|held| held.1).min();
                                    prop_assert_eq!(Some(*used), oldest);
                                }
                                let holders = model.get(&ip).map_or(0, |held| held.2);
                                model.insert(ip, (asked, now, holders));
                            }
                            Err(NoneFree) => {
                                prop_assert!(had.is_none() && model.len() == 6);
                                prop_assert!(model.values().all(|held| held.2 > 0 || now - held.1 < YOUNG));
                            }
                        }
                    }
                    Step::Use(n) | Step::Hold(n) | Step::Release(n) => {
                        let ip = address(n.into());
                        let held = model.get_mut(&ip);
                        let expected = held.as_ref().map(|held| held.0.clone());
                        match step {
                            Step::Use(_) => prop_assert_eq!(names.name(now, ip.into()), expected),
                            Step::Hold(_) => prop_assert_eq!(names.hold(now, ip.into()), expected),
                            Step::Release(_) if held.as_ref().is_some_and(|held| held.2 > 0) => names.release(now, ip.into()),
                            Step::Give(_) | Step::Wait(_) | Step::Release(_) => continue,
                        }
                        if let Some(held) = held {
                            held.1 = now;
                            match step {
                                Step::Hold(_) => held.2 += 1,
                                Step::Release(_) => held.2 -= 1,
                                Step::Give(_) | Step::Wait(_) | Step::Use(_) => {}
                            }
                        }
                    }
                }
                prop_assert!(names.len() <= 6 && names.by_name.len() == names.len());
            }
        }
    }
}
