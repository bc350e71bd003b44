//! Clients that run: where each of them is, and what its sockets do.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::finding::{Danger, Finding};
use super::sockets::{Socket, parse};

/// Names of clients as the kernel keeps them (15 bytes), with how to start each again.
const CLIENTS: &[(&str, &str)] = &[
    (
        "qbittorrent-nox",
        "hushswarm run --publish 8080 -- qbittorrent-nox",
    ),
    ("qbittorrent", "hushswarm run -- qbittorrent"),
    (
        "transmission-da",
        "hushswarm run --publish 9091 -- transmission-daemon --foreground",
    ),
    ("transmission-gt", "hushswarm run -- transmission-gtk"),
    ("transmission-qt", "hushswarm run -- transmission-qt"),
    (
        "deluged",
        "hushswarm run --publish 58846 -- deluged --do-not-daemonize",
    ),
    ("deluge-gtk", "hushswarm run -- deluge-gtk"),
    ("aria2c", "hushswarm run -- aria2c"),
    ("rtorrent", "hushswarm run -- rtorrent"),
    ("rqbit", "hushswarm run -- rqbit"),
];
/// What our own processes are called.
const OURS: &str = "hushswarm";
/// Ancestors that are looked at.
const MAX_ANCESTORS: usize = 64;
/// Findings about one process that are shown; the rest are counted.
const MAX_SHOWN: usize = 4;

/// A client that runs.
struct Running {
    id: u32,
    name: String,
    again: &'static str,
    folder: PathBuf,
}

/// Looks at every process of a known client that belongs to this user.
pub(super) fn check() -> Vec<Finding> {
    let own = rustix::process::geteuid().as_raw();
    let here = fs::read_link("/proc/self/ns/net").ok();
    let mut findings = Vec::new();
    for process in running(own) {
        let place = format!("{} (pid {})", process.name, process.id);
        let namespace = fs::read_link(process.folder.join("ns/net")).ok();
        if namespace.is_none() {
            findings.push(Finding::new(
                Danger::Note,
                &place,
                "its namespaces and sockets can't be read",
                "run the doctor as the same user, or as root",
            ));
            continue;
        }
        let elsewhere = namespace != here;
        if elsewhere && has_our_parent(process.id) {
            findings.push(Finding::fine(
                &place,
                "it runs in a jail of hushswarm, from which nothing else leads out",
            ));
            continue;
        }
        if elsewhere && only_loopback(&process.folder) {
            findings.push(Finding::new(
                Danger::Note,
                &place,
                "it is in a network namespace with loopback alone, which hushswarm run did not make",
                "make sure that what leads out of it is a proxy",
            ));
            continue;
        }
        findings.extend(socket_findings(&process, &place));
    }
    findings
}

fn running(own: u32) -> Vec<Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<Running> = entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path();
            let name = fs::read_to_string(folder.join("comm")).ok()?;
            let name = name.trim();
            let (_, again) = CLIENTS.iter().find(|(known, _)| *known == name)?;
            let mine = own == 0 || entry.metadata().ok()?.uid() == own;
            mine.then(|| Running {
                id,
                name: name.to_owned(),
                again,
                folder,
            })
        })
        .collect();
    found.sort_by_key(|process| process.id);
    found
}

/// Whether one of its ancestors is ours.
fn has_our_parent(id: u32) -> bool {
    let mut id = id;
    for _ in 0..MAX_ANCESTORS {
        let Some(parent) = parent_of(id) else {
            return false;
        };
        let name = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
        if name.trim() == OURS {
            return true;
        }
        id = parent;
    }
    false
}

fn parent_of(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().filter(|parent| *parent != 0)
}

/// Whether its network has no interface but `lo`.
fn only_loopback(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("net/dev")).unwrap_or_default();
    let names = text.lines().filter_map(|line| line.split_once(':'));
    let names: Vec<&str> = names.map(|(name, _)| name.trim()).collect();
    names == ["lo"]
}

/// Sockets that a process has, with what kind they are.
fn sockets_of(folder: &Path) -> Vec<(&'static str, Socket)> {
    let handles = fs::read_dir(folder.join("fd")).into_iter().flatten();
    let own: HashSet<u64> = handles
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            inode.parse().ok()
        })
        .collect();
    let tables = [
        ("TCP", "tcp"),
        ("TCP", "tcp6"),
        ("UDP", "udp"),
        ("UDP", "udp6"),
    ];
    let all = tables.into_iter().flat_map(|(kind, file)| {
        let text = fs::read_to_string(folder.join("net").join(file)).unwrap_or_default();
        parse(&text).into_iter().map(move |socket| (kind, socket))
    });
    all.filter(|(_, socket)| own.contains(&socket.inode))
        .collect()
}

fn socket_findings(process: &Running, place: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for (kind, socket) in sockets_of(&process.folder) {
        let what = if socket.listens && socket.is_open() {
            format!(
                "listens on {} ({kind}): strangers can find it (L10)",
                socket.local
            )
        } else if kind == "UDP" && socket.is_open() && !socket.leaves() {
            format!(
                "has {} open ({kind}): strangers can reach it, unless it drops what is not from its proxy (L10)",
                socket.local
            )
        } else if socket.leaves() {
            // Not whom it reaches: that may be nobody's business who reads this later.
            format!(
                "is connected to another computer directly ({kind}), past any proxy here (L01 to L06)"
            )
        } else {
            continue;
        };
        if findings.iter().all(|known| known.what != what) {
            findings.push(Finding::new(
                Danger::Leak,
                place,
                what,
                format!("stop it, and start it by: {}", process.again),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::new(
            Danger::Note,
            place,
            "it runs outside of a jail; its sockets keep to this computer now",
            format!("safer: {}", process.again),
        ));
    }
    let more = findings.len().saturating_sub(MAX_SHOWN);
    findings.truncate(MAX_SHOWN);
    if more > 0 {
        let what = format!("and {more} more sockets like these");
        findings.push(Finding::new(Danger::Leak, place, what, ""));
    }
    findings
}
