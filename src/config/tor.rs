//! The Tor file: bridges and pluggable transports, and for tests a Tor network of one's own. Without one, the public
//! network is reached directly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE64_NOPAD, HEXUPPER_PERMISSIVE};
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Source, config_folder, read_text};
use crate::error::Error;

/// Name of the Tor file in the configuration folder.
pub const TOR_FILE: &str = "tor.toml";
/// Longest Tor file, bytes: a hundred bridge lines.
pub const MAX_TOR_FILE_LEN: usize = 64 << 10;
/// Longest time after which Tor rests: a day.
const MAX_DORMANT_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Most entries of each kind.
const MAX_ENTRIES: usize = 64;

/// A Tor file, read and checked. The default is what holds without one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TorFile {
    /// Bridges. With any, nothing else is connected to.
    pub bridges: Vec<TorBridge>,
    /// Programs that disguise the connection to a bridge.
    pub transports: Vec<PluggableTransport>,
    /// How circuits of onion services and to them are guarded; `None` leaves it to the command.
    pub vanguards: Option<Vanguards>,
    /// After how long without anything open Tor rests; `None` is the usual time.
    pub dormant_after: Option<Duration>,
    /// A Tor network of one's own, instead of the public one.
    pub network: Option<OwnTorNetwork>,
}

/// A relay that is in no directory, for those who can't reach Tor's others, or don't want to be seen reaching them.
#[derive(Clone, PartialEq, Eq)]
pub struct TorBridge {
    /// Its line, as `BridgeDB` and Tor Browser give it.
    pub line: String,
    /// The pluggable transport that leads to it; `None` where it is connected to as relays are.
    pub transport: Option<String>,
    /// Where it listens. Behind a transport it may be no address, or a made-up one.
    pub address: Option<SocketAddr>,
}

/// How the second and third relays of onion circuits are chosen (Tor's vanguards-spec): who could choose freely would sooner
/// or later choose those of an adversary, who then finds the guard, and at last the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vanguards {
    /// Freely: for test networks alone.
    Off,
    /// The second relay from few that are kept for days.
    Lite,
    /// The second and the third, which makes circuits one relay longer: for onion services that stay up long.
    Full,
}

/// A program that disguises the connection to a bridge (Tor's pt-spec).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluggableTransport {
    /// Names in bridge lines that it serves: `obfs4`.
    pub protocols: Vec<String>,
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A Tor network of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTorNetwork {
    /// SHA-1 digests of the directory authorities' identity keys.
    pub authorities: Vec<[u8; 20]>,
    /// Where its directory is fetched first.
    pub fallbacks: Vec<TorFallback>,
    /// Parameters that hold whatever its consensus says.
    pub params: BTreeMap<String, i32>,
}

/// A relay whose directory is asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorFallback {
    /// SHA-1 digest of its RSA identity key.
    pub rsa: [u8; 20],
    /// Its Ed25519 identity.
    pub ed25519: [u8; 32],
    /// Its OR port.
    pub address: SocketAddr,
}

impl std::fmt::Debug for TorFile {
    /// How many of each: a bridge's address is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorFile")
            .field("bridges", &self.bridges.len())
            .field("transports", &self.transports.len())
            .field("vanguards", &self.vanguards)
            .field("dormant_after", &self.dormant_after)
            .field("own_network", &self.network.is_some())
            .finish()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(default)]
    bridges: Vec<Spanned<String>>,
    #[serde(default)]
    transport: Vec<Spanned<ReadTransport>>,
    vanguards: Option<Spanned<Vanguards>>,
    dormant_after_seconds: Option<Spanned<u64>>,
    network: Option<Spanned<ReadNetwork>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadTransport {
    protocols: Vec<String>,
    path: PathBuf,
    #[serde(default)]
    arguments: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadNetwork {
    authorities: Vec<Spanned<String>>,
    fallback: Vec<Spanned<ReadFallback>>,
    #[serde(default)]
    params: BTreeMap<String, i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadFallback {
    rsa: String,
    ed25519: String,
    address: SocketAddr,
}

impl TorFile {
    /// Reads `named`, or the file at its usual place where nothing was named; no file there means [`TorFile::default`].
    ///
    /// # Errors
    /// A file that was named is not there, or an entry is wrong: tell the user; guess nothing.
    pub fn load(named: Option<&Path>) -> Result<Self, Error> {
        let usual = || config_folder().map(|folder| folder.join(TOR_FILE));
        let path = match named {
            Some(path) => path.to_owned(),
            None => match usual().filter(|path| path.symlink_metadata().is_ok()) {
                Some(path) => path,
                None => return Ok(Self::default()),
            },
        };
        let text = read_text(&path, MAX_TOR_FILE_LEN)?;
        Ok(Self::parse(&text, &path)?)
    }

    /// Reads the text of a Tor file; `path` is for errors.
    ///
    /// # Errors
    /// An entry is wrong: the error says which line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let read: Read = source.parse()?;
        let mut file = Self::default();
        if let Some(beyond) = read.bridges.get(MAX_ENTRIES) {
            return Err(source.error_at(beyond, format!("more than {MAX_ENTRIES} bridges")));
        }
        if let Some(beyond) = read.transport.get(MAX_ENTRIES) {
            return Err(source.error_at(beyond, format!("more than {MAX_ENTRIES} transports")));
        }
        for entry in &read.transport {
            file.transports.push(transport(&source, entry)?);
        }
        for entry in &read.bridges {
            let bridge = bridge(&source, entry)?;
            let served = |name| {
                file.transports
                    .iter()
                    .any(|one| one.protocols.contains(name))
            };
            if let Some(name) = bridge.transport.as_ref().filter(|name| !served(name)) {
                let what = format!(
                    "no [[transport]] serves {name:?}: add one, with protocols = [{name:?}] and the path of its program"
                );
                return Err(source.error_at(entry, what));
            }
            file.bridges.push(bridge);
        }
        if let Some(vanguards) = &read.vanguards {
            if *vanguards.get_ref() == Vanguards::Off && read.network.is_none() {
                let what = "vanguards are \"lite\" or \"full\": without them onion services and who visits them are found";
                return Err(source.error_at(vanguards, what));
            }
            file.vanguards = Some(*vanguards.get_ref());
        }
        if let Some(seconds) = &read.dormant_after_seconds {
            let after = Duration::from_secs(*seconds.get_ref());
            if after.is_zero() || after > MAX_DORMANT_AFTER {
                let most = MAX_DORMANT_AFTER.as_secs();
                return Err(source.error_at(seconds, format!("this is 1 to {most} seconds")));
            }
            file.dormant_after = Some(after);
        }
        if let Some(network) = &read.network {
            file.network = Some(own_network(&source, network)?);
        }
        Ok(file)
    }
}

fn bridge(source: &Source<'_>, entry: &Spanned<String>) -> Result<TorBridge, ConfigError> {
    let line = entry.get_ref().trim();
    let wrong = || {
        let what = "a bridge is one line, as in \"obfs4 192.0.2.1:443 FINGERPRINT cert=...\"";
        source.error_at(entry, what)
    };
    if line.contains(char::is_control) {
        return Err(wrong());
    }
    let mut words = line.split(' ').filter(|word| !word.is_empty()).peekable();
    // As it stands in a torrc.
    words.next_if(|word| word.eq_ignore_ascii_case("bridge"));
    let first = words.next().ok_or_else(wrong)?;
    let (transport, address) = match first.parse() {
        Ok(address) => (None, Some(address)),
        Err(_) => {
            let address = words.next().ok_or_else(wrong)?;
            (Some(first.to_owned()), address.parse().ok())
        }
    };
    Ok(TorBridge {
        line: line.to_owned(),
        transport,
        address,
    })
}

fn transport(
    source: &Source<'_>,
    entry: &Spanned<ReadTransport>,
) -> Result<PluggableTransport, ConfigError> {
    let read = entry.get_ref();
    let is_name = |name: &String| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if read.protocols.is_empty() || !read.protocols.iter().all(is_name) {
        return Err(source.error_at(entry, "protocols are names as in bridge lines: [\"obfs4\"]"));
    }
    if !read.path.is_absolute() {
        return Err(source.error_at(
            entry,
            "path is a program's whole path: \"/usr/bin/obfs4proxy\"",
        ));
    }
    // Tor's library would wait for it without a word.
    if !read.path.is_file() {
        return Err(source.error_at(
            entry,
            "there is no program at this path: install it, or correct the path",
        ));
    }
    Ok(PluggableTransport {
        protocols: read.protocols.clone(),
        path: read.path.clone(),
        arguments: read.arguments.clone(),
    })
}

fn own_network(
    source: &Source<'_>,
    entry: &Spanned<ReadNetwork>,
) -> Result<OwnTorNetwork, ConfigError> {
    let read = entry.get_ref();
    if read.authorities.is_empty() || read.fallback.is_empty() {
        return Err(source.error_at(
            entry,
            "a Tor network of your own needs authorities and fallbacks, both",
        ));
    }
    if read.authorities.len() > MAX_ENTRIES || read.fallback.len() > MAX_ENTRIES {
        let what = format!("more than {MAX_ENTRIES} authorities or fallbacks");
        return Err(source.error_at(entry, what));
    }
    let authorities = read.authorities.iter().map(|hex| {
        let wrong = || source.error_at(hex, "an authority is 40 hexadecimal digits");
        digest(hex.get_ref()).ok_or_else(wrong)
    });
    let fallbacks = read.fallback.iter().map(|entry| {
        let read = entry.get_ref();
        let wrong = || {
            source.error_at(
                entry,
                "a fallback has rsa (40 hexadecimal digits) and ed25519 (43 characters of base64)",
            )
        };
        let ed25519 = BASE64_NOPAD.decode(read.ed25519.as_bytes()).ok();
        let ed25519 = ed25519.and_then(|bytes| bytes.try_into().ok());
        Ok(TorFallback {
            rsa: digest(&read.rsa).ok_or_else(wrong)?,
            ed25519: ed25519.ok_or_else(wrong)?,
            address: read.address,
        })
    });
    Ok(OwnTorNetwork {
        authorities: authorities.collect::<Result<_, _>>()?,
        fallbacks: fallbacks.collect::<Result<_, _>>()?,
        params: read.params.clone(),
    })
}

fn digest(hex: &str) -> Option<[u8; 20]> {
    let bytes = HEXUPPER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<TorFile, String> {
        TorFile::parse(text, Path::new("tor.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn bridges_transports_and_a_network_are_read() {
        let text = r#"
            bridges = [
                "obfs4 192.0.2.1:443 0123456789012345678901234567890123456789 cert=x iat-mode=0",
                "Bridge [2001:db8::1]:9001 0123456789012345678901234567890123456789",
            ]
            vanguards = "full"
            dormant_after_seconds = 5
            [[transport]]
            protocols = ["obfs4"]
            path = "/bin/sh"
            [network]
            authorities = ["00112233445566778899AABBCCDDEEFF00112233"]
            [[network.fallback]]
            rsa = "00112233445566778899aabbccddeeff00112233"
            ed25519 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
            address = "127.0.0.1:9001"
            [network.params]
            hsdir_interval = 12
        "#;
        let file = parse(text).unwrap();
        assert_eq!(file.bridges[0].transport.as_deref(), Some("obfs4"));
        assert_eq!(file.bridges[1].transport, None);
        let addresses = file.bridges.iter().map(|bridge| bridge.address.unwrap());
        let addresses: Vec<_> = addresses.map(|address| address.to_string()).collect();
        assert_eq!(addresses, ["192.0.2.1:443", "[2001:db8::1]:9001"]);
        assert_eq!(file.vanguards, Some(Vanguards::Full));
        assert_eq!(file.dormant_after, Some(Duration::from_secs(5)));
        assert_eq!(file.transports[0].protocols, ["obfs4"]);
        let network = file.network.as_ref().unwrap();
        assert_eq!(network.authorities[0], network.fallbacks[0].rsa);
        assert_eq!(network.fallbacks[0].ed25519, [0; 32]);
        assert_eq!(network.params["hsdir_interval"], 12);
        assert!(!format!("{file:?}").contains("192.0.2.1"));
        assert_eq!(parse("").unwrap(), TorFile::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, what) in [
            ("bridge = []", "line 1"),
            ("bridges = [\"\"]", "one line"),
            ("bridges = [\"obfs4\"]", "one line"),
            (
                "\nbridges = [\"obfs4 192.0.2.1:443 01\"]",
                "no [[transport]] serves",
            ),
            ("vanguards = \"off\"", "lite"),
            ("vanguards = \"none\"", "line 1"),
            ("dormant_after_seconds = 0", "1 to"),
            (
                "\n[[transport]]\nprotocols = []\npath = \"/bin/sh\"",
                "line 2",
            ),
            (
                "[[transport]]\nprotocols = [\"obfs4\"]\npath = \"obfs4proxy\"",
                "whole path",
            ),
            (
                "[[transport]]\nprotocols = [\"obfs4\"]\npath = \"/nowhere/obfs4\"",
                "no program",
            ),
            ("[network]\nauthorities = []\nfallback = []", "both"),
            (
                "[network]\nauthorities = [\"12\"]\n[[network.fallback]]\nrsa = \"\"\ned25519 = \"\"\naddress = \"127.0.0.1:1\"",
                "40 hex",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
