//! A whole download: `hushswarm get` from `hushswarm seed --over tor`, with hashing and writing.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::cpu::{Cpu, median};
use crate::pair::relays;
use crate::support::process::Process;
use crate::support::tor::{TorNetwork, away_from_home};
use crate::support::{hash_file, write_noise};

const PATIENCE: Duration = Duration::from_secs(600);
const NAME: &str = "archive.bin";

/// Downloads some MiB as often, and prints the medians.
pub(crate) fn bench(network: &TorNetwork, mib: u64, rounds: usize) {
    let dir = TempDir::new().unwrap();
    let (tor, content) = (network.tor_file(), dir.path().join(NAME));
    write_noise(&content, mib << 20, 1);
    let spawn = |command: &str, words: &[&str], folder: &str| {
        let mut program = away_from_home(None, dir.path());
        program.args([command, "--json"]).args(words);
        program.arg("--tor").arg(&tor);
        program.arg("--state").arg(dir.path().join(folder));
        Process::spawn(command, program)
    };
    let mut seed = spawn(
        "seed",
        &[content.to_str().unwrap(), "--over", "tor"],
        "seed",
    );
    let magnet = seed.wait_for_event(PATIENCE, "seeding")["magnet"].clone();
    let magnet = magnet.as_str().unwrap();
    let (mut rates, mut ends, mut all, mut firsts) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let out = dir.path().join(format!("out{round}"));
        let begun = Instant::now();
        let words = [magnet, "--output", out.to_str().unwrap(), "--seed"];
        let mut get = spawn("get", &words, &format!("get{round}"));
        let pids = [seed.id(), get.id()];
        let before = (Cpu::of(&pids), Cpu::of(&relays(network)));
        get.wait_until(PATIENCE, |get| progress(get).0);
        firsts.push(begun.elapsed().as_secs_f64());
        let (started, had) = (Instant::now(), progress(&get).1);
        get.wait_until(PATIENCE, |get| (progress(get).1 == mib << 20).then_some(()));
        let gb = ((mib << 20) - had) as f64 / 1e9;
        let both = Cpu::of(&pids).since(before.0).all();
        let others = Cpu::of(&relays(network)).since(before.1).all();
        rates.push(gb * 1e3 / started.elapsed().as_secs_f64());
        // With the start of Tor and of its circuits.
        let gb = (mib << 20) as f64 / 1e9;
        ends.push(both / gb);
        all.push((both + others) / gb);
        assert_eq!(hash_file(&out.join(NAME)), hash_file(&content));
        get.kill();
    }
    println!(
        "{:<26} {:>8.2} {:>13.1} {:>13.1}   first piece after {:.1} s, the start of Tor with it",
        "get from seed --over tor",
        median(rates),
        median(ends),
        median(all),
        median(firsts)
    );
}

/// Whether a piece has come, and the verified bytes.
fn progress(get: &Process) -> (Option<()>, u64) {
    let said = get.events("progress");
    let done = said.last().and_then(|now| now["done"].as_u64());
    let done = done.unwrap_or(0);
    let checked = said
        .last()
        .is_some_and(|now: &Value| now["state"] != "checking");
    ((done > 0 && checked).then_some(()), done)
}
