//! Metrics in Prometheus' text format. No address, infohash or name stands in them, and nothing of one torrent alone: whoever keeps them for
//! years keeps sums.

use std::fmt::Write as _;

use super::Ways;
use super::torrent::Torrent;
use crate::rpc::session::Totals;
use crate::rpc::torrent::Status;

/// Writes them.
pub(super) fn text<'a>(
    torrents: impl Iterator<Item = &'a Torrent>,
    kinds: [u64; 3],
    ways: Ways,
    totals: Totals,
) -> String {
    let mut states = [
        ("stopped", Status::Stopped, 0_u64),
        ("checking", Status::Check, 0),
        ("download_queued", Status::DownloadWait, 0),
        ("downloading", Status::Download, 0),
        ("seed_queued", Status::SeedWait, 0),
        ("seeding", Status::Seed, 0),
    ];
    let (mut down, mut up, mut known, mut halted) = (0, 0, 0, 0_u64);
    for torrent in torrents {
        let status = torrent.status();
        for (_, state, count) in &mut states {
            *count += u64::from(*state == status);
        }
        halted += u64::from(torrent.halted.is_some());
        if let Some(progress) = &torrent.progress {
            down += progress.down_rate;
            up += progress.up_rate;
            known += progress.known as u64;
        }
    }
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        // A text takes everything.
        let _ = write!(
            out,
            "# HELP hushswarm_{name} {help}\n# TYPE hushswarm_{name} {kind}\n"
        );
    };
    head(&mut out, "torrents", "gauge", "Torrents by what they do.");
    for (name, _, count) in states {
        let _ = writeln!(out, "hushswarm_torrents{{state=\"{name}\"}} {count}");
    }
    head(
        &mut out,
        "peers_connected",
        "gauge",
        "Peers connected, of all torrents.",
    );
    for (name, count) in ["public", "onion", "hidden"].iter().zip(kinds) {
        let _ = writeln!(out, "hushswarm_peers_connected{{kind=\"{name}\"}} {count}");
    }
    for (name, kind, help, value) in [
        (
            "torrents_failed",
            "gauge",
            "Torrents that wait for their user.",
            halted,
        ),
        (
            "download_bytes_per_second",
            "gauge",
            "Payload received.",
            down,
        ),
        ("upload_bytes_per_second", "gauge", "Payload given.", up),
        (
            "downloaded_bytes_total",
            "counter",
            "Payload received since the start.",
            totals.downloaded,
        ),
        (
            "uploaded_bytes_total",
            "counter",
            "Payload given since the start.",
            totals.uploaded,
        ),
        (
            "torrents_added_total",
            "counter",
            "Torrents added since the start.",
            totals.added,
        ),
        (
            "uptime_seconds_total",
            "counter",
            "Seconds since the start.",
            totals.seconds,
        ),
        (
            "peers_known",
            "gauge",
            "Peers known, of all torrents.",
            known,
        ),
        (
            "circuits",
            "gauge",
            "Circuits that stand.",
            ways.circuits as u64,
        ),
        (
            "circuits_ready",
            "gauge",
            "1 where a circuit can be used.",
            u64::from(ways.ready),
        ),
    ] {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "hushswarm_{name} {value}");
    }
    out
}
