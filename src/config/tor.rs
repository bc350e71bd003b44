//! The Tor file: bridges and pluggable transports, and for tests a Tor network of one's own. Without one, the public
//! network is reached directly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64_NOPAD, HEXUPPER_PERMISSIVE};
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Source, config_folder, read_text};
use crate::error::Error;

/// Name of the Tor file in the configuration folder.
pub const TOR_FILE: &str = "tor.toml";
/// Longest Tor file, bytes: a hundred bridge lines.
pub const MAX_TOR_FILE_LEN: usize = 64 << 10;
/// Most entries of each kind.
const MAX_ENTRIES: usize = 64;

/// A Tor file, read and checked. The default is what holds without one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TorFile {
    /// Bridge lines, as `BridgeDB` and Tor Browser give them. With any, nothing else is connected to first.
    pub bridges: Vec<String>,
    /// Programs that disguise the connection to a bridge.
    pub transports: Vec<PluggableTransport>,
    /// A Tor network of one's own, instead of the public one.
    pub network: Option<OwnTorNetwork>,
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
        for bridge in &read.bridges {
            let line = bridge.get_ref().trim();
            if line.is_empty() || line.contains(char::is_control) {
                let what =
                    "a bridge is one line, as in \"obfs4 192.0.2.1:443 FINGERPRINT cert=...\"";
                return Err(source.error_at(bridge, what));
            }
            file.bridges.push(line.to_owned());
        }
        if let Some(beyond) = read.transport.get(MAX_ENTRIES) {
            return Err(source.error_at(beyond, format!("more than {MAX_ENTRIES} transports")));
        }
        for entry in &read.transport {
            file.transports.push(transport(&source, entry)?);
        }
        if let Some(network) = &read.network {
            file.network = Some(own_network(&source, network)?);
        }
        Ok(file)
    }
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
            bridges = ["obfs4 192.0.2.1:443 0123456789012345678901234567890123456789 cert=x iat-mode=0"]
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
        assert_eq!(file.bridges.len(), 1);
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
