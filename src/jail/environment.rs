//! The environment of a jailed program: without what leads to services outside or tells where the user is, and with the proxy.

use std::ffi::{OsStr, OsString};

/// Variables that name sockets, displays, agents and addresses outside.
const REMOVED: &[&str] = &[
    "DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "XDG_SESSION_ID",
    "SESSION_MANAGER",
    "ICEAUTHORITY",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "GPG_AGENT_INFO",
    "GNOME_KEYRING_CONTROL",
    "KRB5CCNAME",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "REMOTEHOST",
    "HOSTNAME",
    // They change how names are looked up.
    "RES_OPTIONS",
    "LOCALDOMAIN",
    "HOSTALIASES",
    "RESOLV_HOST_CONF",
];
/// Beginnings of such names: `SSH_CLIENT` holds the user's address.
const REMOVED_BEGINNINGS: &[&str] = &["DBUS_", "SSH_", "WAYLAND_", "PULSE_", "PIPEWIRE_"];

/// Programs that know SOCKS send names, not addresses, with `socks5h`.
const SOCKS: &str = "socks5h://127.0.0.1:1080";
const HTTP: &str = "http://127.0.0.1:1080";
const HERE: &str = "localhost,127.0.0.1,::1";
const SET: &[(&str, &str)] = &[
    ("ALL_PROXY", SOCKS),
    ("all_proxy", SOCKS),
    ("HTTP_PROXY", HTTP),
    ("http_proxy", HTTP),
    ("HTTPS_PROXY", HTTP),
    ("https_proxy", HTTP),
    ("NO_PROXY", HERE),
    ("no_proxy", HERE),
];

/// The environment inside, made of the one outside.
pub fn inside(
    outside: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let kept = outside.into_iter().filter(|(name, _)| stays(name));
    let set = SET
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    kept.chain(set).collect()
}

fn stays(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let upper = name.to_ascii_uppercase();
    let proxy = upper.ends_with("_PROXY");
    !(proxy
        || REMOVED.contains(&upper.as_str())
        || REMOVED_BEGINNINGS
            .iter()
            .any(|beginning| upper.starts_with(beginning)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_outside_is_gone_and_the_proxy_is_set() {
        let outside = [
            ("PATH", "/usr/bin"),
            ("SSH_CLIENT", "203.0.113.9 4444 22"),
            ("SSH_AUTH_SOCK", "/tmp/x"),
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus"),
            ("WAYLAND_DISPLAY", "wayland-0"),
            ("DISPLAY", ":0"),
            ("XDG_RUNTIME_DIR", "/run/user/0"),
            ("ftp_proxy", "http://192.0.2.1"),
            ("all_proxy", "http://192.0.2.1"),
            ("HOME", "/root"),
        ];
        let outside = outside.map(|(name, value)| (name.into(), value.into()));
        let inside = inside(outside);
        let value = |name: &str| {
            let found: Vec<_> = inside.iter().filter(|(n, _)| n == name).collect();
            assert!(found.len() < 2, "{name} twice");
            found.first().map(|(_, value)| value.to_str().unwrap())
        };
        assert_eq!(value("PATH"), Some("/usr/bin"));
        assert_eq!(value("HOME"), Some("/root"));
        assert_eq!(value("all_proxy"), Some(SOCKS));
        assert_eq!(value("HTTPS_PROXY"), Some(HTTP));
        let ours = SET.len() + 2;
        assert_eq!(inside.len(), ours, "{inside:?}");
    }
}
