//! `hushswarm demo`: the main job on one computer. Relays, a tracker and a seeding peer are started, each on a loopback
//! address of its own; a torrent is downloaded with the code of `get`; then all of them tell whom they saw.

pub mod network;
mod swarm;
pub mod witness;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hushswarm_circuits::path::GuardSample;

use super::get::{Work, download};
use super::progress::Progress as Display;
use super::routes::Loaded;
use crate::error::{Error, Kind};
use crate::net::os::OsDialer;
use crate::overlay::client::{Client, ClientConfig};
use crate::route::policy::Policy;
use crate::state::StateDir;
use crate::torrent::engine::{Encryption, Limits, Source};
use crate::torrent::select::Selection;
use network::Running;
use swarm::World;
use witness::{Sightings, Witness};

/// Relays of the demo: enough that guard, middle and exit are drawn, not given.
const RELAYS: usize = 6;
/// Where the downloader's own connections come from.
const YOU: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The relays' time to end.
const GRACE: Duration = Duration::from_millis(200);

/// Arguments of `hushswarm demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Size of the torrent, MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    size: u64,
    /// Relays between downloader and seeder
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    hops: u8,
}

/// Runs the demo.
///
/// # Errors
/// Something failed, or somebody saw the downloader who must not.
pub async fn run(args: Args) -> Result<(), Error> {
    let dir = Scratch::new()?;
    let mut out = String::new();
    let running = network::start(RELAYS)?;
    let _ = writeln!(
        out,
        "{RELAYS} relays, a tracker and a seeding peer on this computer, each with an address of its own:"
    );
    for (n, ip) in running.ips.iter().enumerate() {
        let role = if n + 2 >= RELAYS {
            "guard, exit"
        } else {
            "guard"
        };
        let _ = writeln!(out, "  {:<8} {ip:<14} {role}", format!("relay{}", n + 1));
    }
    let _ = writeln!(out, "  {:<8} {:<14}", "tracker", swarm::TRACKER_IP);
    let _ = writeln!(
        out,
        "  {:<8} {:<14} has {} MiB of random bytes",
        "seeder",
        swarm::SEEDER_IP,
        args.size
    );
    let _ = writeln!(
        out,
        "  {:<8} {YOU:<14} the downloader, through {} relays\n",
        "you", args.hops
    );
    print(&out)?;
    let world = World::start(&dir.0, args.size << 20).await?;
    let witness = Witness::start();
    let config = ClientConfig {
        hops: usize::from(args.hops),
        ..ClientConfig::default()
    };
    let dialer = Arc::new(OsDialer::new(None));
    let client = Client::new(
        Arc::clone(&running.list),
        GuardSample::default(),
        None,
        dialer,
        config,
    );
    client.prebuild();
    let state = Arc::new(StateDir::open(dir.0.join("state"))?);
    let mut display = Display::new(false);
    let work = Work {
        source: Source::Magnet(world.magnet()),
        output: dir.0.join("download"),
        seed: false,
        share: false,
        hidden_only: false,
        select: Selection::all(),
        overwrite: false,
        encryption: Encryption::default(),
        preallocate: false,
        routes: Loaded {
            policy: Policy::default().with_private(true),
            ..Loaded::default()
        },
        // Its swarm has a tracker, and nothing of it leaves this computer.
        dht: None,
        limits: Limits::default(),
        sequential: false,
        serve: None,
    };
    let done = download(work, &client, &state, &mut display).await?;
    let sightings = witness.map(Witness::stop);
    let same = same_content(&done.path, &world.content).await?;
    let (text, hidden) = report(&running, &world, sightings.as_ref(), args.hops, same);
    let text = format!("\n{} through {} relays.\n{text}", done.summary(), args.hops);
    print(&text)?;
    world.stop();
    for relay in running.relays {
        relay.stop(GRACE).await;
    }
    if !same {
        return Err(Error::new(
            Kind::Bug,
            "the content that arrived is not the content that was sent",
        ));
    }
    if !hidden {
        return Err(Error::new(
            Kind::Bug,
            "somebody saw the downloader who must not",
        ));
    }
    Ok(())
}

/// A folder that goes when the demo ends.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let path =
            std::env::temp_dir().join(format!("hushswarm-demo-{:016x}", rand::random::<u64>()));
        // Through the state folder's code, so that nobody else can look in.
        StateDir::open(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| Error::local("can't write to the terminal").with_source(source))
}

async fn same_content(a: &Path, b: &Path) -> Result<bool, Error> {
    let hash = |path: &Path| {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut hasher = blake3::Hasher::new();
            let mut file = std::fs::File::open(path)?;
            hasher.update_reader(&mut file)?;
            Ok::<_, std::io::Error>(hasher.finalize())
        })
    };
    let failed =
        |source: std::io::Error| Error::local("can't read what arrived").with_source(source);
    let (a, b) = (hash(a).await, hash(b).await);
    match (a, b) {
        (Ok(a), Ok(b)) => Ok(a.map_err(failed)? == b.map_err(failed)?),
        (Err(error), _) | (_, Err(error)) => {
            Err(Error::new(Kind::Bug, "hashing stopped").with_source(error))
        }
    }
}

/// Who saw whom, and whether nobody saw you who must not.
fn report(
    running: &Running,
    world: &World,
    sightings: Option<&Sightings>,
    hops: u8,
    same: bool,
) -> (String, bool) {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\nThe content {} what the seeder has: both files hash to the same.\n",
        if same { "is" } else { "is NOT" }
    );
    let name = |ip: IpAddr| -> String {
        if ip == YOU {
            return "YOU".to_owned();
        }
        if ip == swarm::TRACKER_IP {
            return "tracker".to_owned();
        }
        if ip == swarm::SEEDER_IP {
            return "seeder".to_owned();
        }
        let relay = running.ips.iter().position(|relay| *relay == ip);
        relay.map_or_else(|| ip.to_string(), |n| format!("relay{}", n + 1))
    };
    let names = |ips: &BTreeSet<IpAddr>| -> String {
        let names: Vec<String> = ips.iter().map(|ip| name(*ip)).collect();
        if names.is_empty() {
            "nobody".to_owned()
        } else {
            names.join(", ")
        }
    };
    let _ = writeln!(text, "Whom each of them saw:");
    let mut row = |who: &str, saw: &BTreeSet<IpAddr>| {
        let verdict = if saw.contains(&YOU) {
            "knows your address"
        } else {
            "never your address"
        };
        let _ = writeln!(text, "  {who:<8} {:<38} {verdict}", names(saw));
        saw.contains(&YOU)
    };
    let mut ok = true;
    ok &= !row("seeder", &world.seeder_saw());
    ok &= !row("tracker", &world.tracker_saw());
    match sightings {
        Some(sightings) => {
            let mut knowing = 0;
            for (n, ip) in running.ips.iter().enumerate() {
                let saw: BTreeSet<IpAddr> = sightings.of(*ip).filter(|other| other != ip).collect();
                knowing += usize::from(row(&format!("relay{}", n + 1), &saw));
            }
            // Your guard (with one hop: the exit itself) carries all circuits, so that no other relay learns of you.
            ok &= knowing == 1 || hops == 1;
            let _ = writeln!(
                text,
                "\nOnly your guard knows you; it knows neither tracker nor seeder. (Read from the kernel's table of connections.)"
            );
        }
        None => {
            let _ = writeln!(
                text,
                "\nWhat the relays saw can't be shown: this system has no table of connections at /proc/net/tcp."
            );
        }
    }
    let _ = writeln!(text, "What the tracker was told: {}", world.told());
    (text, ok)
}
