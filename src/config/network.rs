//! The network file: the name of a network, whom to trust for its relay list, and where that list is.

use std::path::{Path, PathBuf};

use hushswarm_circuits::keys::RelayId;
use hushswarm_circuits::path::PathRules;
use hushswarm_circuits::relay_list::{
    MAX_LIST_LEN, MAX_SIGNATURES, RelayList, Trust, check_network_name,
};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{ConfigError, Source, id_from_hex, id_to_hex, read_file, read_text};
use crate::error::{Error, Exit};

/// Longest network file, bytes: 32 authorities with comments are below 4 KiB.
const MAX_FILE_LEN: usize = 64 << 10;

const MAKE_ONE: &str =
    "name a network file with --network FILE, or make one with \"hushswarm network file\"";

/// A network file, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    /// The network's name.
    pub name: String,
    /// Keys of its authorities, each once.
    pub authorities: Vec<RelayId>,
    /// How many of them must have signed the relay list; 1 to their number.
    pub threshold: usize,
    /// Where the relay list is; from [`NetworkFile::parse`] on relative to the network file's folder.
    pub list: PathBuf,
    /// How far apart relays of a path must be.
    pub rules: PathRules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    name: Spanned<String>,
    authorities: Spanned<Vec<Spanned<String>>>,
    threshold: Spanned<usize>,
    list: Spanned<PathBuf>,
    ipv4_prefix: Option<Spanned<u8>>,
    ipv6_prefix: Option<Spanned<u8>>,
}

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    authorities: Vec<String>,
    threshold: usize,
    list: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4_prefix: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6_prefix: Option<u8>,
}

impl NetworkFile {
    /// Reads a network file, and the relay list that it names, at the time `now` (seconds since 1970).
    ///
    /// # Errors
    /// Either can't be read or trusted: tell the user; there is nothing to go on with.
    pub fn load(path: &Path, now: u64) -> Result<(Self, RelayList), Error> {
        let file = Self::load_file(path)?;
        let list = file.load_list(now)?;
        Ok((file, list))
    }

    /// Reads a network file without its list. A relative path of the list is resolved from the file's folder.
    ///
    /// # Errors
    /// It can't be read, or an entry is wrong: tell the user.
    pub fn load_file(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            let what = format!("there is no network file {}", path.display());
            return Err(Error::local(what)
                .with_hint(MAKE_ONE)
                .with_exit(Exit::NoNetwork));
        }
        let text =
            read_text(path, MAX_FILE_LEN).map_err(|error| error.with_exit(Exit::NoNetwork))?;
        let mut file = Self::parse(&text, path)
            .map_err(|error| Error::from(error).with_exit(Exit::NoNetwork))?;
        if let Some(folder) = path.parent() {
            file.list = folder.join(&file.list);
        }
        Ok(file)
    }

    /// Reads and checks the relay list.
    ///
    /// # Errors
    /// It can't be read, or not be trusted: tell the user.
    pub fn load_list(&self, now: u64) -> Result<RelayList, Error> {
        let bytes = read_file(&self.list, MAX_LIST_LEN).map_err(|error| {
            error
                .with_hint("get the network's newest relay list and put it there")
                .with_exit(Exit::NoNetwork)
        })?;
        RelayList::decode_verified(&bytes, &self.trust(), now).map_err(|error| {
            let what = format!("the relay list {} is refused", self.list.display());
            let out = Error::local(what).with_exit(Exit::NoNetwork);
            match error.hint() {
                Some(hint) => out.with_hint(hint).with_source(error),
                None => out.with_source(error),
            }
        })
    }

    /// Reads the text of a network file; `path` is for errors.
    ///
    /// # Errors
    /// An entry is wrong: the error says which line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let read: Read = source.parse()?;
        check_network_name(read.name.get_ref())
            .map_err(|error| source.error_at(&read.name, error.to_string()))?;
        let mut authorities = Vec::new();
        for hex in read.authorities.get_ref() {
            let id = id_from_hex(hex.get_ref()).ok_or_else(|| {
                source.error_at(hex, "an authority is a public key of 64 hexadecimal digits")
            })?;
            if authorities.contains(&id) {
                return Err(source.error_at(hex, "an authority is named twice"));
            }
            authorities.push(id);
        }
        if !(1..=MAX_SIGNATURES).contains(&authorities.len()) {
            let what = format!("a network has 1 to {MAX_SIGNATURES} authorities");
            return Err(source.error_at(&read.authorities, what));
        }
        let threshold = *read.threshold.get_ref();
        if !(1..=authorities.len()).contains(&threshold) {
            let what = format!(
                "threshold must be 1 to {}, the number of authorities",
                authorities.len()
            );
            return Err(source.error_at(&read.threshold, what));
        }
        if read.list.get_ref().as_os_str().is_empty() {
            return Err(source.error_at(&read.list, "list must name the file with the relay list"));
        }
        let prefix = |entry: Option<Spanned<u8>>, name, default, most| match entry {
            None => Ok(default),
            Some(entry) if *entry.get_ref() <= most => Ok(entry.into_inner()),
            Some(entry) => Err(source.error_at(&entry, format!("{name} must be 0 to {most}"))),
        };
        let usual = PathRules::default();
        Ok(Self {
            rules: PathRules {
                ipv4_prefix: prefix(read.ipv4_prefix, "ipv4_prefix", usual.ipv4_prefix, 32)?,
                ipv6_prefix: prefix(read.ipv6_prefix, "ipv6_prefix", usual.ipv6_prefix, 128)?,
            },
            name: read.name.into_inner(),
            authorities,
            threshold,
            list: read.list.into_inner(),
        })
    }

    /// The file's text. Path rules that are as usual are left out.
    ///
    /// # Errors
    /// The path of the list is not text: choose another.
    pub fn to_toml(&self) -> Result<String, Error> {
        let usual = PathRules::default();
        let unusual = |value: u8, usual: u8| (value != usual).then_some(value);
        let written = Written {
            name: &self.name,
            authorities: self.authorities.iter().map(id_to_hex).collect(),
            threshold: self.threshold,
            list: &self.list,
            ipv4_prefix: unusual(self.rules.ipv4_prefix, usual.ipv4_prefix),
            ipv6_prefix: unusual(self.rules.ipv6_prefix, usual.ipv6_prefix),
        };
        toml::to_string(&written)
            .map_err(|error| Error::local("can't write the network file").with_source(error))
    }

    /// Whose lists are taken.
    pub fn trust(&self) -> Trust {
        Trust {
            network: self.name.clone(),
            authorities: self.authorities.clone(),
            threshold: self.threshold,
        }
    }
}
