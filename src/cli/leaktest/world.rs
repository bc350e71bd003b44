//! The process that is the world: PID 1 of its own namespaces. It makes one run and tells what it saw.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hushswarm_circuits::path::PathRules;
use sha1::{Digest, Sha1};

use super::addresses::{self, EXITS, GUARDS, MIRROR_NAME, RELAYS, TRACKER_NAME, TRACKER_PORT};
use super::classify;
use super::outcome::{Ended, Fault, Outcome, Said, Settings, Way};
use super::program::{Places, Running, arrived};
use super::services::{self, Content, Shared};
use super::stage::{self, Computer};
use super::strangers;
use super::tally::{Meaning, Tally};
use crate::bencode;
use crate::cli::demo::network::{self, PrivateNetwork};
use crate::error::{Error, Kind};
use crate::net::os::{Capture, LinkListener, WorldSockets};
use crate::route::Nowhere;
use crate::torrent::engine::{Engine, Options, State};
use crate::torrent::infohash::InfoHash;
use crate::torrent::metainfo::Builder;

/// Name of the content.
const NAME: &str = "leaktest.bin";
/// Length of a piece, bytes.
const PIECE: u32 = 512 << 10;
/// Longest frame that is looked at: what large segments come to.
const FRAME: usize = 68 << 10;
/// The cable counts as quiet after so long without a packet.
const QUIET: Duration = Duration::from_millis(600);
/// It is waited for at most so long.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// A run lasts at least so long, that what starts slowly is seen.
const LEAST: Duration = Duration::from_secs(10);
/// After the file is complete the program is watched on.
const LINGER: Duration = Duration::from_secs(2);
/// Time for the last packets to be read.
const SETTLE: Duration = Duration::from_millis(300);
/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// With a fault the content is given so slowly that all of it would take this long.
const SLOW: u64 = 12;
/// Share of the content that is given before the fault: a quarter.
const FAULT_AT: u64 = 4;
/// The relays end at once.
const NO_GRACE: Duration = Duration::ZERO;

/// Runs the world: settings come as a line on the input, whose end is ours; the outcome leaves as a line.
pub(super) fn main() -> ExitCode {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let settings = read
        .ok()
        .and_then(|_| serde_json::from_str::<Settings>(&line).ok());
    std::thread::spawn(|| {
        // Whoever started us is gone when this returns.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(1);
    });
    let said = match settings {
        None => Err(Error::new(
            Kind::Bug,
            "the world was started without its settings",
        )),
        Some(settings) => run(&settings),
    };
    let said = match said {
        Ok(outcome) => Said::Done(Box::new(outcome)),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Said::Failed(
                format!("{error}{}", cause.unwrap_or_default()),
                error.hint().map(str::to_owned),
            )
        }
    };
    let text = serde_json::to_string(&said).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(settings: &Settings) -> Result<Outcome, Error> {
    stage::set_up_world(&settings.dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::local("can't start").with_source(source))?;
    let done = runtime.block_on(watch(settings));
    runtime.shutdown_background();
    done
}

/// Packets that left the program's computer.
struct Watch {
    tally: Arc<Mutex<Tally>>,
    outage: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<()>>,
}

impl Watch {
    fn start(mut capture: Capture) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (outage, stop) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (to, failing, ended) = (Arc::clone(&tally), Arc::clone(&outage), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; FRAME];
            loop {
                match capture.read(&mut frame)? {
                    Some(len) => {
                        let packet = classify::packet(&frame[..len]);
                        let mut tally = to.lock().unwrap_or_else(PoisonError::into_inner);
                        tally.add(&packet, len, failing.load(Ordering::Acquire));
                    }
                    // What is queued is read even when it is time to stop.
                    None if ended.load(Ordering::Acquire) => return Ok(()),
                    None => {}
                }
            }
        });
        Self {
            tally,
            outage,
            stop,
            thread,
        }
    }

    fn packets(&self) -> u64 {
        self.tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .packets()
    }

    /// Waits until the kernel has done its own chatter, then forgets it.
    async fn quiet(&self) -> Result<u64, Error> {
        let begun = Instant::now();
        let (mut count, mut since) = (self.packets(), Instant::now());
        while since.elapsed() < QUIET {
            if begun.elapsed() > QUIET_LIMIT {
                return Err(Error::new(
                    Kind::Bug,
                    "the cable is not quiet before the program runs",
                ));
            }
            tokio::time::sleep(LOOK / 5).await;
            if self.packets() != count {
                (count, since) = (self.packets(), Instant::now());
            }
        }
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        *tally = Tally::default();
        drop(tally);
        received()
    }

    fn end(self) -> Result<Tally, Error> {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.join();
        let failed = || Error::new(Kind::Bug, "the capture stopped");
        ended
            .map_err(|_| failed())?
            .map_err(|source| failed().with_source(source))?;
        Ok(std::mem::take(
            &mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

fn received() -> Result<u64, Error> {
    let cable = stage::cable().map(|(_, received)| received);
    cable.ok_or_else(|| Error::local("can't read what the kernel counted"))
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The torrent's files and links.
struct Torrent {
    content: Arc<Content>,
    hash: blake3::Hash,
    places: Places,
}

async fn make_torrent(settings: &Settings) -> Result<Torrent, Error> {
    let file = settings.dir.join("seed").join(NAME);
    let (path, seed, size) = (file.clone(), settings.seed, settings.size);
    let made = tokio::task::spawn_blocking(move || make_content(&path, &seed, size));
    let (hash, pieces) = made
        .await
        .map_err(|error| Error::new(Kind::Bug, "writing stopped").with_source(error))?
        .map_err(|source| Error::local("can't write the content").with_source(source))?;
    let http = format!("http://{TRACKER_NAME}:{TRACKER_PORT}/announce");
    let udp = format!("udp://{TRACKER_NAME}:{TRACKER_PORT}/announce");
    let url = format!("http://{MIRROR_NAME}/{NAME}");
    let trackers = if settings.trackers {
        vec![http.clone(), udp]
    } else {
        Vec::new()
    };
    let tiers = trackers.iter().map(|url| vec![url.clone()]).collect();
    let mut builder = Builder::new(NAME.to_owned(), vec![(Vec::new(), size)]);
    builder.piece_len = PIECE;
    builder.trackers = tiers;
    let (metainfo, mut bytes) = builder
        .finish(pieces)
        .map_err(|error| Error::new(Kind::Bug, "can't make a torrent").with_source(error))?;
    let info_hash = metainfo.info.hash;
    if settings.web_seed && bytes.pop() == Some(b'e') {
        // The last key of the dictionary (BEP 19).
        bencode::put_bytes(&mut bytes, b"url-list");
        bencode::put_bytes(&mut bytes, &url);
        bytes.push(b'e');
    }
    let torrent = settings.dir.join("leaktest.torrent");
    std::fs::write(&torrent, bytes)
        .map_err(|source| Error::local("can't write the torrent").with_source(source))?;
    let hex: String = info_hash.0.iter().map(|b| format!("{b:02x}")).collect();
    let mut magnet = format!("magnet:?xt=urn:btih:{hex}&dn={NAME}");
    for tracker in &trackers {
        magnet += &format!("&tr={}", escape(tracker));
    }
    if settings.web_seed {
        magnet += &format!("&ws={}", escape(&url));
    }
    let engine = Engine::new(
        Arc::new(Nowhere),
        Options::new(settings.dir.join("seed-state")),
    );
    let seed = Arc::new(engine.seed(metainfo, settings.dir.join("seed")));
    let mut progress = seed.progress();
    let ready = progress
        .wait_for(|progress| !matches!(progress.state, State::Checking | State::FetchingMetadata));
    ready
        .await
        .map_err(|error| Error::new(Kind::Bug, "the seeding peer ended").with_source(error))?;
    drop(progress);
    let dir = settings.dir.join("files");
    Ok(Torrent {
        places: Places::new(&dir, &torrent, &magnet, &http, &url),
        content: Arc::new(Content {
            hash: InfoHash(info_hash.0),
            seed,
            file,
            name: NAME.to_owned(),
        }),
        hash,
    })
}

/// Writes the content; gives its hash, and those of its pieces.
fn make_content(
    path: &Path,
    seed: &[u8; 32],
    size: u64,
) -> std::io::Result<(blake3::Hash, Vec<[u8; 20]>)> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut noise = blake3::Hasher::new_keyed(seed).finalize_xof();
    let (mut file, mut hasher) = (std::fs::File::create(path)?, blake3::Hasher::new());
    let (mut left, mut block, mut pieces) = (size, vec![0; PIECE as usize], Vec::new());
    while left > 0 {
        let len = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        noise.fill(&mut block[..len]);
        hasher.update(&block[..len]);
        pieces.push(Sha1::digest(&block[..len]).into());
        file.write_all(&block[..len])?;
        left -= len as u64;
    }
    Ok((hasher.finalize(), pieces))
}

async fn watch(settings: &Settings) -> Result<Outcome, Error> {
    let sockets = WorldSockets::for_leaktest();
    let rate = settings.fault.map(|_| (settings.size / SLOW).max(16 << 10));
    let torrent = make_torrent(settings).await?;
    let shared = Shared::new(rate);
    services::start(sockets, &shared, Arc::clone(&torrent.content))?;
    let mut relays = if settings.way == Way::Plain {
        None
    } else {
        Some(start_relays(&settings.dir)?)
    };
    let computer = Computer::start()?;
    let (number, _) = stage::cable().ok_or_else(|| Error::local("the cable is missing"))?;
    let capture = sockets.capture(number).map_err(|source| {
        Error::local("can't capture packets in a namespace of our own").with_source(source)
    })?;
    let watch = Watch::start(capture);
    let before = watch.quiet().await?;
    let begun = Instant::now();
    let network = relays
        .as_ref()
        .map_or_else(PathBuf::new, |(_, network)| network.clone());
    let mut running = Running::start(settings, &computer, &network, &torrent.places)?;
    let mut open = Vec::new();
    let (mut knocked, mut faulted, mut complete) = (false, None::<Instant>, None::<Instant>);
    let mut status = None;
    let files = settings.dir.join("files");
    let limit = Duration::from_secs(settings.seconds);
    let ended = loop {
        tokio::time::sleep(LOOK).await;
        status = status.or_else(|| running.ended());
        if complete.is_none() && arrived(&files, settings.size, &torrent.hash) {
            complete = Some(Instant::now());
        }
        if let Some(fault) = settings.fault.filter(|_| faulted.is_none())
            && shared.served() >= settings.size / FAULT_AT
            && complete.is_none()
        {
            watch.outage.store(true, Ordering::Release);
            match fault {
                Fault::KillProxy => running.kill_hushswarm(settings.way),
                Fault::KillRelays => {
                    for relay in relays.take().into_iter().flat_map(|(relays, _)| relays) {
                        relay.stop(NO_GRACE).await;
                    }
                }
            }
            faulted = Some(Instant::now());
        }
        // A stranger comes when the program has had time to listen.
        if !knocked && (begun.elapsed() > LEAST / 2 || status.is_some() || complete.is_some()) {
            open = strangers::knock(sockets, &computer, torrent.content.hash.0).await;
            knocked = true;
        }
        if let Some(since) = faulted {
            if since.elapsed() >= Duration::from_secs(settings.outage) {
                break Ended::Fault;
            }
            continue;
        }
        if status.is_some() {
            break Ended::Program;
        }
        if complete.is_some_and(|at| at.elapsed() >= LINGER) && begun.elapsed() >= LEAST {
            break Ended::Complete;
        }
        if begun.elapsed() >= limit {
            break Ended::Time;
        }
    };
    // What it says when it ends counts too.
    let stopping = tokio::task::spawn_blocking(move || {
        running.stop();
        running
    });
    let running = stopping
        .await
        .map_err(|error| Error::new(Kind::Bug, "ending stopped").with_source(error))?;
    tokio::time::sleep(SETTLE).await;
    let counted = received()?.saturating_sub(before);
    let tally = watch.end()?;
    // A program that has ended has written everything.
    if complete.is_none() && arrived(&files, settings.size, &torrent.hash) {
        complete = Some(Instant::now());
    }
    drop(computer);
    let mut guards = BTreeSet::new();
    if settings.way != Way::Plain {
        guards.extend((0..GUARDS).map(addresses::relay));
    }
    let meaning = Meaning {
        services: addresses::services(),
        strangers: addresses::stranger().to_vec(),
        guards,
    };
    let (escaped, guard_packets) = tally.sum(&meaning, addresses::name);
    Ok(Outcome {
        way: settings.way,
        ended,
        status: status.map(|status| status.to_string()),
        complete: complete.is_some(),
        seconds: complete.map(|at| at.duration_since(begun).as_secs_f64()),
        served: shared.served(),
        fault: faulted.is_some(),
        escaped,
        guard_packets,
        captured: tally.packets(),
        lost: counted.saturating_sub(tally.packets()),
        open,
        learned: shared.learned(),
        tail: running.tail(),
    })
}

/// Starts the world's relays; gives them and the network file.
fn start_relays(dir: &Path) -> Result<(Vec<crate::relay::Relay>, PathBuf), Error> {
    let addrs: Vec<_> = (0..RELAYS).map(addresses::relay).collect();
    let listeners = addrs
        .iter()
        .map(|addr| LinkListener::bind(*addr))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::local("can't bind a relay's address").with_source(source))?;
    let plan = PrivateNetwork::new(&addrs, GUARDS, EXITS, PathRules::default())?;
    let folder = dir.join("network");
    std::fs::create_dir_all(&folder)
        .map_err(|source| Error::local("can't write the network file").with_source(source))?;
    let file = plan.write_public(&folder)?;
    Ok((network::serve(plan, listeners).relays, file))
}
