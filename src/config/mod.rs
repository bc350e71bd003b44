//! Configuration files: which network to trust, and how a relay runs. Strict: an unknown or wrong entry is an error
//! that says where it is, because a setting that is silently ignored is a setting that does not protect.

mod dht;
mod lookups;
mod meetings;
mod network;
mod relay;
mod routes;
mod tor;

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use hushswarm_circuits::keys::RelayId;

use crate::error::{Error, Exit};

pub use dht::{DhtLimits, MAX_BOOTSTRAPS, RelayDht, USUAL_BOOTSTRAPS, bootstrap};
pub use lookups::{LookupConfig, LookupLimits};
pub use meetings::MeetingLimits;
pub use network::NetworkFile;
pub use relay::{
    DEFAULT_DESCRIPTOR_DAYS, LINK_SERVICE_PORT, MAX_RELAY_FILE_LEN, RELAY_CONFIG_FILE, RelayConfig,
    RelayLimits,
};

pub use routes::{
    FirstLink, HostPattern, MAX_ROUTE_PATTERNS, MAX_ROUTE_RULES, MAX_ROUTES_LEN, ROUTES_EXAMPLE,
    ROUTES_FILE, RouteAction, RouteRule, Routes, USUAL_REFUSED_PORTS,
};

pub use tor::{
    MAX_TOR_FILE_LEN, OwnTorNetwork, PluggableTransport, TOR_FILE, TorBridge, TorFallback, TorFile,
    Vanguards,
};

/// The folder of configuration files: `$XDG_CONFIG_HOME/hushswarm` or `~/.config/hushswarm`; `None` where the
/// environment names no home.
pub fn config_folder() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".config"),
    };
    Some(base.join("hushswarm"))
}

/// A limit as it is written here: at least 1.
pub const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// Seconds since 1970. A clock before that counts as 0, at which no relay list is valid.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A public key as people write it: 64 hexadecimal digits, lower case.
pub fn id_to_hex(id: &RelayId) -> String {
    HEXLOWER.encode(&id.0)
}

/// Reads a public key from 64 hexadecimal digits of either case.
pub fn id_from_hex(text: &str) -> Option<RelayId> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok().map(RelayId)
}

/// What is wrong in a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {what}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct ConfigError {
    path: PathBuf,
    line: Option<usize>,
    what: String,
    hint: Option<&'static str>,
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        let out = Self::local(error.to_string());
        match error.hint {
            Some(hint) => out.with_hint(hint),
            None => out,
        }
    }
}

/// A text under its file name, to make errors from places in it.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let what = without_texts(error.message().trim()).replace('\n', ", ");
            ConfigError {
                line: error.span().map(|span| self.line(&span)),
                ..self.error(what)
            }
        })
    }

    fn error(&self, what: impl Into<String>) -> ConfigError {
        ConfigError {
            path: self.path.to_owned(),
            line: None,
            what: what.into(),
            hint: None,
        }
    }

    fn error_at<T>(&self, place: &toml::Spanned<T>, what: impl Into<String>) -> ConfigError {
        ConfigError {
            line: Some(self.line(&place.span())),
            ..self.error(what)
        }
    }

    /// The line of a byte range, from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self
            .text
            .as_bytes()
            .get(..span.start)
            .unwrap_or(self.text.as_bytes());
        before
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
            .saturating_add(1)
    }
}

/// A message without the texts of the file that it repeats: a host there may be what somebody visits.
fn without_texts(message: &str) -> String {
    let mut parts = message.splitn(2, "string \"");
    let (before, Some(rest)) = (parts.next().unwrap_or_default(), parts.next()) else {
        return message.to_owned();
    };
    let after = rest.rsplit_once('"').map_or("", |(_, after)| after);
    format!("{before}a text{after}")
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// It is not there, larger, or can't be read: tell the user.
pub fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let fail = |error: io::Error| {
        Error::local(format!("can't read {}", path.display()))
            .with_exit(Exit::Disk)
            .with_source(error)
    };
    let mut content = Vec::new();
    let one_more = (limit as u64).saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(one_more).read_to_end(&mut content))
        .map_err(fail)?;
    if content.len() > limit {
        let what = format!(
            "{} is too large: at most {limit} bytes are expected",
            path.display()
        );
        return Err(Error::local(what).with_exit(Exit::Disk));
    }
    Ok(content)
}

fn read_text(path: &Path, limit: usize) -> Result<String, Error> {
    String::from_utf8(read_file(path, limit)?).map_err(|_| {
        let what = format!("{} is not a text file", path.display());
        Error::local(what).with_exit(Exit::Disk)
    })
}

#[cfg(test)]
mod tests;
