//! A world with everything that a download needs: relays on hosts of their own, a tracker, a seeder, and the host of a
//! client that could reach all of it directly. What the client's cable carries is captured.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use hushswarm::config::RelayConfig;
use hushswarm_circuits::path::PathRules;
use tempfile::TempDir;

use super::capture::{Capture, Captured, Flow};
use super::clients::{Libtorrent, Place, Torrent, Tracker, libtorrent_python};
use super::network::Network;
use super::process::Process;
use super::world::{Host, World};
use super::{PATIENCE, hash_file, write_noise};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_hushswarm");
/// What is downloaded.
pub const NAME: &str = "archive.bin";
/// Where the proxy listens, which is also what `docs/clients.md` says.
pub const PROXY: &str = "127.0.0.1:1080";
const RELAY_PORT: u16 = 9001;
/// Two guards, a middle, two exits.
const RELAYS: u8 = 5;
const GUARDS: usize = 2;
const EXITS: usize = 2;

/// See the module.
pub struct Scene {
    /// Whose traffic is watched.
    pub client: Host,
    /// Where the content is.
    pub seeder: Host,
    /// The tracker's host.
    pub web: Host,
    /// The tracker.
    pub tracker: Tracker,
    /// The torrent, with the tracker's URLs.
    pub torrent: Torrent,
    /// A folder with the content, the torrent and the network's documents.
    pub content: TempDir,
    /// A Python that has libtorrent.
    pub python: PathBuf,
    relay_hosts: Vec<Host>,
    network: Network,
    relays: Vec<Option<Process>>,
    state: TempDir,
    /// Last, so that programs end before their hosts.
    world: World,
}

impl Scene {
    /// Builds everything but the seeder. `transport` says which of the tracker's URLs stand in the torrent: `http`, `udp`, or
    /// `none`.
    pub fn new(size: u64, transport: &str) -> Option<Self> {
        Self::with_bait(size, transport, |_| Vec::new())
    }

    /// The same, with a tracker that also names the peers that `bait` gives for the seeder's host.
    pub fn with_bait(
        size: u64,
        transport: &str,
        bait: impl FnOnce(&Host) -> Vec<SocketAddr>,
    ) -> Option<Self> {
        Self::edited(size, transport, bait, |_| {})
    }

    /// The same, with a last change to each relay's configuration.
    pub fn edited(
        size: u64,
        transport: &str,
        bait: impl FnOnce(&Host) -> Vec<SocketAddr>,
        edit: impl FnMut(&mut RelayConfig),
    ) -> Option<Self> {
        let python = libtorrent_python()?;
        let mut world = World::build()?;
        let (client, seeder) = (world.host("client", 250), world.host("seeder", 21));
        let web = world.host("tracker", 20);
        let tracker = Tracker::start(Some(&web), &bait(&seeder));
        let relay_hosts: Vec<Host> = (0..RELAYS)
            .map(|n| world.host(&format!("relay{n}"), 101 + n))
            .collect();
        let addrs: Vec<SocketAddr> = relay_hosts
            .iter()
            .map(|host| host.addr(RELAY_PORT))
            .collect();
        let content = TempDir::new().unwrap();
        // All hosts share a prefix here, which relays of one path otherwise never do.
        let rules = PathRules {
            ipv4_prefix: 0,
            ipv6_prefix: 0,
        };
        let network = Network::edited(content.path(), &addrs, GUARDS, EXITS, rules, edit);
        let file = content.path().join(NAME);
        write_noise(&file, size, 7);
        let urls: &[&str] = match transport {
            "http" => &[&tracker.http],
            "udp" => &[&tracker.udp],
            _ => &[],
        };
        let torrent = Torrent::make(&file, &content.path().join("t.torrent"), urls, 256 << 10);
        let mut scene = Self {
            client,
            seeder,
            web,
            tracker,
            torrent,
            content,
            python,
            relay_hosts,
            network,
            relays: (0..RELAYS).map(|_| None).collect(),
            state: TempDir::new().unwrap(),
            world,
        };
        scene.start_relays();
        Some(scene)
    }

    /// Another host, for what a test wants there.
    pub fn host(&mut self, name: &str, number: u8) -> Host {
        self.world.host(name, number)
    }

    /// Starts the relays that don't run.
    pub fn start_relays(&mut self) {
        for n in 0..usize::from(RELAYS) {
            if self.relays[n].is_none() {
                let mut command = self.relay_hosts[n].command(PROGRAM);
                command.args(self.network.relays[n].args());
                let mut process = Process::spawn("relay", command);
                process.wait_for_line(PATIENCE, |line| line.contains("listens on"));
                self.relays[n] = Some(process);
            }
        }
    }

    /// Ends all relays as a power cut would.
    pub fn kill_relays(&mut self) {
        self.relays.iter_mut().for_each(|relay| *relay = None);
    }

    /// Starts a libtorrent that seeds. `upload_rate` in bytes per second; `more` for `lt_seed.py`.
    pub fn seed(&self, upload_rate: Option<u64>, more: &[&str]) -> Libtorrent {
        Libtorrent::seed_with(
            &self.python,
            Some(&self.seeder),
            &self.torrent,
            self.content.path(),
            upload_rate,
            more,
        )
    }

    /// Options of every command that uses the overlay.
    fn overlay(&self, state: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            "--network".to_owned(),
            text(&self.network.file),
            "--state".to_owned(),
            text(&self.state.path().join(state)),
            // Everything in this world has a private address.
            "--allow-private".to_owned(),
        ]
    }

    /// Starts `hushswarm proxy` on the client's host and waits until it listens.
    pub fn proxy(&self) -> Process {
        let mut command = self.client.command(PROGRAM);
        command
            .arg("proxy")
            .args(self.overlay("proxy"))
            .args(["--listen", PROXY, "--log", "debug"]);
        let mut process = Process::spawn("proxy", command);
        process.wait_for_line(PATIENCE, |line| {
            line.contains("listens on") || line.contains(PROXY)
        });
        process
    }

    /// Starts `hushswarm get` on the client's host.
    pub fn get(&self, source: &str, out: &Path, more: &[String]) -> Process {
        let mut command = self.client.command(PROGRAM);
        command
            .args(["get", source, "--json", "--log", "debug", "--output"])
            .arg(out)
            .args(self.overlay("get"))
            .args(more);
        Process::spawn("get", command)
    }

    /// The inside of `hushswarm run` on the client's host. Every state has a name of its own, since only one process may hold
    /// one.
    pub fn jail(&self, state: &str, options: &[&str]) -> Place {
        let mut words = vec![PROGRAM.to_owned(), "run".to_owned()];
        words.extend(self.overlay(state));
        words.extend(options.iter().map(|&word| word.to_owned()));
        words.push("--".to_owned());
        Place::inside(&self.client, words)
    }

    /// The client's host as it is.
    pub fn outside(&self) -> Place {
        Place::on(&self.client)
    }

    /// Captures everything on the client's cable, and looks for what must not stand there in the clear.
    pub fn capture(&self) -> Capture {
        let ip4 = self.client.ip4.to_string();
        let infohash = self.torrent.infohash_bytes();
        Capture::start(&self.client, &[&infohash, ip4.as_bytes(), NAME.as_bytes()])
    }

    /// The torrent's file, as a command line takes it.
    pub fn file(&self) -> &str {
        self.torrent.file.to_str().unwrap()
    }

    /// Addresses of the guards, the only ones that the client's host may talk to.
    pub fn guards(&self) -> Vec<SocketAddr> {
        let guards = self.relay_hosts[..GUARDS].iter();
        guards.map(|host| host.addr(RELAY_PORT)).collect()
    }

    /// Whether this is an exit's address.
    pub fn is_exit(&self, ip: IpAddr) -> bool {
        let exits = &self.relay_hosts[usize::from(RELAYS) - EXITS..];
        exits.iter().any(|host| host.owns(ip))
    }

    /// The content lies in this folder, whole.
    pub fn assert_arrived(&self, folder: &Path) {
        let (got, wanted) = (folder.join(NAME), self.content.path().join(NAME));
        assert_eq!(hash_file(&got), hash_file(&wanted));
    }

    /// The seeder met only exits, and at least one of them.
    pub fn assert_only_exits_came(&self, seed: &Libtorrent) {
        self.assert_only_exits_came_beside(seed, &self.seeder);
    }

    /// The same, but for somebody at this host.
    pub fn assert_only_exits_came_beside(&self, seed: &Libtorrent, other: &Host) {
        let mut seen = seed.peers();
        seen.retain(|peer| !other.owns(peer.addr.ip()));
        // By the DHT it finds itself too.
        seen.retain(|peer| !self.seeder.owns(peer.addr.ip()));
        assert!(!seen.is_empty(), "nobody came to the seeder");
        for peer in &seen {
            assert!(self.is_exit(peer.addr.ip()), "the seeder saw {peer:?}");
        }
    }

    /// Somebody announced besides the seeder, through exits only, and told nothing of the client's addresses.
    pub fn assert_tracker_knows_only_exits(&self) {
        let seeder = self.seeder.ip4.to_string();
        let announces = self.tracker.announces().into_iter();
        let others: Vec<_> = announces.filter(|said| said["ip"] != seeder).collect();
        assert!(!others.is_empty(), "the client never announced");
        let ip4 = u32::from(self.client.ip4);
        let told = format!("{ip4:08x}");
        for said in &others {
            let from: IpAddr = said["ip"].as_str().unwrap().parse().unwrap();
            assert!(self.is_exit(from), "announced from elsewhere: {said}");
            let text = said.to_string();
            for own in [self.client.ip4.to_string(), self.client.ip6.to_string()] {
                assert!(!text.contains(&own), "{text}");
            }
            assert_ne!(said["told_ip"], told.as_str(), "{text}");
        }
    }

    /// The client's host talked to guards, and else only in flows that `known` accepts, which it must have.
    pub fn assert_leaks_only(&self, captured: &Captured, known: impl Fn(&Flow) -> bool) {
        let strays = captured.strays(&self.guards());
        let others: Vec<_> = strays.iter().filter(|flow| !known(flow)).collect();
        assert!(others.is_empty(), "the client's host leaks {others:#?}");
        assert!(
            !strays.is_empty(),
            "it leaks nothing: change docs/clients.md"
        );
        assert!(captured.found(0).is_empty(), "the infohash in the clear");
    }

    /// The client's host talked to guards, to nobody else, and what it sent names nothing.
    pub fn assert_silent(&self, captured: &Captured) {
        captured.assert_only_to(&self.guards());
        for (needle, what) in ["infohash", "own address", "name"].iter().enumerate() {
            assert!(captured.found(needle).is_empty(), "{what} in the clear");
        }
        let guarded = captured.flows.iter().any(|flow| {
            let remote = flow.remote();
            remote.is_some_and(|remote| self.guards().contains(&remote))
        });
        assert!(guarded, "it did not even talk to a guard");
    }
}
