//! What a client's settings would let out beside the proxy. Each check is pure: the text of a configuration file in, findings out.
//! The identifiers in brackets are those of the leak list.

use serde_json::Value;

use super::finding::{Danger, Finding};
use super::formats::{Ini, last_object, lines};

/// A client whose configuration file can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `qBittorrent.conf`
    QBittorrent,
    /// `settings.json`
    Transmission,
    /// `core.conf`
    Deluge,
    /// `aria2.conf`
    Aria2,
}

impl Client {
    /// All of them, with where the file lies below the home folder.
    pub const PLACES: [(Self, &'static str); 6] = [
        (Self::QBittorrent, ".config/qBittorrent/qBittorrent.conf"),
        (
            Self::Transmission,
            ".config/transmission-daemon/settings.json",
        ),
        (Self::Transmission, ".config/transmission/settings.json"),
        (Self::Deluge, ".config/deluge/core.conf"),
        (Self::Aria2, ".aria2/aria2.conf"),
        (Self::Aria2, ".config/aria2/aria2.conf"),
    ];

    /// Which client's file has this name.
    pub fn by_file_name(name: &str) -> Option<Self> {
        Self::PLACES.iter().find_map(|(client, path)| {
            let known = path.rsplit('/').next();
            (known == Some(name)).then_some(*client)
        })
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::QBittorrent => "qBittorrent",
            Self::Transmission => "Transmission",
            Self::Deluge => "Deluge",
            Self::Aria2 => "aria2",
        }
    }

    /// What the text of its file would let out.
    pub fn check(self, text: &str) -> Vec<Finding> {
        let mut found = Found {
            place: self.name(),
            findings: Vec::new(),
        };
        match self {
            Self::QBittorrent => qbittorrent(&mut found, &Ini::parse(text)),
            Self::Aria2 => aria2(&mut found, &lines(text)),
            Self::Transmission | Self::Deluge => match last_object(text) {
                Some(object) if self == Self::Deluge => deluge(&mut found, &object),
                Some(object) => transmission(&mut found, &object),
                None => found.add(
                    Danger::Broken,
                    "its settings file can't be read as JSON",
                    "stop the client, and mend or delete the file",
                ),
            },
        }
        if found.findings.is_empty() {
            found.findings.push(Finding::fine(
                self.name(),
                "its settings send everything that they can through the proxy",
            ));
        }
        found.findings
    }
}

/// Collects findings about one client.
struct Found {
    place: &'static str,
    findings: Vec<Finding>,
}

impl Found {
    fn add(&mut self, danger: Danger, what: &str, remedy: &str) {
        self.findings
            .push(Finding::new(danger, self.place, what, remedy));
    }

    fn leak_if(&mut self, leaks: bool, what: &str, remedy: &str) {
        if leaks {
            self.add(Danger::Leak, what, remedy);
        }
    }
}

fn is_loopback(text: &str) -> bool {
    text == "localhost"
        || text
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Of versions 4.4 to 5: later ones renamed nothing that is read here.
fn qbittorrent(found: &mut Found, ini: &Ini) {
    let session = |name: &str, default| ini.flag(&format!("BitTorrent/Session\\{name}"), default);
    let kind = ini.text("Network/Proxy\\Type").unwrap_or("None");
    // Old versions wrote numbers: 2 and 4 are SOCKS5 without and with a password.
    let socks = kind.starts_with("SOCKS5") || matches!(kind, "2" | "4");
    if !socks {
        found.add(
            Danger::Leak,
            "no SOCKS5 proxy is set: peers, trackers and DHT see your address (L01 to L05)",
            "Connection, Proxy Server: SOCKS5, 127.0.0.1, port 1080; or start it by: hushswarm run -- qbittorrent-nox",
        );
    } else {
        let host = ini.text("Network/Proxy\\IP").unwrap_or("0.0.0.0");
        found.leak_if(
            !is_loopback(host),
            "its proxy is not on this computer, so what it says to the proxy crosses the network in the clear",
            "Connection, Proxy Server: 127.0.0.1, port 1080",
        );
        found.leak_if(
            !session("ProxyPeerConnections", false),
            "peers are connected to directly, beside the proxy (L01, L02)",
            "Connection, Proxy Server: use proxy for peer connections",
        );
        found.leak_if(
            !ini.flag("Network/Proxy\\HostnameLookupEnabled", true),
            "names are looked up by your own resolver, not through the proxy (L06)",
            "Connection, Proxy Server: perform hostname lookup via proxy",
        );
        found.leak_if(
            ini.flag("Network/Proxy\\OnlyForTorrents", false),
            "RSS, search and updates go out beside the proxy (L28)",
            "Connection, Proxy Server: turn off \"use proxy only for torrents\"",
        );
        for (name, what) in [
            ("BitTorrent", "torrents go"),
            ("RSS", "feeds go"),
            ("Misc", "search, GeoIP and updates go"),
        ] {
            found.leak_if(
                !ini.flag(&format!("Network/Proxy\\Profiles\\{name}"), true),
                &format!("{what} out beside the proxy (L28)"),
                "Connection, Proxy Server: tick every \"use proxy for\"",
            );
        }
    }
    found.leak_if(
        session("DHTEnabled", true),
        "DHT is on: the names of its routers are looked up by your own resolver at each start, beside the proxy (L06)",
        "BitTorrent: turn DHT off; in hushswarm run it may be on",
    );
    found.leak_if(
        session("LSDEnabled", true),
        "local peer discovery calls out your infohashes in your network (L11)",
        "BitTorrent: turn local peer discovery off",
    );
    found.leak_if(
        ini.flag("Network/PortForwardingEnabled", true),
        "it asks your router to open a port (UPnP, NAT-PMP), where strangers then reach it (L12)",
        "Connection: turn off UPnP / NAT-PMP port forwarding",
    );
    let bound = ini.text("BitTorrent/Session\\InterfaceName") == Some("lo")
        || ini.text("BitTorrent/Session\\Interface") == Some("lo");
    found.leak_if(
        !bound,
        "it listens on all your addresses, IPv6 too, and answers strangers who ask for your torrents there (L10, L14)",
        "Advanced: network interface lo",
    );
    found.leak_if(
        !session("AnonymousModeEnabled", false),
        "anonymous mode is off: peers and trackers are told client, version and your listening port (L07, L08, L19)",
        "BitTorrent: turn anonymous mode on",
    );
    let address = ini.text("Preferences/WebUI\\Address").unwrap_or("*");
    found.leak_if(
        !is_loopback(address) && ini.flag("Preferences/WebUI\\Enabled", true),
        "its web page is open to other computers, and tells them what you load",
        "Web UI: IP address 127.0.0.1",
    );
    found.leak_if(
        ini.flag("Preferences/Advanced\\trackerEnabled", false)
            || ini.flag("BitTorrent/TrackerEnabled", false),
        "its embedded tracker is open to other computers",
        "Advanced: turn the embedded tracker off",
    );
    if session("PeXEnabled", true) {
        found.add(
            Danger::Note,
            "peer exchange is on: peers name others to it, whom it reaches through the proxy only if all else is right (L26)",
            "BitTorrent: turn PeX off, or use hushswarm run",
        );
    }
    if ini.flag("Preferences/Connection\\ResolvePeerCountries", true) {
        found.add(
            Danger::Note,
            "it fetches a country database from db-ip.com (L28)",
            "Advanced: turn \"resolve peer countries\" off",
        );
    }
}

fn transmission(found: &mut Found, json: &Value) {
    let flag = |name: &str, default| json[name].as_bool().unwrap_or(default);
    let proxied = json["proxy_url"]
        .as_str()
        .is_some_and(|url| !url.is_empty());
    let (what, remedy) = if proxied {
        (
            "its proxy_url is for web trackers alone: peers, DHT and UDP trackers see your address (L01, L02, L03, L05)",
            "start it by: hushswarm run --publish 9091 -- transmission-daemon --foreground",
        )
    } else {
        (
            "it knows no proxy for peers, so they see your address, and so do trackers and DHT (L01 to L05)",
            "start it by: hushswarm run --publish 9091 -- transmission-daemon --foreground",
        )
    };
    found.add(Danger::Leak, what, remedy);
    for (name, default, what, remedy) in [
        (
            "dht-enabled",
            true,
            "DHT is on, and goes out directly (L05)",
            "\"dht-enabled\": false",
        ),
        (
            "utp-enabled",
            true,
            "uTP is on, which torsocks can't carry (L02)",
            "\"utp-enabled\": false",
        ),
        (
            "lpd-enabled",
            false,
            "local peer discovery calls out your infohashes in your network (L11)",
            "\"lpd-enabled\": false",
        ),
        (
            "port-forwarding-enabled",
            true,
            "it asks your router to open a port (UPnP, NAT-PMP), where strangers then reach it (L12)",
            "\"port-forwarding-enabled\": false",
        ),
    ] {
        found.leak_if(flag(name, default), what, remedy);
    }
    for name in ["bind-address-ipv4", "bind-address-ipv6"] {
        let bound = json[name].as_str().unwrap_or("0.0.0.0");
        found.leak_if(
            !is_loopback(bound),
            &format!("{name} is no loopback address: it answers strangers there (L10, L14)"),
            &format!(
                "\"{name}\": {}",
                if name.ends_with('4') {
                    "\"127.0.0.1\""
                } else {
                    "\"::1\""
                }
            ),
        );
    }
    let control = json["rpc-bind-address"].as_str().unwrap_or("0.0.0.0");
    if flag("rpc-enabled", true) && !is_loopback(control) {
        found.add(
            Danger::Note,
            "its control port listens beyond loopback, kept only by its whitelist",
            "\"rpc-bind-address\": \"127.0.0.1\"",
        );
    }
    found.leak_if(
        flag("blocklist-enabled", false),
        "it fetches a block list directly (L28)",
        "\"blocklist-enabled\": false",
    );
}

fn deluge(found: &mut Found, json: &Value) {
    let proxy = &json["proxy"];
    // libtorrent's numbers: 2 and 3 are SOCKS5 without and with a password.
    let socks = matches!(proxy["type"].as_u64(), Some(2 | 3));
    if socks {
        found.leak_if(
            !is_loopback(proxy["hostname"].as_str().unwrap_or_default()),
            "its proxy is not on this computer, so what it says to the proxy crosses the network in the clear",
            "Preferences, Proxy: hostname 127.0.0.1",
        );
        for (name, what) in [
            (
                "proxy_peer_connections",
                "peers are connected to directly, beside the proxy (L01, L02)",
            ),
            (
                "proxy_tracker_connections",
                "trackers are asked directly, beside the proxy (L03, L04)",
            ),
            (
                "proxy_hostnames",
                "names are looked up by your own resolver (L06)",
            ),
        ] {
            found.leak_if(
                !proxy[name].as_bool().unwrap_or(true),
                what,
                "Preferences, Proxy: tick it",
            );
        }
        found.leak_if(
            !proxy["force_proxy"].as_bool().unwrap_or(false),
            "it goes out directly where the proxy can't be used (L15)",
            "Preferences, Proxy: force use of proxy",
        );
    } else {
        found.add(
            Danger::Leak,
            "no SOCKS5 proxy is set: peers, trackers and DHT see your address (L01 to L05)",
            "Preferences, Proxy: Socks5, 127.0.0.1, port 1080; or start it by: hushswarm run -- deluged --do-not-daemonize",
        );
    }
    found.leak_if(
        !proxy["anonymous_mode"].as_bool().unwrap_or(false),
        "anonymous mode is off: peers and trackers are told client, version and your listening port (L07, L08, L19)",
        "Preferences, Proxy: hide client identity",
    );
    for (name, what, remedy) in [
        (
            "dht",
            "DHT is on: the names of its routers are looked up by your own resolver (L06)",
            "Preferences, Network: turn DHT off",
        ),
        (
            "lsd",
            "local peer discovery calls out your infohashes in your network (L11)",
            "Preferences, Network: turn LSD off",
        ),
        (
            "upnp",
            "it asks your router to open a port, where strangers then reach it (L12)",
            "Preferences, Network: turn UPnP off",
        ),
        (
            "natpmp",
            "it asks your router to open a port, where strangers then reach it (L12)",
            "Preferences, Network: turn NAT-PMP off",
        ),
    ] {
        found.leak_if(json[name].as_bool().unwrap_or(true), what, remedy);
    }
    let bound = json["listen_interface"].as_str().unwrap_or_default();
    found.leak_if(
        !is_loopback(bound) && bound != "lo",
        "it listens on all your addresses, IPv6 too, and answers strangers there (L10, L14)",
        "Preferences, Network: incoming address 127.0.0.1",
    );
    for name in ["new_release_check", "send_info"] {
        if json[name].as_bool().unwrap_or(name == "new_release_check") {
            found.add(
                Danger::Leak,
                &format!("{name} is on: it tells Deluge's makers that you run it, directly (L28)"),
                "Preferences, Other: turn it off",
            );
        }
    }
    found.leak_if(
        json["allow_remote"].as_bool().unwrap_or(false),
        "its control port is open to other computers",
        "Preferences, Daemon: turn off \"allow remote connections\"",
    );
    if json["utpex"].as_bool().unwrap_or(true) {
        found.add(
            Danger::Note,
            "peer exchange is on: peers name others to it (L26)",
            "Preferences, Network: turn peer exchange off, or use hushswarm run",
        );
    }
}

fn aria2(found: &mut Found, conf: &Ini) {
    found.add(
        Danger::Leak,
        "it knows no proxy for torrents: their peers see your address (L01)",
        "start it by: hushswarm run -- aria2c; with \"hushswarm proxy\" fetch files from the web alone",
    );
    found.leak_if(
        conf.text("all-proxy").is_none(),
        "no proxy is set for files from the web",
        "all-proxy=http://127.0.0.1:1080",
    );
    for (name, default, what) in [
        ("enable-dht", true, "DHT is on, and goes out directly (L05)"),
        (
            "enable-dht6",
            false,
            "DHT over IPv6 is on, and goes out directly (L05, L14)",
        ),
        (
            "bt-enable-lpd",
            false,
            "local peer discovery calls out your infohashes in your network (L11)",
        ),
    ] {
        found.leak_if(conf.flag(name, default), what, &format!("{name}=false"));
    }
    found.leak_if(
        conf.flag("async-dns", true),
        "it looks names up by a resolver of its own, which torsocks does not catch (L06)",
        "async-dns=false",
    );
    let bound = conf.text("interface").unwrap_or_default();
    found.leak_if(
        !is_loopback(bound) && bound != "lo",
        "it listens on all your addresses and answers strangers there (L10)",
        "interface=127.0.0.1",
    );
    found.leak_if(
        conf.flag("rpc-listen-all", false),
        "its control port is open to other computers",
        "rpc-listen-all=false",
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Client; 4] = [
        Client::QBittorrent,
        Client::Transmission,
        Client::Deluge,
        Client::Aria2,
    ];

    fn leaks(client: Client, text: &str) -> Vec<String> {
        let findings = client.check(text).into_iter();
        findings
            .filter(|finding| finding.danger == Danger::Leak)
            .map(|finding| finding.what)
            .collect()
    }

    /// Every setting that is safe where the page says so becomes a leak when it is turned round.
    #[test]
    fn each_unsafe_setting_of_qbittorrent_is_named() {
        let safe = [
            (
                "BitTorrent",
                "Session\\AnonymousModeEnabled=true",
                "=false",
                "L19",
            ),
            ("BitTorrent", "Session\\DHTEnabled=false", "=true", "DHT"),
            ("BitTorrent", "Session\\LSDEnabled=false", "=true", "L11"),
            ("BitTorrent", "Session\\Interface=lo", "=eth0", "L10"),
            (
                "BitTorrent",
                "Session\\ProxyPeerConnections=true",
                "=false",
                "L01",
            ),
            ("Network", "PortForwardingEnabled=false", "=true", "L12"),
            ("Network", "Proxy\\Type=SOCKS5", "=None", "no SOCKS5"),
            (
                "Network",
                "Proxy\\IP=127.0.0.1",
                "=192.0.2.1",
                "in the clear",
            ),
            (
                "Network",
                "Proxy\\HostnameLookupEnabled=true",
                "=false",
                "L06",
            ),
            ("Network", "Proxy\\OnlyForTorrents=false", "=true", "L28"),
            ("Preferences", "WebUI\\Address=127.0.0.1", "=*", "web page"),
        ];
        let file = |turned: Option<usize>| {
            let lines = safe
                .iter()
                .enumerate()
                .map(|(at, (section, line, other, _))| {
                    let (key, _) = line.split_once('=').unwrap();
                    let line = if turned == Some(at) {
                        format!("{key}{other}")
                    } else {
                        (*line).to_owned()
                    };
                    format!("[{section}]\n{line}\n")
                });
            lines.collect::<String>()
        };
        assert_eq!(
            leaks(Client::QBittorrent, &file(None)),
            Vec::<String>::new()
        );
        for (at, (_, line, _, expected)) in safe.iter().enumerate() {
            let found = leaks(Client::QBittorrent, &file(Some(at)));
            assert!(
                found.iter().any(|what| what.contains(expected)),
                "{line}: {found:?}"
            );
        }
        // What a new installation has: nothing is set, so everything leaks.
        assert!(leaks(Client::QBittorrent, "").len() >= 6);
    }

    #[test]
    fn a_file_is_known_by_its_name() {
        assert_eq!(Client::by_file_name("core.conf"), Some(Client::Deluge));
        assert_eq!(Client::by_file_name("x.conf"), None);
    }

    #[test]
    fn a_file_that_is_no_json_is_broken() {
        let found = Client::Transmission.check("{");
        assert_eq!(found[0].danger, Danger::Broken);
    }

    proptest! {
        #[test]
        fn any_file_is_taken_and_something_is_said(text in ".{0,300}", json in "[\\[\\]{}:,\"a-z0-9]{0,60}") {
            for client in ALL {
                prop_assert!(!client.check(&text).is_empty());
                prop_assert!(!client.check(&json).is_empty());
            }
        }
    }
}
