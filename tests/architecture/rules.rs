//! The rules. Each takes source files and gives one line for every place that breaks it.

use crate::source::{Reference, SourceFile, Token};

/// The only file that opens sockets and resolves names, and the folder of its parts.
const SOCKET_OWNER: &str = "src/net/os.rs";
const SOCKET_OWNERS: &str = "src/net/os/";

/// Longest file, lines.
const MAX_LINES: usize = 800;

/// What each top module may import, besides itself. `circuits` is the crate `hushswarm_circuits`. Siblings of one
/// layer stay apart; whoever needs the world goes through `route`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("redact", &["error"]),
    ("error", &["redact"]),
    // Names of onion services: a leaf, which whoever speaks of them may use.
    ("onion", &[]),
    // The same of hidden seeds.
    ("hush", &["onion"]),
    // A codec and the DHT's protocol: bytes and time in, bytes and events out. Of `circuits`, krpc takes which addresses are public and how a
    // signature is checked.
    ("bencode", &[]),
    ("krpc", &["bencode", "circuits"]),
    ("config", &["circuits", "error", "onion", "redact"]),
    ("state", &["circuits", "config", "error", "onion", "redact"]),
    ("net", &["circuits", "error", "onion", "redact"]),
    (
        "overlay",
        &[
            "net", "circuits", "state", "config", "error", "onion", "redact",
        ],
    ),
    (
        "relay",
        &[
            "overlay", "net", "krpc", "circuits", "state", "config", "error", "onion", "redact",
        ],
    ),
    (
        "tor",
        &[
            "net", "circuits", "state", "config", "error", "onion", "redact",
        ],
    ),
    (
        "route",
        &[
            "overlay", "tor", "net", "circuits", "state", "config", "error", "hush", "onion",
            "redact",
        ],
    ),
    (
        "torrent",
        &[
            "dht", "route", "bencode", "circuits", "state", "config", "error", "hush", "onion",
            "redact",
        ],
    ),
    (
        "dht",
        &[
            "route", "krpc", "circuits", "state", "config", "error", "hush", "onion", "redact",
        ],
    ),
    // Both are given sockets that programs of this computer are served on; neither can dial.
    (
        "socks",
        &[
            "route", "net", "circuits", "state", "config", "error", "hush", "onion", "redact",
        ],
    ),
    (
        "hidden",
        &[
            "dht", "route", "krpc", "bencode", "circuits", "state", "config", "error", "hush",
            "onion", "redact",
        ],
    ),
    // Foreign clients as hidden peers. It is given the tracker's listener and a way to the clients' ports; it can't dial.
    (
        "guests",
        &[
            "hidden", "dht", "torrent", "route", "net", "bencode", "circuits", "error", "hush",
        ],
    ),
    // Serves a player on loopback: it is given a listener and what to serve, and can dial nobody.
    ("stream", &["route", "net"]),
    // The Transmission RPC: bytes in, bytes out.
    ("rpc", &[]),
    // Torrents that stay. It is given a listener for programs of this computer, and how torrents are started; it can't dial.
    (
        "daemon",
        &[
            "torrent", "rpc", "route", "net", "circuits", "state", "config", "error", "redact",
        ],
    ),
    (
        "jail",
        &[
            "route", "net", "circuits", "state", "config", "error", "hush", "onion", "redact",
        ],
    ),
];

/// Modules that may import everything: the command line, the roots of library and binary.
const TOP: &[&str] = &["cli", ""];

/// Files of `src/torrent` that turn bytes into values or decide, and nothing else.
const CODECS: &[&str] = &[
    "metainfo",
    "magnet",
    "feed",
    "wire",
    "extension",
    "gossip",
    "pex",
    "picker",
    "pace",
    "infohash",
    "v2",
    "select",
];

const SOCKET_NAMES: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "TcpSocket",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "UnixSocket",
    "ToSocketAddrs",
    "to_socket_addrs",
    "lookup_host",
];

fn at(file: &SourceFile, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", file.path)
}

/// The top module of ours that a reference names: `""` for the root itself, `None` for foreign paths.
fn ours(reference: &Reference) -> Option<&str> {
    let second = reference.path.get(1).map_or("", String::as_str);
    match reference.path.first()?.as_str() {
        "hushswarm_circuits" => Some("circuits"),
        "crate" | "hushswarm" if matches!(second, "*" | "self") => Some(""),
        "crate" | "hushswarm" => Some(second),
        _ => None,
    }
}

/// Imports follow [`MAY_IMPORT`].
pub(crate) fn imports(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        let module = file.module();
        let module = module.first().map_or("", String::as_str);
        if TOP.contains(&module) {
            continue;
        }
        let Some((_, may)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            out.push(at(
                file,
                1,
                &format!("`{module}` is not in the table of tests/architecture"),
            ));
            continue;
        };
        for reference in file.references() {
            let Some(named) = ours(&reference) else {
                continue;
            };
            if named != module && !may.contains(&named) {
                let path = reference.path.join("::");
                out.push(at(
                    file,
                    reference.line,
                    &format!("`{module}` may not name `{path}`"),
                ));
            }
        }
    }
    out
}

/// Codecs name neither the runtime nor the seam to the world.
pub(crate) fn codecs(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files {
        let module = file.module();
        let codec = module
            .get(1)
            .is_some_and(|name| CODECS.contains(&name.as_str()));
        if !(file.path.starts_with("src/torrent/") && codec) {
            continue;
        }
        for reference in file.references() {
            let first = reference.path.first().map_or("", String::as_str);
            if matches!(first, "tokio" | "futures_util") || ours(&reference) == Some("route") {
                out.push(at(
                    file,
                    reference.line,
                    &format!("a codec names `{first}`"),
                ));
            }
        }
    }
    out
}

/// Where code is that touches nothing outside its arguments.
const PURE: &[&str] = &["circuits/src/", "src/bencode.rs", "src/krpc/"];

/// [`PURE`] code touches nothing outside its arguments; its tests may read the clock and files.
pub(crate) fn sans_io(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files
        .iter()
        .filter(|file| PURE.iter().any(|part| file.path.starts_with(part)))
    {
        for reference in file.references() {
            let first = reference.path.first().map_or("", String::as_str);
            let always = matches!(
                first,
                "tokio" | "mio" | "socket2" | "rustix" | "futures_util"
            );
            let clock = reference.has(&["Instant", "now"]) || reference.has(&["SystemTime", "now"]);
            let world = reference.has(&["std", "fs"])
                || reference.has(&["std", "thread"])
                || reference.has(&["std", "process"])
                || reference.has(&["std", "env"]);
            if always || (!reference.test && (clock || world)) {
                let path = reference.path.join("::");
                out.push(at(
                    file,
                    reference.line,
                    &format!("pure code names `{path}`"),
                ));
            }
        }
        out.extend(socket_names(file));
        out.extend(
            allows(file)
                .filter(|(token, lint)| !token.test || *lint != "disallowed_methods")
                .map(|(token, lint)| {
                    at(
                        file,
                        token.line,
                        &format!("allows `{lint}`: only tests may, and only methods"),
                    )
                }),
        );
    }
    out
}

/// Only [`SOCKET_OWNER`] names sockets or lifts the lints that forbid them.
pub(crate) fn one_socket_owner(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        if file.path == SOCKET_OWNER || file.path.starts_with(SOCKET_OWNERS) {
            continue;
        }
        out.extend(socket_names(file));
        out.extend(allows(file).map(|(token, lint)| {
            at(
                file,
                token.line,
                &format!("allows `{lint}`: only {SOCKET_OWNER} may"),
            )
        }));
    }
    out
}

/// Capabilities that one part alone may name, besides [`SOCKET_OWNER`] which makes them.
const CAPABILITIES: &[(&str, &[&str])] = &[
    // Connections for others: a relay's.
    ("ExitPermit", &["src/relay/"]),
    ("TorSockets", &["src/tor/", "src/cli/tor.rs"]),
    // The services and the capture of a leak test's world, in namespaces of its own.
    (
        "WorldSockets",
        &[
            "src/cli/leaktest/world.rs",
            "src/cli/leaktest/services.rs",
            "src/cli/leaktest/strangers.rs",
        ],
    ),
];

/// Nobody else names a capability, so nobody else can hold one.
pub(crate) fn capabilities(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files.iter().filter(|file| {
        let owner = file.path == SOCKET_OWNER || file.path.starts_with(SOCKET_OWNERS);
        file.path.starts_with("src/") && !owner
    }) {
        for (name, holders) in CAPABILITIES {
            if holders.iter().any(|holder| file.path.starts_with(holder)) {
                continue;
            }
            let named = file
                .tokens
                .iter()
                .filter(|token| token.ident() == Some(*name));
            out.extend(named.map(|token| at(file, token.line, &format!("names `{name}`"))));
        }
    }
    out
}

fn socket_names(file: &SourceFile) -> impl Iterator<Item = String> {
    file.tokens.iter().filter_map(|token| {
        let name = token.ident()?;
        let socket = SOCKET_NAMES.contains(&name) || name == "socket2";
        socket.then(|| at(file, token.line, &format!("names `{name}`")))
    })
}

/// Attributes that lift `disallowed_types` or `disallowed_methods`, alone or with a group that holds them.
fn allows(file: &SourceFile) -> impl Iterator<Item = (&Token, &str)> {
    file.tokens.iter().enumerate().filter_map(|(at, token)| {
        let lint = token.ident()?;
        let named = matches!(lint, "disallowed_types" | "disallowed_methods");
        let group = matches!(lint, "all" | "style" | "warnings");
        let before: Vec<&str> = file.tokens[..at]
            .iter()
            .rev()
            .take(24)
            .filter_map(Token::ident)
            .collect();
        let lifted = before
            .iter()
            .take_while(|name| !matches!(**name, "fn" | "mod" | "use" | "struct" | "impl" | "let"))
            .any(|name| matches!(*name, "allow" | "expect" | "warn"));
        let lint_path = before.first() == Some(&"clippy") || lint == "warnings";
        (lifted && (named || (group && lint_path))).then_some((token, lint))
    })
}

/// Who makes what opens connections to relays: a relay, the demo, and the one place of the command line that chooses how a client
/// reaches its first relay. Nobody else there can dial past that choice.
const DIALERS: &[(&str, &[&str])] = &[
    (
        "OsDialer",
        &[
            "src/net/",
            "src/cli/connect.rs",
            "src/cli/relay.rs",
            "src/cli/demo/",
        ],
    ),
    ("TorDialer", &["src/tor/", "src/cli/tor.rs"]),
];

/// What may open connections to relays is made by the command line alone: whoever serves programs or carries torrents
/// is given a way out, and can't dial.
pub(crate) fn one_dialer(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/")) {
        for (name, makers) in DIALERS {
            if makers.iter().any(|maker| file.path.starts_with(maker)) {
                continue;
            }
            let named = file
                .tokens
                .iter()
                .filter(|token| token.ident() == Some(*name));
            out.extend(named.map(|token| at(file, token.line, "makes a dialer of its own")));
        }
    }
    out
}

/// No `unsafe`.
pub(crate) fn no_unsafe(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files {
        let unsafe_tokens = file
            .tokens
            .iter()
            .filter(|token| token.ident() == Some("unsafe"));
        out.extend(unsafe_tokens.map(|token| at(file, token.line, "unsafe")));
    }
    out
}

/// Nothing in `route` is called direct.
pub(crate) fn no_direct_route(files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.path.starts_with("src/route/"))
    {
        for token in &file.tokens {
            if token
                .ident()
                .is_some_and(|name| name.to_ascii_lowercase().starts_with("direct"))
            {
                out.push(at(file, token.line, "there is no direct route"));
            }
        }
    }
    out
}

/// No file has more than [`MAX_LINES`] lines.
pub(crate) fn file_lengths(files: &[SourceFile]) -> Vec<String> {
    let lengths = files.iter().map(|file| (file, file.text.lines().count()));
    lengths
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(file, lines)| at(file, lines, &format!("longer than {MAX_LINES} lines")))
        .collect()
}

/// Packages of a `cargo tree` listing that are banned.
pub(crate) fn banned_packages(tree: &str, banned: &[&str]) -> Vec<String> {
    let packages = tree.lines().filter(|line| {
        line.split_once(' ')
            .is_some_and(|(name, _)| banned.contains(&name))
    });
    let mut out: Vec<String> = packages
        .map(|line| format!("banned crate {line}"))
        .collect();
    out.sort();
    out.dedup();
    out
}

mod tests {
    use super::*;

    type Rule = fn(&[SourceFile]) -> Vec<String>;

    fn finds(rule: Rule, path: &str, text: &str) -> bool {
        !rule(&[SourceFile::new(path, text)]).is_empty()
    }

    #[test]
    fn a_capability_in_other_hands_is_found() {
        for (path, text) in [
            ("src/cli/get.rs", "use crate::net::os::WorldSockets;"),
            (
                "src/cli/leaktest.rs",
                "fn f() { crate::net::os::WorldSockets::for_leaktest(); }",
            ),
            (
                "src/overlay/client.rs",
                "use crate::net::os::{ExitPermit, OsDialer};",
            ),
            ("src/net/mod.rs", "pub use os::ExitPermit;"),
        ] {
            assert!(finds(capabilities, path, text), "{path}: {text}");
        }
        for (path, text) in [
            (
                "src/cli/leaktest/world.rs",
                "use crate::net::os::WorldSockets;",
            ),
            ("src/relay/node.rs", "use crate::net::os::ExitPermit;"),
            ("src/net/os/world.rs", "pub struct WorldSockets(());"),
            ("src/cli/get.rs", "//! No ExitPermit here."),
        ] {
            assert!(!finds(capabilities, path, text), "{path}: {text}");
        }
    }

    #[test]
    fn upward_and_sideways_imports_are_found_in_every_spelling() {
        for (path, text) in [
            ("src/torrent/swarm.rs", "use crate::net::mem;"),
            (
                "src/torrent/swarm.rs",
                "use crate::{route::Outside, overlay::{pool, guard}};",
            ),
            ("src/torrent/swarm.rs", "use super::super::relay;"),
            ("src/torrent/mod.rs", "use super::overlay::Pool;"),
            ("src/torrent/mod.rs", "mod x { use super::super::net; }"),
            ("src/torrent/swarm.rs", "fn f() { crate::overlay::go() }"),
            (
                "src/torrent/swarm.rs",
                "fn f() -> crate::net::Dialer { todo() }",
            ),
            ("src/torrent/swarm.rs", "use crate::*;"),
            ("src/torrent/swarm.rs", "use crate as all;"),
            ("src/torrent/swarm.rs", "use hushswarm::relay as r#route;"),
            (
                "src/torrent/swarm.rs",
                "#[cfg(test)] mod tests { use crate::net::mem; }",
            ),
            ("src/relay/mod.rs", "use crate::torrent::wire;"),
            ("src/route/mod.rs", "use crate::cli::Options;"),
            ("src/redact.rs", "use hushswarm_circuits::target::Target;"),
            ("src/net/os.rs", "use crate::config::Config;"),
            ("src/gossip/mod.rs", ""),
        ] {
            assert!(finds(imports, path, text), "{path}: {text}");
        }
    }

    #[test]
    fn imports_of_lower_layers_pass() {
        for (path, text) in [
            (
                "src/torrent/swarm.rs",
                "use super::wire; use self::peer::Peer; use super::{picker, peer};",
            ),
            (
                "src/torrent/swarm.rs",
                "use crate::route::{self, Outside}; // use crate::net;",
            ),
            (
                "src/torrent/swarm.rs",
                "/* crate::net::x /* nested */ */ const A: &str = \"crate::net::x\";",
            ),
            (
                "src/torrent/swarm.rs",
                "const A: &str = r#\"\" crate::net::x\"#; const Q: char = '\"'; ",
            ),
            (
                "src/torrent/swarm.rs",
                "mod inner { use super::super::wire; }",
            ),
            ("src/cli/get.rs", "use crate::{net, overlay, torrent};"),
            ("src/lib.rs", "pub use crate::net::os;"),
            (
                "src/route/mod.rs",
                "use hushswarm_circuits::target::Target; use crate::overlay;",
            ),
        ] {
            assert_eq!(
                imports(&[SourceFile::new(path, text)]),
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn a_runtime_in_a_codec_is_found() {
        assert!(finds(
            codecs,
            "src/torrent/wire.rs",
            "use tokio::io::AsyncRead;"
        ));
        assert!(finds(
            codecs,
            "src/torrent/metainfo/create.rs",
            "fn f() { tokio::spawn(x) }"
        ));
        assert!(finds(
            codecs,
            "src/torrent/picker.rs",
            "use crate::route::Outside;"
        ));
        assert!(!finds(
            codecs,
            "src/torrent/swarm.rs",
            "use tokio::io::AsyncRead;"
        ));
    }

    #[test]
    fn clocks_files_and_sockets_in_circuits_are_found() {
        let path = "circuits/src/link.rs";
        for path in ["src/krpc/lookup.rs", "src/bencode.rs"] {
            assert!(finds(sans_io, path, "fn f() { Instant::now(); }"), "{path}");
        }
        for text in [
            "fn f() { let now = Instant::now(); }",
            "use std::time::SystemTime; fn f() { std::time::SystemTime::now(); }",
            "use std::{fs::File, fmt};",
            "use tokio::time::Instant;",
            "use std::net::{IpAddr, UdpSocket};",
            "#[cfg(not(test))] fn f() { Instant::now(); }",
            "#[allow(clippy::disallowed_methods)] fn f() {}",
            "#[cfg(test)] mod tests { #![allow(clippy::disallowed_types)] }",
            "#[cfg(test)] mod tests { use tokio::io; }",
        ] {
            assert!(finds(sans_io, path, text), "{text}");
        }
        for text in [
            "use std::net::{IpAddr, SocketAddr}; use std::time::Instant;",
            "#[cfg(test)] mod tests { fn f(a: [u8; 2]) { Instant::now(); } }",
            "#[cfg(test)] #[allow(clippy::disallowed_methods)] fn epoch() -> I { Instant::now() }",
        ] {
            assert!(!finds(sans_io, path, text), "{text}");
        }
        assert!(!finds(
            sans_io,
            "circuits/src/link/tests.rs",
            "fn f() { Instant::now(); }"
        ));
    }

    #[test]
    fn a_second_socket_owner_is_found() {
        for text in [
            "use tokio::net::TcpStream;",
            "use std::net; fn f() { net::UdpSocket::bind(x); }",
            "fn f() { socket2::Socket::new(a, b, c); }",
            "fn f() { \"a:1\".to_socket_addrs(); }",
            "#![allow(clippy::disallowed_types)]",
            "#[expect(clippy::unwrap_used, clippy::disallowed_methods)] fn f() {}",
            "#![allow(clippy::all)]",
            "#[cfg_attr(unix, allow(clippy::style))] fn f() {}",
            "#[cfg(test)] mod tests { use std::net::TcpListener; }",
        ] {
            assert!(finds(one_socket_owner, "src/net/mod.rs", text), "{text}");
            assert!(!finds(one_socket_owner, SOCKET_OWNER, text));
        }
        let harmless =
            "//! A TcpStream.\nuse std::net::SocketAddr; fn all() { x.iter().all(allow) }";
        assert!(!finds(one_socket_owner, "src/net/mod.rs", harmless));
    }

    #[test]
    fn a_dialer_below_the_command_line_is_found() {
        let text = "use crate::net::os::OsDialer;";
        for path in [
            "src/socks/mod.rs",
            "src/jail/mod.rs",
            "src/route/gate.rs",
            "src/cli/get.rs",
            "src/cli/network/fetch.rs",
        ] {
            assert!(finds(one_dialer, path, text), "{path}");
        }
        let text = "use crate::tor::TorDialer;";
        assert!(finds(one_dialer, "src/cli/connect.rs", text));
        assert!(!finds(one_dialer, "src/cli/tor.rs", text));
        let text = "use crate::net::os::OsDialer;";
        assert!(!finds(one_dialer, "src/cli/connect.rs", text));
    }

    #[test]
    fn unsafe_direct_routes_and_long_files_are_found() {
        assert!(finds(no_unsafe, "tests/x.rs", "fn f() { unsafe { g() } }"));
        assert!(!finds(
            no_unsafe,
            "src/lib.rs",
            "#![forbid(unsafe_code)] // unsafe"
        ));
        assert!(finds(
            no_direct_route,
            "src/route/policy.rs",
            "enum Route { Direct(Target) }"
        ));
        assert!(finds(
            no_direct_route,
            "src/route/mod.rs",
            "fn direct_stream() {}"
        ));
        assert!(!finds(
            no_direct_route,
            "src/route/mod.rs",
            "//! There is no direct route."
        ));
        assert!(finds(
            file_lengths,
            "src/long.rs",
            &"\n".repeat(MAX_LINES + 1)
        ));
        assert!(!finds(file_lengths, "src/long.rs", &"\n".repeat(MAX_LINES)));
    }

    #[test]
    fn banned_packages_are_found_by_their_whole_name() {
        let tree = "tokio v1.54.1\ntokio-util v0.7.0\ntokio v1.54.1 (*)";
        assert_eq!(banned_packages(tree, &["tokio"]).len(), 2);
        assert_eq!(banned_packages(tree, &["mio"]), Vec::<String>::new());
    }
}
