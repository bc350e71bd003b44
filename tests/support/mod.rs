//! Shared fixtures: real programs ([`clients`]), network namespaces ([`world`]), packet capture ([`capture`]).
//!
//! All of it blocks; an async test calls it from `spawn_blocking`, or from a runtime with several threads. Whatever a
//! fixture starts ends with it.
#![allow(dead_code, unreachable_pub)] // every test takes what it needs
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a broken set-up is a failed test
#![allow(clippy::disallowed_types)] // tests run the world

pub mod capture;
pub mod clients;
pub mod dht;
pub mod guards;
pub mod inside;
pub mod loopback;
pub mod network;
pub mod onion_seed;
pub mod process;
pub mod scene;
pub mod settings;
pub mod tor;
pub mod world;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a fixture may take to get ready or to answer: long, for a busy machine; nothing waits for its end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How much of a file is held at once, bytes.
const BLOCK: usize = 1 << 20;

/// Says that a test can't run here. In CI (`CI=true`) that is a failure; elsewhere it is shown and counted by
/// `tests/run`.
pub fn skip(reason: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "may not be skipped in CI: {reason}"
    );
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    eprintln!("SKIPPED {name}: {reason}");
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    writeln!(log, "{name}: {reason}").unwrap();
}

/// Path of a script in `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Fills a file with `len` bytes that don't repeat, the same for the same `seed`.
pub fn write_noise(path: &Path, len: u64, seed: u64) {
    let mut noise = blake3::Hasher::new()
        .update(&seed.to_be_bytes())
        .finalize_xof();
    let mut file = std::fs::File::create(path).unwrap();
    let (mut left, mut block) = (len, vec![0; BLOCK]);
    while left > 0 {
        let part = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        noise.fill(&mut block[..part]);
        file.write_all(&block[..part]).unwrap();
        left -= part as u64;
    }
}

/// BLAKE3 of a file.
pub fn hash_file(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block).unwrap() {
            0 => return hasher.finalize(),
            len => hasher.update(&block[..len]),
        };
    }
}
