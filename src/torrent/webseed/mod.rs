//! Web seeds (BEP 19, BEP 17): servers that have a torrent's content, asked through circuits.
//!
//! [`place`] says what to ask for, [`head`] what an answer is worth, both without input and output; [`WebClient`] asks. It is given
//! streams by [`crate::route::Outside`]. What a server sends is worth as much as what a peer sends: pieces are checked by their hashes.

mod client;
pub mod head;
pub mod place;

use std::time::Duration;

pub use client::{Body, Patience, WebClient};

use super::tracker::AnnounceError;
use crate::route::RouteError;

/// Why a web seed did not give what it was asked for. No variant holds an address or a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// It does not have this file, or has one of another length: ask for others.
    #[error("the web seed does not have a file of the torrent")]
    Missing,
    /// It gives files as a whole alone, and this one is too large for that: ask for others.
    #[error("the web seed can't give a part of a file")]
    NoRanges,
    /// It gives something else than was asked for: ask another.
    #[error("the web seed's answer is malformed")]
    Malformed,
    /// It compresses what it was asked to give as it is: ask another.
    #[error("the web seed compresses what it sends")]
    Encoded,
    /// An HTTP status that says nothing of the file: try again later.
    #[error("the web seed answered with HTTP status {0}")]
    Status(u16),
    /// It has too much to do: try again after this time, where it said one.
    #[error("the web seed has too much to do")]
    Busy(Option<Duration>),
    /// More redirects than allowed, or one to nowhere, or from HTTPS to HTTP.
    #[error("the web seed redirects in a way that is not followed")]
    Redirect,
    /// Its URL, or one that it redirects to, leads to a private address, or to no host at all (L49): never ask it again.
    #[error("the web seed is at a private address")]
    Private,
    /// No URL of a web seed: never ask it.
    #[error("not the URL of a web seed")]
    BadUrl,
    /// No answer in time, or hardly anything of it: try again later.
    #[error("the web seed does not answer")]
    TimedOut,
    /// The connection ended early: try again later.
    #[error("the connection to the web seed was lost")]
    Lost,
    /// It could not prove who it is: never fall back to HTTP.
    #[error("the web seed's certificate is not valid")]
    Tls,
    /// No way to it.
    #[error("the web seed can't be reached")]
    Route(#[from] RouteError),
}

impl WebError {
    /// Whether asking the same URL again can never help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Private
            | Self::BadUrl
            | Self::Encoded
            | Self::Route(RouteError::Forbidden(_)) => true,
            Self::Missing
            | Self::NoRanges
            | Self::Malformed
            | Self::Status(_)
            | Self::Busy(_)
            | Self::Redirect
            | Self::TimedOut
            | Self::Lost
            | Self::Tls
            | Self::Route(_) => false,
        }
    }

    /// Whether only the file that was asked for can't be had, and others may.
    pub fn is_about_a_file(&self) -> bool {
        matches!(self, Self::Missing | Self::NoRanges)
    }
}

impl From<AnnounceError> for WebError {
    /// Of what the shared reader of URLs says.
    fn from(error: AnnounceError) -> Self {
        match error {
            AnnounceError::Private => Self::Private,
            AnnounceError::Redirect => Self::Redirect,
            AnnounceError::Tls => Self::Tls,
            AnnounceError::Lost => Self::Lost,
            AnnounceError::TimedOut => Self::TimedOut,
            AnnounceError::Route(error) => Self::Route(error),
            AnnounceError::Status(status) => Self::Status(status),
            AnnounceError::BadUrl | AnnounceError::UnsupportedScheme => Self::BadUrl,
            AnnounceError::Failure(_)
            | AnnounceError::Malformed
            | AnnounceError::NoScrape
            | AnnounceError::TooLarge => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests;
